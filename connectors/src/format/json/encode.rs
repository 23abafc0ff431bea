//! Arrow rows to JSON objects, one payload a row, as the decoder reads them back: decimals as
//! digits, times in ISO 8601, bytes in base64, nulls left out only where asked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tidemill_contract::{Error, Result};

/// Encodes rows as JSON objects. Null columns are written as `null`, so that every object has
/// every column.
///
/// # Errors
/// `TM541` if a column's type has no JSON form.
pub fn encode(batch: &RecordBatch) -> Result<Vec<Bytes>> {
    let lines = encode_lines(batch)?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    let mut start = 0;
    // JSON escapes every line feed inside a value, so each one here ends a row.
    for (end, _) in lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        rows.push(lines.slice(start..end));
        start = end + 1;
    }
    Ok(rows)
}

/// Encodes rows as JSON lines, each ended by a line feed.
///
/// # Errors
/// `TM541` if a column's type has no JSON form.
pub fn encode_lines(batch: &RecordBatch) -> Result<Bytes> {
    write_lines(batch).map_err(|error| {
        Error::invalid("TM541", "rows cannot be written as JSON").because(error.to_string())
    })
}

fn write_lines(batch: &RecordBatch) -> Result<Bytes, ArrowError> {
    let batch = bytes_as_text(batch)?;
    let mut buffer = Vec::with_capacity(batch.num_rows() * 128);
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, LineDelimited>(&mut buffer);
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(Bytes::from(buffer))
}

/// Bytes as base64 text: arrow would write them in hex.
fn bytes_as_text(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_binary(field.data_type())) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if is_binary(field.data_type()) {
            let plain = cast(column, &DataType::Binary)?;
            let bytes = plain.as_binary::<i32>();
            let text: StringArray =
                bytes.iter().map(|value| value.map(|value| STANDARD.encode(value))).collect();
            fields.push(Field::new(field.name(), DataType::Utf8, text.null_count() > 0));
            columns.push(Arc::new(text));
        } else {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    )
}
