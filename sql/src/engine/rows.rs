//! Row steps over a record batch: filter, project, sort. No plan, no stream, no allocation beyond
//! the result.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{
    SortColumn, cast, filter, filter_record_batch, lexsort_to_indices, prep_null_mask_filter,
    take_record_batch,
};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DataFusionError, Result, cast::as_boolean_array};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use tidemill_contract::Error;

use crate::plan::RowStep;

/// Most bytes a constant may take when it is repeated for each row of a batch.
const REPEATED_BYTES: usize = 64 << 20;

/// Rows on their way through the steps, with what must stay beside each row.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    pub(crate) batch: RecordBatch,
    /// Event time in microseconds of each row, if a window needs it.
    pub(crate) time: Option<ArrayRef>,
    /// Index of each row in the batch that was pushed.
    pub(crate) origin: ArrayRef,
}

/// Runs the steps; `origin` and `time` follow every filter.
pub(crate) fn run_steps(mut rows: Rows, steps: &[RowStep]) -> Result<Rows> {
    for step in steps {
        match step {
            RowStep::Filter(predicate) => {
                let Some(mask) = keep_mask(predicate, &rows.batch)? else { continue };
                rows.time = rows.time.map(|time| filter(&time, &mask)).transpose()?;
                rows.origin = filter(&rows.origin, &mask)?;
                rows.batch = filter_record_batch(&rows.batch, &mask)?;
            }
            other => rows.batch = run_step(rows.batch, other)?,
        }
    }
    Ok(rows)
}

/// Runs the steps over the finite rows of one window.
pub(crate) fn run_finite(mut batch: RecordBatch, steps: &[RowStep]) -> Result<RecordBatch> {
    for step in steps {
        batch = run_step(batch, step)?;
    }
    Ok(batch)
}

fn run_step(batch: RecordBatch, step: &RowStep) -> Result<RecordBatch> {
    match step {
        RowStep::Filter(predicate) => match keep_mask(predicate, &batch)? {
            None => Ok(batch),
            Some(mask) => Ok(filter_record_batch(&batch, &mask)?),
        },
        RowStep::Project(exprs, schema) => project(&batch, exprs, schema),
        RowStep::Sort { by, skip, keep } => sort(&batch, by, *skip, *keep),
    }
}

/// The rows a predicate keeps; `None` if it keeps all.
fn keep_mask(
    predicate: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> Result<Option<BooleanArray>> {
    let mask = value(predicate, batch)?;
    let mask = as_boolean_array(&mask)?;
    let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    Ok((mask.true_count() < batch.num_rows()).then_some(mask))
}

fn project(
    batch: &RecordBatch,
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let columns = evaluate(exprs, batch)?;
    batch_of(schema, columns, batch.num_rows())
}

/// Evaluates expressions to arrays.
pub(crate) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
) -> Result<Vec<ArrayRef>> {
    let mut columns = Vec::with_capacity(exprs.len());
    for expr in exprs {
        columns.push(value(expr, batch)?);
    }
    Ok(columns)
}

/// A value as a column; a constant that would grow too large by being repeated is an error.
fn column_of(value: ColumnarValue, rows: usize) -> Result<ArrayRef> {
    if let ColumnarValue::Scalar(constant) = &value
        && constant.size().saturating_mul(rows) > REPEATED_BYTES
    {
        let error = Error::invalid("TM228", "a constant is too large to be repeated for each row")
            .because(format!("it may take {REPEATED_BYTES} bytes for a batch of rows"))
            .help("make it shorter");
        return Err(DataFusionError::External(Box::new(error)));
    }
    value.into_array(rows)
}

/// The value of one expression; an error says which one it was.
fn value(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    let value = expr.evaluate(batch).and_then(|value| column_of(value, batch.num_rows()));
    value.map_err(|error| error.context(format!("{}", fmt_sql(expr.as_ref()))))
}

/// A batch of the given schema, columns cast where an expression gave another physical type.
pub(crate) fn batch_of(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    row_count: usize,
) -> Result<RecordBatch> {
    let mut typed = Vec::with_capacity(columns.len());
    for (column, field) in columns.into_iter().zip(schema.fields()) {
        if column.data_type() == field.data_type() {
            typed.push(column);
        } else {
            typed.push(cast(&column, field.data_type())?);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(row_count));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), typed, &options)?)
}

/// Sorts by the expressions, ties broken by every other column, so that the order never depends
/// on how the rows arrived. Without expressions the order is kept.
fn sort(
    batch: &RecordBatch,
    by: &[PhysicalSortExpr],
    skip: usize,
    keep: Option<usize>,
) -> Result<RecordBatch> {
    let mut sorted = batch.clone();
    if !by.is_empty() && batch.num_rows() > 1 {
        let mut columns = Vec::new();
        for item in by {
            columns.push(item.evaluate_to_sort_column(batch)?);
        }
        for column in batch.columns() {
            if is_sortable(column.data_type()) {
                columns.push(SortColumn { values: Arc::clone(column), options: None });
            }
        }
        let order = lexsort_to_indices(&columns, keep.map(|keep| keep.saturating_add(skip)))?;
        sorted = take_record_batch(batch, &order)?;
    }
    let skip = skip.min(sorted.num_rows());
    let length = keep.unwrap_or(usize::MAX).min(sorted.num_rows() - skip);
    Ok(sorted.slice(skip, length))
}

fn is_sortable(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Null)
}
