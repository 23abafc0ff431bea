//! Columns as a lake keeps them: the types every Delta reader knows.
//!
//! Timestamps become microseconds in UTC, text becomes plain UTF-8, unsigned integers the next
//! wider signed type, times of day text. Nothing loses a digit: what has no exact place is an
//! error when the view is registered, not when rows arrive.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tidemill_contract::{Error, Result};

/// Digits of the widest decimal a lake takes.
const DECIMAL_DIGITS_MAX: u8 = 38;
/// The zone of all times.
const UTC: &str = "UTC";

/// The schema of a view's table. Every column may be null there: Delta readers differ in what
/// they make of NOT NULL.
///
/// # Errors
/// `TM562` for a type a Delta table cannot hold.
pub fn lake_schema(schema: &Schema) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let data_type = lake_type(field.data_type()).ok_or_else(|| {
            Error::invalid(
                "TM562",
                format!("column '{}': a table cannot hold {}", field.name(), field.data_type()),
            )
            .help("cast it, for example to DECIMAL(38, s) or TEXT")
        })?;
        fields.push(Field::new(field.name(), data_type, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Rows in the lake's types.
///
/// # Errors
/// `TM562` as [`lake_schema`], or if a value does not fit.
pub fn to_lake(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = lake_schema(&batch.schema())?;
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let cast = match column.as_primitive_opt::<TimestampMicrosecondType>() {
            _ if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            // Microseconds without a zone are those of UTC: the numbers stay as they are.
            Some(times) if times.timezone().is_none() && is_micros_in_utc(field.data_type()) => {
                Ok(Arc::new(times.clone().with_timezone(UTC)) as ArrayRef)
            }
            _ => cast_with_options(column, field.data_type(), &strict),
        };
        columns.push(cast.map_err(|error| {
            Error::invalid("TM562", format!("column '{}': a value does not fit", field.name()))
                .because(error.to_string())
        })?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error| Error::internal(format!("lake rows do not fit their schema: {error}")))
}

/// One Parquet file of some rows of one view, in the lake's types, compressed with zstd.
///
/// # Errors
/// `TM562` as [`to_lake`]; also for no batches at all, which have no schema.
pub fn write_parquet(batches: &[RecordBatch]) -> Result<Bytes> {
    let fail = |error: parquet::errors::ParquetError| {
        Error::internal(format!("cannot write parquet: {error}"))
    };
    let Some(first) = batches.first() else {
        return Err(Error::internal("a parquet file needs at least one batch"));
    };
    let level = ZstdLevel::try_new(1).map_err(fail)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by("tidemill".to_owned())
        .build();
    let schema = lake_schema(&first.schema())?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(fail)?;
    for batch in batches {
        writer.write(&to_lake(batch)?).map_err(fail)?;
    }
    Ok(Bytes::from(writer.into_inner().map_err(fail)?))
}

fn is_micros_in_utc(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == UTC)
}

fn lake_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::Duration(_) => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale)
            if *precision <= DECIMAL_DIGITS_MAX && *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(_, _) | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Interval(_)
        | DataType::Null => DataType::Utf8,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("element", lake_type(item.data_type())?, true)))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(lake_field).collect::<Option<Vec<FieldRef>>>()?.into(),
        ),
        DataType::Map(entries, _) => DataType::Map(lake_entries(entries)?, false),
        DataType::Dictionary(_, values) => lake_type(values)?,
        DataType::RunEndEncoded(_, values) => lake_type(values.data_type())?,
        _ => return None,
    })
}

fn lake_field(field: &FieldRef) -> Option<FieldRef> {
    Some(Arc::new(Field::new(field.name(), lake_type(field.data_type())?, true)))
}

/// A map's entries, under the names Delta gives them; keys are never null.
fn lake_entries(entries: &FieldRef) -> Option<FieldRef> {
    let DataType::Struct(pair) = entries.data_type() else {
        return None;
    };
    let [key, value] = pair.as_ref() else {
        return None;
    };
    let fields = vec![
        Field::new("key", lake_type(key.data_type())?, false),
        Field::new("value", lake_type(value.data_type())?, true),
    ];
    Some(Arc::new(Field::new("key_value", DataType::Struct(fields.into()), false)))
}
