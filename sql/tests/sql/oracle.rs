//! The oracle: the same SELECT over all rows at once, in plain DataFusion.
//!
//! Windows are computed here a second time, naively: every window that can hold a row is listed in
//! a table and joined on `ts >= window_start AND ts < window_end`.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

/// A window as the oracle sees it: start and end in microseconds.
pub(crate) type Bounds = (i64, i64);

/// Runs `sql` (its FROM must read `windowed`) over `rows` joined with the listed windows.
pub(crate) async fn batch(rows: &RecordBatch, windows: &[Bounds], sql: &str) -> Vec<RecordBatch> {
    batch_where(rows, windows, "true", sql).await
}

/// The same over those pairs of row and window only for which `counts` holds.
pub(crate) async fn batch_where(
    rows: &RecordBatch,
    windows: &[Bounds],
    counts: &str,
    sql: &str,
) -> Vec<RecordBatch> {
    let config = datafusion::prelude::SessionConfig::new()
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .with_target_partitions(1);
    let context = SessionContext::new_with_config(config);
    register(&context, "s", rows.clone());
    register(&context, "w", window_table(windows));
    context
        .sql(&format!(
            "CREATE VIEW windowed AS SELECT s.*, w.window_start, w.window_end, w.window_time \
             FROM s JOIN w ON s.ts >= w.window_start AND s.ts < w.window_end AND {counts}"
        ))
        .await
        .expect("the view plans");
    context.sql(sql).await.expect("the oracle plans").collect().await.expect("the oracle runs")
}

fn register(context: &SessionContext, name: &str, batch: RecordBatch) {
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("one schema");
    context.register_table(name, Arc::new(table)).expect("a new name");
}

fn window_table(windows: &[Bounds]) -> RecordBatch {
    let field =
        |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), true);
    let schema =
        Schema::new(vec![field("window_start"), field("window_end"), field("window_time")]);
    let column = |value: fn(&Bounds) -> i64| {
        Arc::new(TimestampMicrosecondArray::from_iter_values(windows.iter().map(value)))
    };
    RecordBatch::try_new(
        Arc::new(schema),
        vec![column(|w| w.0), column(|w| w.1), column(|w| w.1 - 1_000)],
    )
    .expect("equal lengths")
}

/// Rows as sorted text: floats to 9 significant digits, so that the order of addition is no
/// difference; everything else exactly.
pub(crate) fn canonical(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> =
                batch.columns().iter().map(|column| cell(column.as_ref(), row)).collect();
            lines.push(cells.join("|"));
        }
    }
    lines.sort();
    lines
}

fn cell(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    if *column.data_type() == DataType::Float64 {
        let value = column.as_primitive::<Float64Type>().value(row);
        let rounded = format!("{value:.8e}");
        return if rounded == "-0.00000000e0" { "0.00000000e0".to_owned() } else { rounded };
    }
    let text = array_value_to_string(column, row).expect("displayable");
    match column.data_type() {
        DataType::Timestamp(..) => text.trim_end_matches('Z').to_owned(),
        _ => text,
    }
}
