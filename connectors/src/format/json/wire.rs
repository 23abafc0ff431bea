//! The type a column has on the wire: text for every scalar, the same shape for nested types.
//!
//! Text keeps a number as it was written, so the parser that knows the declared type decides.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};

/// The wire type of a declared type, `None` if JSON cannot carry it.
pub(super) fn data_type(declared: &DataType) -> Option<DataType> {
    Some(match declared {
        DataType::LargeUtf8 | DataType::Utf8View => declared.clone(),
        DataType::Utf8
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, _)
        | DataType::Date32
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => DataType::Utf8,
        DataType::List(item) => DataType::List(field(item)?),
        DataType::LargeList(item) => DataType::LargeList(field(item)?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(field).collect::<Option<Vec<FieldRef>>>()?.into())
        }
        DataType::Map(entries, sorted) => DataType::Map(field(entries)?, *sorted),
        _ => return None,
    })
}

fn field(declared: &FieldRef) -> Option<FieldRef> {
    let wire: Field = declared.as_ref().clone().with_data_type(data_type(declared.data_type())?);
    Some(Arc::new(wire))
}
