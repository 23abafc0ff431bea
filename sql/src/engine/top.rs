//! The first rows of a window by an order, found before keys and other columns are put together.
//!
//! Most rows of a "top ten" are thrown away: by the first expression of the order alone nearly all
//! of them are out, and only what is left is completed and sorted. It never decides between rows
//! that are equal there: they all stay.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, make_comparator};
use datafusion::arrow::array::{TimestampMicrosecondArray, new_null_array};
use datafusion::arrow::compute::{SortColumn, SortOptions, sort_to_indices};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::rows::{batch_of, evaluate};
use crate::plan::{OutputColumn, RowStep, Windowed};

/// Rows from which on it is worth the while.
const ROWS_MIN: usize = 16;

/// The order of a query's rows as far as it is decided by aggregates.
#[derive(Debug)]
pub(crate) struct Top {
    /// Over the aggregated rows; reads no key.
    expr: Arc<dyn PhysicalExpr>,
    options: SortOptions,
    /// Rows that are looked at at most.
    keep: usize,
}

impl Top {
    /// `None` if the query keeps all rows, or its order begins with a key.
    pub(crate) fn of(plan: &Windowed) -> Option<Self> {
        let (by, skip, keep, exprs) = match plan.post.as_slice() {
            [RowStep::Sort { by, skip, keep }, ..] => (by, skip, keep, None),
            [RowStep::Project(exprs, _), RowStep::Sort { by, skip, keep }, ..] => {
                (by, skip, keep, Some(exprs))
            }
            _ => return None,
        };
        let keep = (*keep)?.checked_add(*skip).filter(|keep| *keep > 0)?;
        let first = by.first()?;
        let expr = match exprs {
            None => Arc::clone(&first.expr),
            Some(exprs) => {
                let expr: &dyn std::any::Any = first.expr.as_ref();
                Arc::clone(exprs.get(expr.downcast_ref::<Column>()?.index())?)
            }
        };
        let is_key = |column: &Column| {
            !matches!(plan.layout.get(column.index()), Some(OutputColumn::Aggregate(_)))
        };
        let reads_key = collect_columns(&expr).iter().any(is_key);
        (!reads_key).then_some(Self { expr, options: first.options, keep })
    }

    /// Those of a window's rows that can be among the first, ascending; `None` if it may be all.
    pub(crate) fn candidates(
        &self,
        plan: &Windowed,
        values: &[ArrayRef],
    ) -> Result<Option<UInt32Array>> {
        let rows = values.first().map_or(0, Array::len);
        if rows < ROWS_MIN.max(2 * self.keep) {
            return Ok(None);
        }
        let fields = plan.aggregate_schema.fields().iter();
        let columns = plan.layout.iter().zip(fields).map(|(column, field)| match column {
            OutputColumn::Aggregate(index) => Arc::clone(&values[*index]),
            // Not read; but a column that is never null must not be.
            OutputColumn::WindowStart | OutputColumn::WindowEnd | OutputColumn::WindowTime => {
                Arc::new(TimestampMicrosecondArray::from_value(0, rows)) as ArrayRef
            }
            OutputColumn::Key(_) => new_null_array(field.data_type(), rows),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let nullable = plan.aggregate_schema.fields().iter();
        let nullable = nullable.map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Schema::new(nullable.collect::<Vec<_>>());
        let batch: RecordBatch = batch_of(&Arc::new(schema), columns, rows)?;
        let values = evaluate(std::slice::from_ref(&self.expr), &batch)?.remove(0);
        let column = SortColumn { values, options: Some(self.options) };
        first_rows(&column, self.keep).map(Some)
    }
}

/// The rows that are among the first `keep` by a column, and all that are equal to the last of them.
fn first_rows(column: &SortColumn, keep: usize) -> Result<UInt32Array> {
    let values = &column.values;
    let order = sort_to_indices(values, column.options, Some(keep))?;
    let Some(last) = order.len().checked_sub(1).map(|last| order.value(last) as usize) else {
        return Ok(order);
    };
    let compare = make_comparator(values, values, column.options.unwrap_or_default())?;
    let is_first = |row: &u32| compare(*row as usize, last) != Ordering::Greater;
    Ok(UInt32Array::from_iter_values((0..values.len() as u32).filter(is_first)))
}
