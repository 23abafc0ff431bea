//! Metadata columns: fields of the log record as columns of the declared type.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    StringBuilder, TimestampMillisecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use tidemill_contract::{Error, MetadataColumn, RawBatch, RecordView, Result};

/// The column of one metadata field for the rows whose records are given.
pub(super) fn metadata_column(
    kind: MetadataColumn,
    data_type: &DataType,
    record_index: &[u32],
    raw: &RawBatch,
) -> Result<ArrayRef> {
    let records: Vec<RecordView<'_>> =
        record_index.iter().filter_map(|index| raw.get(*index as usize)).collect();
    let array: ArrayRef = match kind {
        MetadataColumn::Timestamp => Arc::new(TimestampMillisecondArray::from_iter(
            records.iter().map(|r| Some(r.timestamp_ms()).filter(|time| *time >= 0)),
        )),
        MetadataColumn::Offset => {
            Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.offset())))
        }
        MetadataColumn::Partition => {
            Arc::new(Int32Array::from(vec![raw.partition.0; records.len()]))
        }
        MetadataColumn::Key => {
            Arc::new(BinaryArray::from_iter(records.iter().map(|record| record.key())))
        }
        MetadataColumn::Headers => headers(&records, data_type)?,
    };
    cast(&array, data_type).map_err(|error| {
        Error::invalid("TM208", format!("metadata column cannot be {data_type}"))
            .because(error.to_string())
            .help("use TIMESTAMP_LTZ(3), BIGINT, INT, STRING or BYTES, MAP<STRING, BYTES>")
    })
}

/// Headers as `MAP<STRING, BYTES>` (or `MAP<STRING, STRING>`); a repeated key keeps its last value.
fn headers(records: &[RecordView<'_>], data_type: &DataType) -> Result<ArrayRef> {
    let DataType::Map(entries, _) = data_type else {
        return Err(Error::invalid("TM208", "the headers are a MAP<STRING, BYTES>"));
    };
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(Error::internal("a map without entries"));
    };
    let names = MapFieldNames {
        entry: entries.name().clone(),
        key: fields[0].name().clone(),
        value: fields[1].name().clone(),
    };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new())
        .with_keys_field(Arc::clone(&fields[0]))
        .with_values_field(Field::new(fields[1].name(), DataType::Binary, true));
    for record in records {
        let mut last = std::collections::BTreeMap::new();
        last.extend(record.headers());
        for (key, value) in last {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder
            .append(true)
            .map_err(|error| Error::internal(format!("headers column: {error}")))?;
    }
    Ok(Arc::new(builder.finish()))
}
