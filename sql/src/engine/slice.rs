//! One slice of event time: partial aggregates per key.
//!
//! Fresh rows go into DataFusion's `GroupsAccumulator`s ("live"). Reading their state consumes
//! them, so a slice that must be read is first *sealed*: the state becomes an immutable chunk of
//! Arrow columns, which can be merged into any number of windows and written to a checkpoint.
//!
//! **Invariant.** A slice's value is the merge of its chunks and its live part; sealing and
//! compacting never change it.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use tidemill_contract::Micros;

use super::keys::NONE;
use super::receipt::Provenance;
use crate::plan::Aggregate;

/// A chunk is merged with what follows it unless it has so many times the rows: a row is copied a
/// few times in its life, however often a slice is sealed, and there are few chunks.
const GROWTH: usize = 2;

/// Immutable partial aggregates: for each id the state columns of every aggregate.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) ids: UInt32Array,
    pub(crate) states: Vec<Vec<ArrayRef>>,
    bytes: usize,
    /// Its number as a part of the state, if it is one.
    pub(crate) part: Option<u64>,
}

impl Chunk {
    /// A chunk whose arrays own their memory.
    fn new(ids: UInt32Array, states: Vec<Vec<ArrayRef>>) -> Self {
        let arrays = states.iter().flatten().map(|array| array.get_array_memory_size());
        let bytes = arrays.sum::<usize>() + ids.get_array_memory_size();
        Self { ids, states, bytes, part: None }
    }

    /// A chunk whose arrays are parts of one message read back.
    pub(crate) fn restored(ids: UInt32Array, states: Vec<Vec<ArrayRef>>) -> Self {
        let own = |array: &dyn Array| array.to_data().get_slice_memory_size().unwrap_or(0);
        let arrays = states.iter().flatten().map(|array| own(array.as_ref()));
        let bytes = arrays.sum::<usize>() + own(&ids);
        Self { ids, states, bytes, part: None }
    }
}

/// Accumulators for a set of keys, numbered densely in order of first use.
pub(crate) struct Partials {
    /// Store id → index here, [`NONE`] if absent.
    local: Vec<u32>,
    ids: Vec<u32>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl fmt::Debug for Partials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partials").field("keys", &self.ids.len()).finish_non_exhaustive()
    }
}

impl Partials {
    pub(crate) fn new<'a>(aggregates: impl IntoIterator<Item = &'a Aggregate>) -> Result<Self> {
        let mut accumulators = Vec::new();
        for aggregate in aggregates {
            accumulators.push(accumulator(aggregate)?);
        }
        Ok(Self { local: Vec::new(), ids: Vec::new(), accumulators })
    }

    /// Bytes held.
    fn bytes(&self) -> usize {
        let accumulators = self.accumulators.iter().map(|accumulator| accumulator.size() + 64);
        accumulators.sum::<usize>() + 4 * (self.local.capacity() + self.ids.capacity())
    }

    fn indices(&mut self, ids: &[u32]) -> Vec<usize> {
        let mut indices = Vec::with_capacity(ids.len());
        for id in ids {
            let slot = *id as usize;
            if slot >= self.local.len() {
                self.local.resize(slot + 1, NONE);
            }
            if self.local[slot] == NONE {
                self.local[slot] = self.ids.len() as u32;
                self.ids.push(*id);
            }
            indices.push(self.local[slot] as usize);
        }
        indices
    }

    /// Adds rows: for each aggregate its argument columns and optional filter.
    pub(crate) fn update(
        &mut self,
        ids: &[u32],
        arguments: &[Vec<ArrayRef>],
        filters: &[Option<BooleanArray>],
    ) -> Result<()> {
        let indices = self.indices(ids);
        let keys = self.ids.len();
        for ((accumulator, values), filter) in
            self.accumulators.iter_mut().zip(arguments).zip(filters)
        {
            accumulator.update_batch(values, &indices, filter.as_ref(), keys)?;
        }
        Ok(())
    }

    /// Adds a chunk; `aggregates` says which of the chunk's aggregates the accumulators are.
    pub(crate) fn merge(&mut self, chunk: &Chunk, aggregates: &[usize]) -> Result<()> {
        self.merge_states(&chunk.ids, aggregates.iter().map(|index| &chunk.states[*index]))
    }

    /// Adds for each accumulator the state of these keys.
    pub(crate) fn merge_states<'a>(
        &mut self,
        ids: &UInt32Array,
        states: impl Iterator<Item = &'a Vec<ArrayRef>>,
    ) -> Result<()> {
        let indices = self.indices(ids.values());
        let keys = self.ids.len();
        for (accumulator, state) in self.accumulators.iter_mut().zip(states) {
            accumulator.merge_batch(state, &indices, keys)?;
        }
        Ok(())
    }

    /// The ids and final values; consumes the partials.
    pub(crate) fn finish(mut self) -> Result<(UInt32Array, Vec<ArrayRef>)> {
        let mut values = Vec::with_capacity(self.accumulators.len());
        for accumulator in &mut self.accumulators {
            values.push(accumulator.evaluate(EmitTo::All)?);
        }
        Ok((UInt32Array::from(self.ids), values))
    }

    /// The state as a chunk; consumes the partials.
    fn seal(mut self) -> Result<Chunk> {
        let mut states = Vec::with_capacity(self.accumulators.len());
        for accumulator in &mut self.accumulators {
            states.push(accumulator.state(EmitTo::All)?);
        }
        Ok(Chunk::new(UInt32Array::from(self.ids), states))
    }
}

fn accumulator(aggregate: &Aggregate) -> Result<Box<dyn GroupsAccumulator>> {
    let function = &aggregate.function;
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// One slice `[start, end)`; its start is its key in the store.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) end: Micros,
    pub(crate) live: Option<Partials>,
    pub(crate) chunks: Vec<Chunk>,
    /// Where its rows came from.
    pub(crate) from: Provenance,
}

impl Slice {
    pub(crate) fn new(end: Micros) -> Self {
        Self { end, live: None, chunks: Vec::new(), from: Provenance::default() }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.bytes).sum();
        chunks + self.live.as_ref().map_or(0, Partials::bytes) + size_of::<Self>()
    }

    /// Turns the live part into a chunk and keeps the number of chunks bounded.
    pub(crate) fn seal(&mut self, aggregates: &[Aggregate]) -> Result<()> {
        if let Some(live) = self.live.take() {
            self.chunks.push(live.seal()?);
        }
        let mut rows = self.chunks.last().map_or(0, |chunk| chunk.ids.len());
        let mut first = self.chunks.len().saturating_sub(1);
        while first > 0 && self.chunks[first - 1].ids.len() < GROWTH * rows {
            first -= 1;
            rows += self.chunks[first].ids.len();
        }
        self.merge_chunks(first, aggregates)
    }

    /// Turns everything into one chunk.
    pub(crate) fn seal_whole(&mut self, aggregates: &[Aggregate]) -> Result<()> {
        if let Some(live) = self.live.take() {
            self.chunks.push(live.seal()?);
        }
        self.merge_chunks(0, aggregates)
    }

    /// Is one chunk, or empty.
    pub(crate) fn is_whole(&self) -> bool {
        self.live.is_none() && self.chunks.len() <= 1
    }

    /// Makes one chunk of those from `first` on.
    fn merge_chunks(&mut self, first: usize, aggregates: &[Aggregate]) -> Result<()> {
        if first + 1 < self.chunks.len() {
            let all: Vec<usize> = (0..aggregates.len()).collect();
            let mut merged = Partials::new(aggregates)?;
            for chunk in self.chunks.drain(first..) {
                merged.merge(&chunk, &all)?;
            }
            self.chunks.push(merged.seal()?);
        }
        Ok(())
    }

    /// Renumbers all ids after the key store forgot dead keys. The slice must be sealed.
    pub(crate) fn renumber(&mut self, new_ids: &[u32]) {
        for chunk in &mut self.chunks {
            let ids = chunk.ids.values().iter().map(|id| new_ids[*id as usize]);
            chunk.ids = UInt32Array::from_iter_values(ids);
            chunk.part = None;
        }
    }
}
