//! The key store of a group: every distinct key once, with a dense id that all slices share.
//!
//! **Invariants.** Ids are `0..len`; the stored columns have `len` rows and row `i` is key `i`.
//! `GroupValues` may number new keys in any order, so the first row of each new id is looked up.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use datafusion::arrow::compute::{concat, take};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

/// No id.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) struct KeyStore {
    schema: SchemaRef,
    /// `None` for a group without keys: the one id 0.
    values: Option<Box<dyn GroupValues>>,
    /// Key columns in pieces, joined when read.
    pieces: Vec<Vec<ArrayRef>>,
    /// Bytes of the pieces.
    piece_bytes: usize,
    /// Runs of keys, from key 0 on, that are parts of the state: end and number of each.
    pub(crate) runs: Vec<(usize, u64)>,
    scratch: Vec<usize>,
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyStore").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl KeyStore {
    pub(crate) fn new(schema: SchemaRef) -> Result<Self> {
        let values = if schema.fields().is_empty() {
            None
        } else {
            Some(new_group_values(Arc::clone(&schema), &GroupOrdering::None)?)
        };
        let (pieces, runs, scratch) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { schema, values, pieces, piece_bytes: 0, runs, scratch })
    }

    pub(crate) fn len(&self) -> usize {
        self.values.as_ref().map_or(1, |values| values.len())
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let scratch = self.scratch.capacity() * size_of::<usize>();
        self.values.as_ref().map_or(0, |values| values.size()) + self.piece_bytes + scratch
    }

    /// The id of each row's key; unseen keys get new ids.
    pub(crate) fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let Some(values) = &mut self.values else {
            return Ok(vec![0; rows]);
        };
        let known = values.len();
        self.scratch.clear();
        values.intern(columns, &mut self.scratch)?;
        let added = values.len() - known;
        if added > 0 {
            let mut first_row = vec![NONE; added];
            for (row, id) in self.scratch.iter().enumerate() {
                if *id >= known && first_row[*id - known] == NONE {
                    first_row[*id - known] = row as u32;
                }
            }
            // Keys read back are all new and in order: nothing to pick out.
            let is_whole = added == rows && first_row.iter().zip(0..).all(|(row, at)| *row == at);
            let piece: Result<Vec<ArrayRef>> = if is_whole {
                Ok(columns.to_vec())
            } else {
                let first_row = UInt32Array::from(first_row);
                columns.iter().map(|column| Ok(take(column, &first_row, None)?)).collect()
            };
            let piece = piece?;
            self.piece_bytes += bytes_of(&piece);
            self.pieces.push(piece);
        }
        Ok(self.scratch.iter().map(|id| *id as u32).collect())
    }

    /// All key columns, row `i` being key `i`.
    pub(crate) fn columns(&mut self) -> Result<Vec<ArrayRef>> {
        match self.pieces.as_slice() {
            [] => Ok(self
                .schema
                .fields()
                .iter()
                .map(|field| new_empty_array(field.data_type()))
                .collect()),
            [one] => Ok(one.clone()),
            pieces => {
                let mut joined = Vec::with_capacity(self.schema.fields().len());
                for column in 0..self.schema.fields().len() {
                    let parts: Vec<&dyn Array> =
                        pieces.iter().map(|piece| piece[column].as_ref()).collect();
                    joined.push(concat(&parts)?);
                }
                self.piece_bytes = bytes_of(&joined);
                self.pieces = vec![joined.clone()];
                Ok(joined)
            }
        }
    }

    /// The keys with the given ids.
    pub(crate) fn take(&mut self, ids: &UInt32Array) -> Result<Vec<ArrayRef>> {
        self.columns()?.iter().map(|column| Ok(take(column, ids, None)?)).collect()
    }

    /// Forgets all keys but those given and returns for each old id its new one (or [`NONE`]).
    pub(crate) fn retain(&mut self, live: &UInt32Array) -> Result<Vec<u32>> {
        let mut renumbered = vec![NONE; self.len()];
        if self.values.is_none() {
            return Ok(vec![0]);
        }
        let kept = self.take(live)?;
        *self = Self::new(Arc::clone(&self.schema))?;
        let ids = self.intern(&kept, live.len())?;
        for (old, new) in live.values().iter().zip(ids) {
            renumbered[*old as usize] = new;
        }
        Ok(renumbered)
    }
}

fn bytes_of(columns: &[ArrayRef]) -> usize {
    columns.iter().map(|column| column.get_array_memory_size()).sum()
}
