//! Functions whose result can be far larger than their arguments, bounded before they allocate.
//!
//! A call over one batch may give [`CALL_BYTES`]; one over constants alone [`CONSTANT_BYTES`],
//! because a constant is repeated for every row. What would be larger is an error, never an abort.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{cast, concat};
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};
use tidemill_contract::Error;

/// Most bytes one call may give for one batch.
const CALL_BYTES: u64 = 32 << 20;
/// Most bytes a call over constants may give.
const CONSTANT_BYTES: u64 = 64 << 10;

/// An upper bound of the bytes of a result.
type Estimate = fn(&[ColumnarValue], usize) -> u64;

/// The functions that are bounded.
const BOUNDED: &[(&str, Estimate)] = &[
    ("repeat", repeated),
    ("lpad", padded),
    ("rpad", padded),
    ("replace", replaced),
    ("regexp_replace", regexp_replaced),
    ("concat", total),
    ("concat_ws", joined),
    ("array_to_string", joined_list),
    ("array_concat", total),
    ("array_append", total),
    ("array_prepend", total),
    ("make_array", total),
    ("map", total),
    ("struct", total),
    ("named_struct", total),
];

/// The function, bounded if it needs to be.
pub(super) fn bound(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match BOUNDED.iter().find(|(name, _)| *name == function.name()) {
        Some((_, estimate)) => {
            Arc::new(ScalarUDF::from(Bounded { inner: function, estimate: *estimate }))
        }
        None => function,
    }
}

/// A function with a bound on its result; all else is the function's own.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    estimate: Estimate,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }
    /// The function's own rewrites would name the unbounded function: left out.
    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Original(args))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) {
            let bytes = (self.estimate)(&args.args, 1);
            if bytes > CONSTANT_BYTES {
                return Err(too_much(self.name(), CONSTANT_BYTES));
            }
            return self.inner.invoke_with_args(args);
        }
        let mut left = CALL_BYTES;
        let mut pieces = Vec::new();
        self.invoke_within(args, &mut left, &mut pieces)?;
        let whole = match pieces.as_slice() {
            [one] => Arc::clone(one),
            _ => {
                let parts: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
                concat(&parts)?
            }
        };
        Ok(ColumnarValue::Array(whole))
    }
}

impl Bounded {
    /// Evaluates in pieces small enough that none can take more than what is left.
    fn invoke_within(
        &self,
        args: ScalarFunctionArgs,
        left: &mut u64,
        pieces: &mut Vec<ArrayRef>,
    ) -> Result<()> {
        let rows = args.number_rows;
        if (self.estimate)(&args.args, rows) <= *left {
            let piece = self.inner.invoke_with_args(args)?.into_array(rows)?;
            *left = left.saturating_sub(piece.get_buffer_memory_size() as u64);
            pieces.push(piece);
            return Ok(());
        }
        if rows <= 1 {
            return Err(too_much(self.name(), CALL_BYTES));
        }
        for (start, length) in [(0, rows / 2), (rows / 2, rows - rows / 2)] {
            let mut part = args.clone();
            part.number_rows = length;
            for arg in &mut part.args {
                if let ColumnarValue::Array(array) = arg {
                    *arg = ColumnarValue::Array(array.slice(start, length));
                }
            }
            self.invoke_within(part, left, pieces)?;
        }
        Ok(())
    }
}

/// Fails if a call over a batch would give more than it may.
pub(super) fn check(name: &str, bytes: u64) -> Result<()> {
    if bytes <= CALL_BYTES { Ok(()) } else { Err(too_much(name, CALL_BYTES)) }
}

/// The result of a call: one value if all arguments were constants.
pub(super) fn scalar_if(all_scalar: bool, array: ArrayRef) -> Result<ColumnarValue> {
    if !all_scalar {
        return Ok(ColumnarValue::Array(array));
    }
    Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
}

fn too_much(name: &str, most: u64) -> DataFusionError {
    let error = Error::invalid("TM228", format!("{name} would give too much"))
        .because(format!("one call may give {most} bytes for a batch of rows"))
        .help("make its arguments smaller");
    DataFusionError::External(Box::new(error))
}

/// Bytes of all arguments together, constants once per row.
pub(super) fn total(args: &[ColumnarValue], rows: usize) -> u64 {
    let bytes = args.iter().map(|arg| match arg {
        ColumnarValue::Array(array) => bytes_of(array),
        ColumnarValue::Scalar(value) => (value.size() as u64).saturating_mul(rows as u64),
    });
    bytes.fold(0, u64::saturating_add)
}

/// Bytes of an array's own values: a slice does not count what it shares with others.
fn bytes_of(array: &ArrayRef) -> u64 {
    array.to_data().get_slice_memory_size().unwrap_or(usize::MAX) as u64
}

fn repeated(args: &[ColumnarValue], rows: usize) -> u64 {
    let [text, count] = args else { return 0 };
    let each = lengths(text, rows).into_iter().zip(integers(count, rows));
    each.map(|(length, count)| length.saturating_mul(count)).fold(0, u64::saturating_add)
}

fn padded(args: &[ColumnarValue], rows: usize) -> u64 {
    let Some(width) = args.get(1) else { return 0 };
    // Four bytes a character at most.
    let widths = integers(width, rows).into_iter().map(|width| width.saturating_mul(4));
    widths.fold(0, u64::saturating_add)
}

fn replaced(args: &[ColumnarValue], rows: usize) -> u64 {
    let [text, from, to] = args else { return 0 };
    let each = lengths(text, rows).into_iter().zip(lengths(from, rows)).zip(lengths(to, rows));
    each.map(|((text, from), to)| {
        let matches = text.checked_div(from).unwrap_or(text + 1);
        matches.saturating_mul(to).saturating_add(text)
    })
    .fold(0, u64::saturating_add)
}

fn regexp_replaced(args: &[ColumnarValue], rows: usize) -> u64 {
    let (Some(text), Some(to)) = (args.first(), args.get(2)) else { return 0 };
    let each = lengths(text, rows).into_iter().zip(lengths(to, rows));
    // A match may be empty, and a reference in the replacement stands for the whole match.
    each.map(|(text, to)| (text + 1).saturating_mul(to + 1).saturating_mul(2))
        .fold(0, u64::saturating_add)
}

fn joined(args: &[ColumnarValue], rows: usize) -> u64 {
    let Some(separator) = args.first() else { return 0 };
    let between = lengths(separator, rows).into_iter().fold(0, u64::saturating_add);
    total(args, rows).saturating_add(between.saturating_mul(args.len() as u64))
}

fn joined_list(args: &[ColumnarValue], rows: usize) -> u64 {
    let Some(separator) = args.get(1) else { return 0 };
    let longest = lengths(separator, rows).into_iter().max().unwrap_or(0);
    // A number of one byte becomes at most four letters; each may be followed by the separator.
    total(args, rows).saturating_mul(longest.saturating_add(4))
}

/// Length in bytes of each text; 0 for what is not there, 32 for what is not a text.
fn lengths(arg: &ColumnarValue, rows: usize) -> Vec<u64> {
    match arg {
        ColumnarValue::Scalar(value) => {
            let length = match value.try_as_str() {
                Some(text) => text.map_or(0, str::len),
                None => 32,
            };
            vec![length as u64; rows]
        }
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().iter().map(length).collect(),
            DataType::LargeUtf8 => array.as_string::<i64>().iter().map(length).collect(),
            DataType::Utf8View => array.as_string_view().iter().map(length).collect(),
            _ => vec![32; rows],
        },
    }
}

fn length(text: Option<&str>) -> u64 {
    text.map_or(0, str::len) as u64
}

/// Each value, 0 for what is negative or not there.
fn integers(arg: &ColumnarValue, rows: usize) -> Vec<u64> {
    let values = arg.to_array(rows).and_then(|array| Ok(cast(&array, &DataType::Int64)?));
    match values {
        Ok(values) => {
            let values = values.as_primitive::<Int64Type>();
            values.iter().map(|value| u64::try_from(value.unwrap_or(0)).unwrap_or(0)).collect()
        }
        Err(_) => vec![u64::MAX; rows],
    }
}
