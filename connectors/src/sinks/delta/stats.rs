//! What a Delta log says about a file: rows, and per column the least, the greatest and the nulls,
//! so that readers skip files.
//!
//! The figures are read from the file's own footer, at the time it is published. A file without
//! usable statistics is no error: it then tells its number of rows only.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use object_store::path::Path;
use object_store::{GetOptions, GetRange};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Map, Value, json};
use tidemill_contract::StagedFile;

use crate::format::json as rows_as_json;
use crate::store::Store;

/// A footer rarely exceeds this; one read gets it whole.
const FOOTER_BYTES: u64 = 64 << 10;
/// Delta's own default: statistics of the first columns only.
const COLUMNS_MAX: usize = 32;

/// The `stats` text of an add action. It is put together from texts: a decimal of 38 digits would
/// not survive a JSON number in memory.
pub(super) async fn of(store: &Store, file: &StagedFile) -> String {
    let columns = match footer(store, file).await {
        Some(metadata) => columns(&metadata).unwrap_or_default(),
        None => {
            tracing::debug!(path = file.path, "a file tells no statistics");
            String::new()
        }
    };
    format!("{{\"numRecords\":{}{columns}}}", file.rows)
}

async fn footer(store: &Store, file: &StagedFile) -> Option<ParquetMetaData> {
    let range = GetRange::Bounded(file.bytes.saturating_sub(FOOTER_BYTES)..file.bytes);
    let options = GetOptions { range: Some(range), ..GetOptions::default() };
    let read = store.get_opts(&Path::from(file.path.as_str()), options).await.ok()?;
    let tail = read.bytes().await.ok()?;
    let mut reader = ParquetMetaDataReader::new();
    reader.try_parse_sized(&tail, file.bytes).ok()?;
    reader.finish().ok()
}

/// The members after `numRecords`. Only for files of one row group: what we write, and no merging
/// of typed values.
fn columns(metadata: &ParquetMetaData) -> Option<String> {
    if metadata.num_row_groups() != 1 {
        return None;
    }
    let descriptor = metadata.file_metadata().schema_descr();
    let key_values = metadata.file_metadata().key_value_metadata();
    let schema = parquet_to_arrow_schema(descriptor, key_values).ok()?;
    let groups = metadata.row_groups();
    let (mut least, mut greatest, mut nulls) = (Vec::new(), Vec::new(), Map::new());
    for field in schema.fields().iter().take(COLUMNS_MAX) {
        let Ok(converter) = StatisticsConverter::try_new(field.name(), &schema, descriptor) else {
            continue;
        };
        if let Ok(count) = converter.row_group_null_counts(groups)
            && count.len() == 1
            && count.is_valid(0)
        {
            nulls.insert(field.name().clone(), json!(count.value(0)));
        }
        if !is_comparable(field.data_type()) {
            continue;
        }
        if let (Ok(min), Ok(max)) =
            (converter.row_group_mins(groups), converter.row_group_maxes(groups))
        {
            least.push((field.name().clone(), min));
            greatest.push((field.name().clone(), max));
        }
    }
    let (least, greatest) = (object(least)?, object(greatest)?);
    let nulls = Value::Object(nulls);
    Some(format!(",\"minValues\":{least},\"maxValues\":{greatest},\"nullCount\":{nulls}"))
}

/// Floats are left out: a NaN is outside every range that Parquet tells.
fn is_comparable(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(_, _)
            | DataType::Date32
            | DataType::Timestamp(_, _)
            | DataType::Utf8
    )
}

/// One JSON object of the values that are there, as text.
fn object(values: Vec<(String, ArrayRef)>) -> Option<String> {
    let values: Vec<_> =
        values.into_iter().filter(|(_, value)| value.len() == 1 && value.is_valid(0)).collect();
    if values.is_empty() {
        return Some("{}".to_owned());
    }
    let fields: Vec<Field> = values
        .iter()
        .map(|(name, value)| Field::new(name, value.data_type().clone(), true))
        .collect();
    let columns = values.into_iter().map(|(_, value)| value).collect();
    let row = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).ok()?;
    let line = rows_as_json::encode_lines(&row).ok()?;
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}
