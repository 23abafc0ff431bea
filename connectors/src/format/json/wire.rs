//! The type a column has on the wire: text for every scalar, the same shape for nested types.
//!
//! Text keeps a number as it was written, so the parser that knows the declared type decides.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};

use super::EpochUnit;
use super::cells::cells;

/// The wire type of a declared type, `None` if JSON cannot carry it.
pub(super) fn data_type(declared: &DataType) -> Option<DataType> {
    Some(match declared {
        DataType::LargeUtf8 | DataType::Utf8View => declared.clone(),
        DataType::List(item) => DataType::List(field(item)?),
        DataType::LargeList(item) => DataType::LargeList(field(item)?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(field).collect::<Option<Vec<FieldRef>>>()?.into())
        }
        DataType::Map(entries, sorted) => DataType::Map(field(entries)?, *sorted),
        // What a column of cells reads; the unit makes no difference to that.
        scalar if cells(scalar, EpochUnit::Millis).is_some() => DataType::Utf8,
        _ => return None,
    })
}

fn field(declared: &FieldRef) -> Option<FieldRef> {
    let wire: Field = declared.as_ref().clone().with_data_type(data_type(declared.data_type())?);
    Some(Arc::new(wire))
}
