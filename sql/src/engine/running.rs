//! The running merge of an overlapping window: moved on by adding the slices that come in and taking
//! out those that go, instead of merging all of them again at every slide.
//!
//! Only for aggregates whose state is exact numbers that are added up (count, sum and avg of
//! integers and decimals): there taking out is the inverse of adding in ("subtract-on-evict",
//! Tangwongsan et al., "Low-latency sliding-window aggregation", DEBS 2017). Never for floats, whose
//! sums depend on the order, nor for min and max, which cannot be taken out.
//!
//! **Invariant.** A running merge holds exactly the chunks of the slices in its range, each of which
//! has one chunk (see [`super::store`]); a slice's live part is not in it.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray, UInt32Array,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Int64Type, UInt64Type,
};
use datafusion::common::{DataFusionError, Result};
use tidemill_contract::{Micros, WindowBounds};

use super::slice::Chunk;
use crate::plan::Aggregate;

/// Aggregates whose states are added up.
const ADDITIVE: &[&str] = &["count", "sum", "avg"];

/// The columns that hold the state of an aggregate, if it can be taken out again.
pub(crate) fn totals(aggregate: &Aggregate) -> Result<Option<Vec<Box<dyn Total>>>> {
    let function = &aggregate.function;
    if function.is_distinct() || !ADDITIVE.contains(&function.fun().name()) {
        return Ok(None);
    }
    let fields = function.state_fields()?;
    Ok(fields.iter().map(|field| total(field.data_type())).collect())
}

fn total(data_type: &DataType) -> Option<Box<dyn Total>> {
    match data_type {
        DataType::Int64 => Some(Sums::<Int64Type>::boxed(data_type)),
        DataType::UInt64 => Some(Sums::<UInt64Type>::boxed(data_type)),
        DataType::Decimal128(..) => Some(Sums::<Decimal128Type>::boxed(data_type)),
        DataType::Decimal256(..) => Some(Sums::<Decimal256Type>::boxed(data_type)),
        _ => None,
    }
}

/// Whether a chunk comes in or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// One state column of all keys, by key id.
pub(crate) trait Total: Debug + Send + Sync {
    /// Makes room for keys up to `keys`.
    fn grow(&mut self, keys: usize);
    fn add(&mut self, ids: &[u32], column: &ArrayRef) -> Result<()>;
    fn take_out(&mut self, ids: &[u32], column: &ArrayRef) -> Result<()>;
    /// The column for some keys; `present` says of each key in how many slices it is.
    fn of(&self, ids: &[u32], present: &[u32]) -> ArrayRef;
    /// Forgets all keys.
    fn clear(&mut self);
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Sums<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    /// In how many slices the key has no value; empty as long as every key always had one.
    nulls: Vec<u32>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Sums<T> {
    fn boxed(data_type: &DataType) -> Box<dyn Total>
    where
        T: Debug,
    {
        Box::new(Self { values: Vec::new(), nulls: Vec::new(), data_type: data_type.clone() })
    }

    fn each(
        &mut self,
        ids: &[u32],
        column: &ArrayRef,
        change: impl Fn(T::Native, T::Native) -> T::Native,
        count: impl Fn(u32) -> u32,
    ) -> Result<()> {
        let wrong = || DataFusionError::Internal("the state has another type".into());
        let column = column.as_primitive_opt::<T>().ok_or_else(wrong)?;
        if column.null_count() == 0 {
            for (id, value) in ids.iter().zip(column.values()) {
                let sum = &mut self.values[*id as usize];
                *sum = change(*sum, *value);
            }
            return Ok(());
        }
        self.nulls.resize(self.values.len(), 0);
        for (row, id) in ids.iter().enumerate() {
            let id = *id as usize;
            if column.is_null(row) {
                self.nulls[id] = count(self.nulls[id]);
            } else {
                self.values[id] = change(self.values[id], column.value(row));
            }
        }
        Ok(())
    }
}

impl<T: ArrowPrimitiveType + Debug> Total for Sums<T> {
    fn grow(&mut self, keys: usize) {
        self.values.resize(keys.max(self.values.len()), T::Native::ZERO);
        if !self.nulls.is_empty() {
            self.nulls.resize(self.values.len(), 0);
        }
    }

    // Wrapping: what wraps on the way in wraps back on the way out, and a window's own sum fits.
    fn add(&mut self, ids: &[u32], column: &ArrayRef) -> Result<()> {
        self.each(ids, column, |sum, value| sum.add_wrapping(value), |count| count + 1)
    }

    fn take_out(&mut self, ids: &[u32], column: &ArrayRef) -> Result<()> {
        self.each(ids, column, |sum, value| sum.sub_wrapping(value), |count| count - 1)
    }

    fn of(&self, ids: &[u32], present: &[u32]) -> ArrayRef {
        let values: Vec<T::Native> = ids.iter().map(|id| self.values[*id as usize]).collect();
        let is_valid = |id: &u32| present[*id as usize] > self.nulls[*id as usize];
        let nulls =
            (!self.nulls.is_empty()).then(|| NullBuffer::from_iter(ids.iter().map(is_valid)));
        let array = PrimitiveArray::<T>::new(values.into(), nulls);
        Arc::new(array.with_data_type(self.data_type.clone()))
    }

    fn clear(&mut self) {
        (self.values, self.nulls) = (Vec::new(), Vec::new());
    }

    fn bytes(&self) -> usize {
        size_of::<T::Native>() * self.values.capacity() + 4 * self.nulls.capacity()
    }
}

/// The running merge of one window declaration.
#[derive(Debug)]
pub(crate) struct Running {
    /// Slices that begin here or later and before `end` are in it.
    start: Micros,
    end: Micros,
    /// In how many of the slices each key is.
    present: Vec<u32>,
    /// Of each aggregate that is kept its index in the store and its state.
    kept: Vec<(usize, Vec<Box<dyn Total>>)>,
}

impl Default for Running {
    fn default() -> Self {
        let (start, end) = (Micros::MIN, Micros::MIN);
        Self { start, end, present: Vec::new(), kept: Vec::new() }
    }
}

impl Running {
    /// Keeps an aggregate of the store too, if its state can be taken out again.
    pub(crate) fn keep(&mut self, index: usize, aggregate: &Aggregate) -> Result<()> {
        if !self.keeps(index)
            && let Some(totals) = totals(aggregate)?
        {
            self.kept.push((index, totals));
        }
        Ok(())
    }

    /// It keeps this aggregate.
    pub(crate) fn keeps(&self, index: usize) -> bool {
        self.kept.iter().any(|(own, _)| *own == index)
    }

    /// It keeps no aggregate.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The slice that begins there is in it.
    pub(crate) fn covers(&self, slice: Micros) -> bool {
        self.start <= slice && slice < self.end
    }

    /// Where it ends; before any window, nothing is in it.
    pub(crate) fn range(&self) -> (Micros, Micros) {
        (self.start, self.end)
    }

    /// The window is the one it holds or a later one.
    pub(crate) fn reaches(&self, window: WindowBounds) -> bool {
        window.start >= self.start && window.end >= self.end
    }

    /// It holds the slices of this window from now on: all others were taken out or not yet added.
    pub(crate) fn moved_to(&mut self, window: WindowBounds) {
        (self.start, self.end) = (window.start, window.end);
    }

    /// Slices that begin before this were taken out.
    pub(crate) fn starts_at(&mut self, start: Micros) {
        self.start = start.min(self.end);
    }

    /// Holds nothing any more.
    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (Micros::MIN, Micros::MIN);
        self.present = Vec::new();
        for total in self.kept.iter_mut().flat_map(|(_, totals)| totals) {
            total.clear();
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let totals = self.kept.iter().flat_map(|(_, totals)| totals);
        totals.map(|total| total.bytes()).sum::<usize>() + 4 * self.present.capacity()
    }

    /// Adds the one chunk of a slice.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<()> {
        self.change(chunk, Way::In)
    }

    /// Takes the one chunk of a slice out.
    pub(crate) fn take_out(&mut self, chunk: &Chunk) -> Result<()> {
        self.change(chunk, Way::Out)
    }

    fn change(&mut self, chunk: &Chunk, way: Way) -> Result<()> {
        let ids = chunk.ids.values();
        let keys = ids.iter().max().map_or(0, |id| *id as usize + 1).max(self.present.len());
        self.present.resize(keys, 0);
        for id in ids {
            let count = &mut self.present[*id as usize];
            *count = if way == Way::In { *count + 1 } else { *count - 1 };
        }
        for (index, totals) in &mut self.kept {
            for (total, column) in totals.iter_mut().zip(&chunk.states[*index]) {
                total.grow(keys);
                match way {
                    Way::In => total.add(ids, column)?,
                    Way::Out => total.take_out(ids, column)?,
                }
            }
        }
        Ok(())
    }

    /// The keys that are in it.
    pub(crate) fn ids(&self) -> UInt32Array {
        let present = self.present.iter().zip(0_u32..).filter(|(count, _)| **count > 0);
        UInt32Array::from_iter_values(present.map(|(_, id)| id))
    }

    /// The state of an aggregate that it keeps, for these keys.
    pub(crate) fn state(&self, index: usize, ids: &UInt32Array) -> Option<Vec<ArrayRef>> {
        let (_, totals) = self.kept.iter().find(|(own, _)| *own == index)?;
        Some(totals.iter().map(|total| total.of(ids.values(), &self.present)).collect())
    }
}
