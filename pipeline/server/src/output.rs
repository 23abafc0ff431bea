//! Rows for people and programs: Arrow batches → columns and JSON values → table, JSON lines, CSV.
//!
//! The HTTP answer and the terminal share [`Rows`], so both show the same values. Decimals are
//! strings in JSON: a number would lose cents in most clients.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::StructMode;
use arrow::json::writer::{JsonArray, WriterBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_contract::{Error, Result};

/// The widest a column of the terminal table gets, in characters; longer values are cut.
const TABLE_COLUMN_CHARS_MAX: usize = 60;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// SQL type name.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// A result: columns and rows of JSON values in column order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

/// How to print rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// One JSON object a line.
    Json,
    /// CSV with a header line.
    Csv,
}

impl Rows {
    /// Converts Arrow batches of one schema.
    ///
    /// # Errors
    /// A type that has no JSON form, which no registered view can have.
    pub fn from_batches(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Column {
                name: field.name().clone(),
                data_type: type_name(field.data_type()),
            })
            .collect();
        let mut writer = WriterBuilder::new()
            .with_explicit_nulls(true)
            .with_struct_mode(StructMode::ListOnly)
            .build::<_, JsonArray>(Vec::new());
        for batch in batches {
            let batch = decimals_as_text(batch).map_err(|error| not_json(&error))?;
            writer.write(&batch).map_err(|error| not_json(&error))?;
        }
        writer.finish().map_err(|error| not_json(&error))?;
        let bytes = writer.into_inner();
        let rows: Vec<Vec<Value>> = if bytes.is_empty() {
            Vec::new()
        } else {
            serde_json::from_slice(&bytes).map_err(|error| not_json(&error))?
        };
        Ok(Self { columns, rows })
    }

    /// The value at a row and a column's name.
    #[must_use]
    pub fn value(&self, row: usize, column: &str) -> Option<&Value> {
        let index = self.columns.iter().position(|candidate| candidate.name == column)?;
        self.rows.get(row)?.get(index)
    }

    /// Writes the rows in a format.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: &mut impl Write, format: Format) -> io::Result<()> {
        match format {
            Format::Table => self.write_table(out),
            Format::Json => self.write_json(out),
            Format::Csv => self.write_csv(out),
        }
    }

    fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let cells: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(table_cell).collect()).collect();
        let mut widths: Vec<usize> =
            self.columns.iter().map(|column| column.name.chars().count()).collect();
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        let numeric: Vec<bool> =
            self.columns.iter().map(|column| is_numeric(&column.data_type)).collect();
        write_line(out, &names, &widths, &numeric)?;
        let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        writeln!(out, "{}", rules.join("+"))?;
        for row in &cells {
            write_line(out, row, &widths, &numeric)?;
        }
        let count = self.rows.len();
        writeln!(out, "({count} {})", if count == 1 { "row" } else { "rows" })
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        for row in &self.rows {
            // Written by hand so that keys keep the column order.
            let fields: Vec<String> = self
                .columns
                .iter()
                .zip(row)
                .map(|(column, value)| format!("{}:{value}", Value::from(column.name.as_str())))
                .collect();
            writeln!(out, "{{{}}}", fields.join(","))?;
        }
        Ok(())
    }

    fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|column| csv_cell(&column.name)).collect();
        writeln!(out, "{}", names.join(","))?;
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .map(|value| match value {
                    Value::Null => String::new(),
                    value => csv_cell(&plain(value)),
                })
                .collect();
            writeln!(out, "{}", cells.join(","))?;
        }
        Ok(())
    }
}

/// The SQL name of an Arrow type, as the dialect writes it.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES".into(),
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Timestamp(_, None) => "TIMESTAMP".into(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".into(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("DECIMAL({precision},{scale})")
        }
        other => other.to_string(),
    }
}

fn is_numeric(type_name: &str) -> bool {
    ["INT", "BIGINT", "TINYINT", "SMALLINT", "REAL", "DOUBLE", "DECIMAL", "UInt"]
        .iter()
        .any(|prefix| type_name.starts_with(prefix))
}

/// The batch with its decimal columns as text, digit by digit.
fn decimals_as_text(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut arrays = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_decimal() {
            let nullable = field.is_nullable();
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, nullable)));
            arrays.push(cast(array, &DataType::Utf8)?);
        } else {
            fields.push(Arc::clone(field));
            arrays.push(Arc::clone(array));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, arrays, &options)
}

fn not_json(error: &dyn std::error::Error) -> Error {
    Error::internal(format!("a result has no JSON form: {error}"))
}

/// A value without JSON quotes.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn table_cell(value: &Value) -> String {
    let text: String = match value {
        Value::Null => "NULL".into(),
        value => plain(value),
    };
    // Control characters of a payload must not steer the reader's terminal.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= TABLE_COLUMN_CHARS_MAX {
        return text;
    }
    let mut cut: String = text.chars().take(TABLE_COLUMN_CHARS_MAX - 1).collect();
    cut.push('…');
    cut
}

fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

fn write_line(
    out: &mut impl Write,
    cells: &[String],
    widths: &[usize],
    numeric: &[bool],
) -> io::Result<()> {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .zip(numeric)
        .map(
            |((cell, &width), &right)| {
                if right { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
            },
        )
        .collect();
    writeln!(out, "{}", padded.join("|").trim_end())
}
