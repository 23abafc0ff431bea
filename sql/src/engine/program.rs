//! The row program of a source: from decoded physical columns to all declared columns, with the
//! event time of each row.
//!
//! Adds metadata and computed columns and checks what the declaration promises. A row that fails
//! becomes a fault; its neighbours go on. It never drops a row silently.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_contract::{
    Column, ColumnKind, EventBatch, FaultClass, RawBatch, RecordView, Result, RowFault, SourceSpec,
};

use super::metadata::metadata_column;
use super::rows::batch_of;
use crate::plan::plan_computed;

/// Compiled once per source.
#[derive(Debug)]
pub struct SourceProgram {
    columns: Vec<Column>,
    physical: SchemaRef,
    /// Physical and metadata columns: what computed columns may name.
    base: SchemaRef,
    schema: SchemaRef,
    /// Expression of each computed column, over `base`.
    computed: BTreeMap<String, Arc<dyn PhysicalExpr>>,
    /// Index of the event-time column.
    time: Option<usize>,
}

impl SourceProgram {
    /// Compiles the computed columns of a source.
    ///
    /// # Errors
    /// If a computed column does not plan or has another type than declared.
    pub fn new(spec: &SourceSpec) -> Result<Self> {
        let planned = plan_computed(spec)?;
        let field = |column: &Column, data_type: DataType| {
            Field::new(&column.name, data_type, column.nullable)
        };
        let physical: Vec<Field> =
            spec.physical().map(|column| field(column, column.data_type.clone())).collect();
        let base: Vec<Field> = spec
            .columns
            .iter()
            .filter(|column| !matches!(column.kind, ColumnKind::Computed(_)))
            .map(|column| field(column, column.data_type.clone()).with_nullable(true))
            .collect();
        let mut computed = BTreeMap::new();
        let mut all = Vec::new();
        for column in &spec.columns {
            let data_type = match planned.get(&column.name) {
                None => column.data_type.clone(),
                Some((expr, data_type)) => {
                    computed.insert(column.name.clone(), Arc::clone(expr));
                    data_type.clone()
                }
            };
            all.push(field(column, data_type).with_nullable(true));
        }
        let time = spec
            .watermark
            .as_ref()
            .and_then(|mark| spec.columns.iter().position(|column| column.name == mark.column));
        Ok(Self {
            columns: spec.columns.clone(),
            physical: Arc::new(Schema::new(physical)),
            base: Arc::new(Schema::new(base)),
            schema: Arc::new(Schema::new(all)),
            computed,
            time,
        })
    }

    /// What the decoder must deliver.
    pub fn physical_schema(&self) -> SchemaRef {
        Arc::clone(&self.physical)
    }

    /// All declared columns in declared order; all nullable.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Completes decoded rows. `record_index[i]` is the index in `raw` of row `i`'s record.
    ///
    /// # Errors
    /// Only for a bug: whatever is wrong with a row is returned as its fault.
    pub fn prepare(
        &self,
        physical: &RecordBatch,
        record_index: Vec<u32>,
        raw: &RawBatch,
    ) -> Result<(EventBatch, Vec<(u32, RowFault)>)> {
        let mut faults = Vec::new();
        let base = self.base_columns(physical, &record_index, raw)?;
        let (mut rows, mut record_index) =
            self.compute(base, record_index, raw, &mut faults).map_err(super::wrap)?;
        let mut event_time = None;
        if let Some(index) = self.time {
            let times = super::event_time(rows.column(index)).map_err(super::wrap)?;
            let times = times.as_primitive::<Int64Type>();
            if times.null_count() > 0 {
                let good = BooleanArray::from_iter((0..times.len()).map(|row| {
                    let good = times.is_valid(row);
                    if !good {
                        let reason = "event time is null".to_owned();
                        faults.push(fault(record_index[row], raw, FaultClass::NoTime, reason));
                    }
                    Some(good)
                }));
                rows = filter_record_batch(&rows, &good).map_err(|e| super::wrap(e.into()))?;
                record_index = keep(&record_index, &good);
            }
            let times: Vec<i64> = times.iter().flatten().collect();
            event_time = Some(Int64Array::from(times));
        }
        let offsets = raw.iter().map(RecordView::offset).collect();
        let partition = raw.partition;
        let batch = EventBatch { partition, rows, event_time, record_index, offsets };
        Ok((batch, faults))
    }

    fn base_columns(
        &self,
        physical: &RecordBatch,
        record_index: &[u32],
        raw: &RawBatch,
    ) -> Result<RecordBatch> {
        let mut decoded = physical.columns().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.base.fields().len());
        for column in &self.columns {
            match &column.kind {
                ColumnKind::Computed(_) => {}
                ColumnKind::Physical => columns.extend(decoded.next().map(Arc::clone)),
                ColumnKind::Metadata(kind) => {
                    columns.push(metadata_column(*kind, &column.data_type, record_index, raw)?);
                }
            }
        }
        batch_of(&self.base, columns, record_index.len()).map_err(super::wrap)
    }

    /// Evaluates the computed columns; rows they fail on become faults.
    fn compute(
        &self,
        base: RecordBatch,
        record_index: Vec<u32>,
        raw: &RawBatch,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<(RecordBatch, Vec<u32>), DataFusionError> {
        let first_try = self.evaluate(&base);
        let Err(_) = first_try else {
            return first_try.map(|rows| (rows, record_index));
        };
        let mut good = Vec::with_capacity(base.num_rows());
        for (row, record) in record_index.iter().enumerate() {
            let outcome = self.evaluate(&base.slice(row, 1));
            if let Err(error) = &outcome {
                let reason = error.strip_backtrace();
                faults.push(fault(*record, raw, FaultClass::Computed, reason));
            }
            good.push(outcome.is_ok());
        }
        let good = BooleanArray::from(good);
        let rows = self.evaluate(&filter_record_batch(&base, &good)?)?;
        Ok((rows, keep(&record_index, &good)))
    }

    /// A function that panics on a value is that row's fault, like one that returns an error.
    fn evaluate(&self, base: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let work = || self.evaluate_all(base);
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
            Err(DataFusionError::Execution("a function of a computed column panicked".to_owned()))
        })
    }

    fn evaluate_all(&self, base: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let mut plain = base.columns().iter();
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            match self.computed.get(&column.name) {
                None => columns.extend(plain.next().map(Arc::clone)),
                Some(expr) => columns.push(expr.evaluate(base)?.into_array(base.num_rows())?),
            }
        }
        batch_of(&self.schema, columns, base.num_rows())
    }
}

fn keep(record_index: &[u32], good: &BooleanArray) -> Vec<u32> {
    let kept = record_index.iter().zip(good.values().iter());
    kept.filter(|(_, good)| *good).map(|(record, _)| *record).collect()
}

fn fault(record: u32, raw: &RawBatch, class: FaultClass, reason: String) -> (u32, RowFault) {
    let stage = if class == FaultClass::NoTime { "time" } else { "check" };
    let raw = raw.payload(record);
    (record, RowFault { raw, stage, class, reason })
}
