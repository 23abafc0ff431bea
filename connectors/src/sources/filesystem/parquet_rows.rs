//! Parquet rows to JSON objects: the declared columns the file has, row group by row group.
//!
//! Values keep their exact text, as the decoder reads them back; a NaN or an infinity, which JSON
//! cannot say, is a fault of its row.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use tidemill_contract::{FaultClass, Result, RowFault, SourceRow, SourceSpec};

use super::{CHUNK_ROWS, RowReader, unreadable};
use crate::format::json;

pub(super) struct ParquetRows {
    batches: ParquetRecordBatchReader,
    path: PathBuf,
    row: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, spec: &SourceSpec) -> Result<Self> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(path, &e))?;
        let roots: Vec<usize> = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| spec.physical().any(|column| &column.name == field.name()))
            .map(|(index, _)| index)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder
            .with_projection(mask)
            .with_batch_size(CHUNK_ROWS)
            .build()
            .map_err(|e| unreadable(path, &e))?;
        Ok(Self { batches, path: path.to_owned(), row: 0 })
    }
}

impl RowReader for ParquetRows {
    fn read(&mut self) -> Result<Vec<SourceRow>> {
        for batch in self.batches.by_ref() {
            let batch = batch.map_err(|e| unreadable(&self.path, &e))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let mut rows = Vec::with_capacity(batch.num_rows());
            for (index, raw) in json::encode(&batch)?.into_iter().enumerate() {
                let payload = match not_finite(&batch, index) {
                    None => Ok(raw),
                    Some(reason) => {
                        Err(RowFault { raw, stage: "read", class: FaultClass::Range, reason })
                    }
                };
                rows.push(SourceRow { row: self.row, key: None, payload });
                self.row += 1;
            }
            return Ok(rows);
        }
        Ok(Vec::new())
    }
}

/// JSON has no NaN and no infinity: written as such they would silently be NULL.
fn not_finite(batch: &RecordBatch, row: usize) -> Option<String> {
    let schema = batch.schema_ref();
    let mut columns = schema.fields().iter().zip(batch.columns());
    columns.find_map(|(field, column)| {
        let value = match field.data_type() {
            DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
            DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
            _ => return None,
        };
        let is_bad = column.is_valid(row) && !value.is_finite();
        is_bad.then(|| format!("column '{}': {value} is not a finite number", field.name()))
    })
}
