//! Rows as JSON objects, the way Arrow writes them: every column is there, NULL as `null`, points
//! in time as RFC 3339 in UTC, decimals as numbers.
//!
//! JSON numbers are read by most programs as doubles: a decimal is exact up to 15 digits. Floats
//! that are no number become `null`.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use arrow::json::writer::{JsonArray, WriterBuilder};
use serde_json::{Map, Value};
use tidemill_contract::{Error, Result};

/// Naive timestamps are UTC; Arrow writes those with a zone in this form by itself.
const UTC_TIMESTAMP: &str = "%Y-%m-%dT%H:%M:%S%.fZ";

/// One object per row.
pub(super) fn to_json(rows: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if rows.num_columns() == 0 {
        return Ok(vec![Map::new(); rows.num_rows()]);
    }
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_timestamp_format(UTC_TIMESTAMP.to_owned())
        .with_timestamp_tz_format(UTC_TIMESTAMP.to_owned())
        .build::<_, JsonArray>(&mut bytes);
    writer.write(rows).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::internal(format!("a row is no JSON object: {error}")))
}

/// A JSON object as compact text, keys in order.
pub(super) fn text(object: &Map<String, Value>) -> String {
    Value::Object(object.clone()).to_string()
}

/// The rows for which the mask is true.
pub(super) fn keep(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(rows, mask).map_err(|error| failed(&error))
}

/// The rows for which the mask is false; it has no nulls.
pub(super) fn drop_kept(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    let inverted = arrow::compute::not(mask).map_err(|error| failed(&error))?;
    keep(rows, &inverted)
}

/// Some of the columns.
pub(super) fn project(rows: &RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
    rows.project(columns).map_err(|error| failed(&error))
}

fn failed(error: &ArrowError) -> Error {
    Error::internal(format!("rows of an alert cannot be written as JSON: {error}"))
}
