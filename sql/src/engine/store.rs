//! The slice store: keys and slices of one (source, filter, keys) group, shared by every query of
//! the group whatever its window and aggregates.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use tidemill_contract::{Micros, WindowBounds};

use super::keys::KeyStore;
use super::receipt::Provenance;
use super::running::Running;
use super::slice::{Partials, Slice};
use crate::plan::Aggregate;

/// Keys below this number are never worth forgetting.
const KEYS_MIN: usize = 8_192;

#[derive(Debug)]
pub(crate) struct SliceStore {
    /// The union of the queries' aggregates.
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) keys: KeyStore,
    pub(crate) slices: BTreeMap<Micros, Slice>,
    /// Live keys when they were last counted.
    live_keys: usize,
    /// For each declaration of an overlapping window its running merge.
    pub(super) running: Vec<(String, Running)>,
}

/// Rows of one batch, ready to be added: evaluated once for all slices.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) ids: Vec<u32>,
    pub(crate) arguments: Vec<Vec<ArrayRef>>,
    pub(crate) filters: Vec<Option<BooleanArray>>,
}

impl Prepared {
    fn take(&self, rows: &UInt32Array) -> Result<Self> {
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for columns in &self.arguments {
            let taken: Result<Vec<ArrayRef>> =
                columns.iter().map(|column| Ok(take(column, rows, None)?)).collect();
            arguments.push(taken?);
        }
        let mut filters = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            filters.push(match filter {
                None => None,
                Some(mask) => Some(BooleanArray::from(take(mask, rows, None)?.to_data())),
            });
        }
        let ids = rows.values().iter().map(|row| self.ids[*row as usize]).collect();
        Ok(Self { ids, arguments, filters })
    }
}

impl SliceStore {
    pub(crate) fn new(key_schema: SchemaRef) -> Result<Self> {
        Ok(Self {
            aggregates: Vec::new(),
            keys: KeyStore::new(key_schema)?,
            slices: BTreeMap::new(),
            live_keys: 0,
            running: Vec::new(),
        })
    }

    /// Index of an aggregate in the store, added if it is new.
    pub(crate) fn aggregate_index(&mut self, aggregate: &Aggregate) -> usize {
        let known = self.aggregates.iter().position(|other| other.text == aggregate.text);
        known.unwrap_or_else(|| {
            self.aggregates.push(aggregate.clone());
            self.aggregates.len() - 1
        })
    }

    /// Adds rows to the slice `[start, end)`: all prepared rows, or those listed.
    pub(crate) fn add(
        &mut self,
        (start, end): (Micros, Micros),
        prepared: &Prepared,
        rows: Option<&UInt32Array>,
    ) -> Result<()> {
        let slice = self.slices.entry(start).or_insert_with(|| Slice::new(end));
        if slice.live.is_none() {
            slice.live = Some(Partials::new(&self.aggregates)?);
        }
        let Some(live) = &mut slice.live else { return Ok(()) };
        match rows {
            None => live.update(&prepared.ids, &prepared.arguments, &prepared.filters),
            Some(rows) => {
                let part = prepared.take(rows)?;
                live.update(&part.ids, &part.arguments, &part.filters)
            }
        }
    }

    /// Notes where rows that were added to a slice came from.
    pub(crate) fn note(&mut self, start: Micros, from: &Provenance) {
        if let Some(slice) = self.slices.get_mut(&start) {
            slice.from.merge(from);
        }
    }

    /// Bytes held by keys, slices and running merges.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.slice_bytes() + self.running_bytes()
    }

    pub(super) fn slice_bytes(&self) -> usize {
        self.slices.values().map(Slice::bytes).sum()
    }

    pub(super) fn running_bytes(&self) -> usize {
        self.running.iter().map(|(_, running)| running.bytes()).sum()
    }

    /// Bytes held by the slices of a window.
    pub(crate) fn bytes_within(&self, window: WindowBounds) -> usize {
        self.slices.range(window.start..window.end).map(|(_, slice)| slice.bytes()).sum()
    }

    /// Drops the oldest slices, those for which `dead` is true; forgets keys when most of them are
    /// dead.
    pub(crate) fn drop_slices(&mut self, dead: impl Fn(Micros) -> bool) -> Result<()> {
        let before = self.slices.len();
        while let Some(oldest) = self.slices.first_entry().filter(|slice| dead(*slice.key())) {
            let (start, slice) = oldest.remove_entry();
            self.leave_running(start, &slice)?;
        }
        let worth = self.keys.len() > KEYS_MIN && self.keys.len() > 2 * self.live_keys;
        if self.slices.len() < before && worth {
            self.forget_dead_keys()?;
        }
        Ok(())
    }

    fn forget_dead_keys(&mut self) -> Result<()> {
        self.seal()?;
        let mut used = vec![false; self.keys.len()];
        for chunk in self.slices.values().flat_map(|slice| &slice.chunks) {
            for id in chunk.ids.values() {
                used[*id as usize] = true;
            }
        }
        let live: Vec<u32> = (0..used.len() as u32).filter(|id| used[*id as usize]).collect();
        self.live_keys = live.len().max(KEYS_MIN / 2);
        if live.len() * 2 > used.len() {
            return Ok(());
        }
        self.running.iter_mut().for_each(|(_, running)| running.clear());
        let renumbered = self.keys.retain(&UInt32Array::from(live))?;
        for slice in self.slices.values_mut() {
            slice.renumber(&renumbered);
        }
        Ok(())
    }
}
