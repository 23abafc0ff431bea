//! `sum` over integers widens, never wraps.
//!
//! DataFusion's `sum` adds 64-bit integers with wrapping; here integers are first cast to
//! `DECIMAL(20, 0)`, so their sum is a `DECIMAL(30, 0)`. Long decimals are added up in 256 bits
//! ([`super::large_sum`]). All else is DataFusion's own code.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
};

use super::large_sum::{Widened, wide_type};

/// `sum` with integer arguments widened to decimals.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct WideSum {
    inner: Sum,
    signature: Signature,
}

impl WideSum {
    pub(crate) fn new() -> Self {
        Self { inner: Sum::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for WideSum {
    fn name(&self) -> &str {
        "sum"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [argument] = arg_types else {
            return datafusion::common::plan_err!("sum takes one argument");
        };
        let coerced = match argument {
            DataType::Null => DataType::Float64,
            integer if integer.is_integer() => DataType::Decimal128(20, 0),
            float if float.is_floating() => DataType::Float64,
            DataType::Dictionary(_, value) => return self.coerce_types(&[value.as_ref().clone()]),
            same @ (DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Duration(_)
            | DataType::Interval(_)) => same.clone(),
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                DataType::Decimal128(*precision, *scale)
            }
            other => return datafusion::common::plan_err!("sum is not defined for {other}"),
        };
        Ok(vec![coerced])
    }
    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(wide) = wide_type(args.expr_fields[0].data_type()) else {
            return self.inner.accumulator(args);
        };
        let narrow = args.return_field.data_type().clone();
        let inner = self.inner.accumulator(widened(args, &wide))?;
        Ok(Box::new(Widened { wide, narrow, inner }))
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let Some(wide) = wide_type(args.input_fields[0].data_type()) else {
            return self.inner.state_fields(args);
        };
        let return_field = with_type(&args.return_field, &wide);
        self.inner.state_fields(StateFieldsArgs { return_field, ..args })
    }
    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }
    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let Some(wide) = wide_type(args.expr_fields[0].data_type()) else {
            return self.inner.create_groups_accumulator(args);
        };
        let narrow = args.return_field.data_type().clone();
        let inner = self.inner.create_groups_accumulator(widened(args, &wide))?;
        Ok(Box::new(Widened { wide, narrow, inner }))
    }
}

/// The same aggregate over the wide type.
fn widened<'a>(args: AccumulatorArgs<'a>, wide: &DataType) -> AccumulatorArgs<'a> {
    let return_field = with_type(&args.return_field, wide);
    AccumulatorArgs { return_field, ..args }
}

fn with_type(field: &FieldRef, data_type: &DataType) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(data_type.clone()))
}
