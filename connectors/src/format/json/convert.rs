//! Columns of text to columns of the declared types, marking the rows that do not fit.
//!
//! A marked row keeps a placeholder value here and is filtered out by the caller, so one bad
//! value never stops a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericListArray, MapArray, OffsetSizeTrait, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use tidemill_contract::{Error, FaultClass, Result};

use super::EpochUnit;
use super::cells::cells;
use super::text::Misfit;

/// Longest value quoted in a reason.
const QUOTED_CHARS_MAX: usize = 40;

/// Why a row is not good.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) class: FaultClass,
    pub(super) reason: String,
}

impl Mark {
    /// The text of a column does not fit.
    pub(super) fn misfit(column: &str, value: &str, misfit: Misfit) -> Self {
        let Misfit { class, what } = misfit;
        let shown: String = value.chars().take(QUOTED_CHARS_MAX).collect();
        Self { class, reason: format!("column '{column}': {shown:?} {what}") }
    }

    /// A column that must have a value has none.
    pub(super) fn missing(column: &str) -> Self {
        let reason = format!("column '{column}' is NOT NULL and has no value");
        Self { class: FaultClass::Missing, reason }
    }
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
            marks.entry(row).or_insert_with(|| Mark::missing(field.name()));
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

/// Parses every text that is there; the nulls stay where they are.
fn scalar(
    array: &StringArray,
    target: &Target<'_>,
    marks: &mut Marks,
) -> Result<ArrayRef, ArrowError> {
    let Some(mut cells) = cells(target.data_type, target.epoch) else {
        return Err(ArrowError::NotYetImplemented(format!("{} from JSON", target.data_type)));
    };
    for (index, value) in array.iter().enumerate() {
        let Some(value) = value else {
            cells.push_null();
            continue;
        };
        if let Err(misfit) = cells.push(value) {
            let row = (target.row)(index);
            marks.entry(row).or_insert_with(|| Mark::misfit(target.name, value, misfit));
        }
    }
    cells.finish()
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
