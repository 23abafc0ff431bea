//! Sums of decimals so long that 128 bits could overflow: added up in 256 bits, and an error if
//! the result does not fit `DECIMAL(38, s)`. DataFusion's own accumulators would wrap.
//!
//! State written before this was there has 128 bits; it is widened when it is read.

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

/// Digits from which on ten thousand million values could overflow 128 bits.
const DIGITS_SAFE: u8 = 28;
/// Digits of a 256-bit decimal.
const DIGITS_WIDE: u8 = 76;

/// The type a sum with this argument is added up in, if its own is too narrow.
pub(super) fn wide_type(argument: &DataType) -> Option<DataType> {
    match argument {
        DataType::Decimal128(digits, scale) if *digits > DIGITS_SAFE => {
            Some(DataType::Decimal256(DIGITS_WIDE, *scale))
        }
        _ => None,
    }
}

/// An accumulator over the wide type whose result is of the narrow one.
#[derive(Debug)]
pub(super) struct Widened<A: ?Sized> {
    pub(super) wide: DataType,
    pub(super) narrow: DataType,
    pub(super) inner: Box<A>,
}

impl<A: ?Sized> Widened<A> {
    fn widen(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        values.iter().map(|array| widen(array, &self.wide)).collect()
    }

    fn narrow(&self, array: &dyn Array) -> Result<ArrayRef> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        Ok(cast_with_options(array, &self.narrow, &strict)?)
    }
}

fn widen(array: &ArrayRef, wide: &DataType) -> Result<ArrayRef> {
    // The state of a distinct sum is a list; it is as wide as it was made.
    match array.data_type() {
        DataType::Decimal128(..) => Ok(cast(array, wide)?),
        _ => Ok(ArrayRef::clone(array)),
    }
}

impl GroupsAccumulator for Widened<dyn GroupsAccumulator> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.update_batch(&values, group_indices, filter, total)
    }
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.inner.evaluate(emit_to)?;
        self.narrow(&sums)
    }
    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }
    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total: usize,
    ) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.merge_batch(&values, group_indices, total)
    }
    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&self.widen(values)?, filter)
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
}

impl Accumulator for Widened<dyn Accumulator> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.update_batch(&values)
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&self.narrow(&sum)?, 0)
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = self.widen(states)?;
        self.inner.merge_batch(&states)
    }
}
