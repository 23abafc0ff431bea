//! Columns of text to columns of the declared types, marking the rows that do not fit.
//!
//! A marked row keeps a placeholder value here and is filtered out by the caller, so one bad
//! value never stops a batch.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, GenericListArray, MapArray,
    OffsetSizeTrait, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;
use tidemill_contract::{Error, FaultClass, Result};

use super::text::Misfit;
use super::{EpochUnit, text};

/// Longest value quoted in a reason.
const QUOTED_CHARS_MAX: usize = 40;

/// Why a row is not good.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) class: FaultClass,
    pub(super) reason: String,
}

/// The first thing wrong with each bad row.
pub(super) type Marks = BTreeMap<usize, Mark>;

/// One column on its way: where it is and what to say about it.
struct Target<'a> {
    name: &'a str,
    data_type: &'a DataType,
    epoch: EpochUnit,
    /// Row of the batch that an element belongs to.
    row: &'a dyn Fn(usize) -> usize,
}

/// Converts one top-level column and checks its NOT NULL.
pub(super) fn column(
    array: &ArrayRef,
    field: &Field,
    epoch: EpochUnit,
    marks: &mut Marks,
) -> Result<ArrayRef> {
    let target =
        Target { name: field.name(), data_type: field.data_type(), epoch, row: &|index| index };
    let converted = convert(array, &target, marks)
        .map_err(|e| Error::internal(format!("column '{}': {e}", field.name())))?;
    if !field.is_nullable() && converted.null_count() > 0 {
        for row in (0..converted.len()).filter(|row| converted.is_null(*row)) {
            marks.entry(row).or_insert_with(|| Mark {
                class: FaultClass::Missing,
                reason: format!("column '{}' is NOT NULL and has no value", field.name()),
            });
        }
    }
    Ok(converted)
}

fn convert(
    array: &ArrayRef,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    match target.data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(Arc::clone(array)),
        DataType::List(item) => list::<i32>(array.as_list(), item, target, marks),
        DataType::LargeList(item) => list::<i64>(array.as_list(), item, target, marks),
        DataType::Struct(fields) => {
            Ok(Arc::new(structure(array.as_struct(), fields, target, marks)?))
        }
        DataType::Map(entries, sorted) => map(array.as_map(), entries, *sorted, target, marks),
        _ => scalar(array.as_string(), target, marks),
    }
}

fn scalar(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    Ok(match target.data_type {
        DataType::Boolean => boolean(array, target, marks),
        DataType::Int8 => integer::<Int8Type>(array, target, marks),
        DataType::Int16 => integer::<Int16Type>(array, target, marks),
        DataType::Int32 => integer::<Int32Type>(array, target, marks),
        DataType::Int64 => integer::<Int64Type>(array, target, marks),
        DataType::UInt8 => integer::<UInt8Type>(array, target, marks),
        DataType::UInt16 => integer::<UInt16Type>(array, target, marks),
        DataType::UInt32 => integer::<UInt32Type>(array, target, marks),
        DataType::UInt64 => integer::<UInt64Type>(array, target, marks),
        DataType::Float64 => primitive::<Float64Type>(array, target, marks, text::float),
        #[allow(clippy::cast_possible_truncation)]
        DataType::Float32 => primitive::<Float32Type>(array, target, marks, |value| {
            let narrow = text::float(value)? as f32;
            if narrow.is_finite() { Ok(narrow) } else { Err(text::OUT_OF_RANGE) }
        }),
        DataType::Decimal128(precision, scale) => {
            primitive::<Decimal128Type>(array, target, marks, |value| {
                text::decimal(value, *precision, *scale)
            })
        }
        DataType::Date32 => parsed::<Date32Type>(array, target, marks, "is not a date"),
        DataType::Time32(TimeUnit::Second) => {
            parsed::<Time32SecondType>(array, target, marks, "is not a time of day")
        }
        DataType::Time32(_) => {
            parsed::<Time32MillisecondType>(array, target, marks, "is not a time of day")
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            parsed::<Time64MicrosecondType>(array, target, marks, "is not a time of day")
        }
        DataType::Time64(_) => {
            parsed::<Time64NanosecondType>(array, target, marks, "is not a time of day")
        }
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => timestamp::<TimestampSecondType>(array, target, marks, *unit),
            TimeUnit::Millisecond => {
                timestamp::<TimestampMillisecondType>(array, target, marks, *unit)
            }
            TimeUnit::Microsecond => {
                timestamp::<TimestampMicrosecondType>(array, target, marks, *unit)
            }
            TimeUnit::Nanosecond => {
                timestamp::<TimestampNanosecondType>(array, target, marks, *unit)
            }
        },
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            binary(array, target, marks)?
        }
        other => return Err(ArrowError::NotYetImplemented(format!("{other} from JSON"))),
    })
}

fn mark(marks: &mut Marks, target: &Target<'_>, index: usize, value: &str, misfit: Misfit) {
    marks.entry((target.row)(index)).or_insert_with(|| {
        let Misfit { class, what } = misfit;
        let shown: String = value.chars().take(QUOTED_CHARS_MAX).collect();
        Mark { class, reason: format!("column '{}': {shown:?} {what}", target.name) }
    });
}

/// Parses every value that is there; the nulls stay where they are.
fn primitive<T: ArrowPrimitiveType>(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
    parse: impl Fn(&str) -> Result<T::Native, Misfit>,
) -> ArrayRef {
    let mut values = vec![T::Native::default(); array.len()];
    for (index, slot) in values.iter_mut().enumerate() {
        if array.is_null(index) {
            continue;
        }
        match parse(array.value(index)) {
            Ok(value) => *slot = value,
            Err(misfit) => mark(marks, target, index, array.value(index), misfit),
        }
    }
    let typed = PrimitiveArray::<T>::new(values.into(), array.nulls().cloned());
    Arc::new(typed.with_data_type(target.data_type.clone()))
}

fn integer<T>(array: &StringArray, target: &Target<'_>, marks: &mut Marks) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: FromStr + TryFrom<i64> + Display,
{
    primitive::<T>(array, target, marks, text::integer)
}

fn parsed<T: ArrowPrimitiveType + Parser>(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
    what: &'static str,
) -> ArrayRef {
    primitive::<T>(array, target, marks, |value| T::parse(value).ok_or(text::wrong(what)))
}

fn timestamp<T: ArrowPrimitiveType<Native = i64>>(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
    unit: TimeUnit,
) -> ArrayRef {
    primitive::<T>(array, target, marks, |value| text::timestamp(value, unit, target.epoch))
}

fn boolean(array: &StringArray, target: &Target<'_>, marks: &mut Marks) -> ArrayRef {
    let values = BooleanBuffer::collect_bool(array.len(), |index| {
        if array.is_null(index) {
            return false;
        }
        text::boolean(array.value(index)).unwrap_or_else(|misfit| {
            mark(marks, target, index, array.value(index), misfit);
            false
        })
    });
    Arc::new(BooleanArray::new(values, array.nulls().cloned()))
}

fn binary(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    let mut builder = BinaryBuilder::with_capacity(array.len(), array.value_data().len());
    for index in 0..array.len() {
        if array.is_null(index) {
            builder.append_null();
            continue;
        }
        builder.append_value(text::binary(array.value(index)).unwrap_or_else(|misfit| {
            mark(marks, target, index, array.value(index), misfit);
            Vec::new()
        }));
    }
    arrow::compute::cast(&builder.finish(), target.data_type)
}

fn list<O: OffsetSizeTrait>(
    array: &GenericListArray<O>,
    item: &FieldRef,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    let offsets = array.offsets();
    let row = |index: usize| (target.row)(owner(offsets, index));
    let inner =
        Target { name: target.name, data_type: item.data_type(), epoch: target.epoch, row: &row };
    let values = convert(array.values(), &inner, marks)?;
    let nulls = array.nulls().cloned();
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets.clone(), values, nulls)?))
}

fn structure(
    array: &StructArray,
    fields: &Fields,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<StructArray, ArrowError> {
    let mut columns = Vec::with_capacity(fields.len());
    for (field, column) in fields.iter().zip(array.columns()) {
        let inner = Target {
            name: target.name,
            data_type: field.data_type(),
            epoch: target.epoch,
            row: target.row,
        };
        columns.push(convert(column, &inner, marks)?);
    }
    if columns.is_empty() {
        return Ok(StructArray::new_empty_fields(array.len(), array.nulls().cloned()));
    }
    StructArray::try_new(fields.clone(), columns, array.nulls().cloned())
}

fn map(
    array: &MapArray,
    entries: &FieldRef,
    sorted: bool,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(ArrowError::SchemaError("map entries must be a struct".to_owned()));
    };
    let offsets = array.offsets();
    let row = |index: usize| (target.row)(owner(offsets, index));
    let inner = Target {
        name: target.name,
        data_type: entries.data_type(),
        epoch: target.epoch,
        row: &row,
    };
    let values = structure(array.entries(), fields, &inner, marks)?;
    let nulls = array.nulls().cloned();
    let entries = Arc::clone(entries);
    Ok(Arc::new(MapArray::try_new(entries, offsets.clone(), values, nulls, sorted)?))
}

/// The list an element belongs to: the last one that begins at or before it.
fn owner<O: OffsetSizeTrait>(offsets: &[O], index: usize) -> usize {
    offsets.partition_point(|offset| offset.as_usize() <= index).saturating_sub(1)
}
