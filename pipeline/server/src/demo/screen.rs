//! The live picture of the demo: gathered by SELECTs, drawn as lines of text.
//!
//! Drawing is a pure function of the picture, so that a pipe gets the same facts as a terminal.

use tidemill_contract::{Micros, Result};
use tidemill_runtime::{Pipeline, Status};

use super::{grouped, select};
use crate::diagnostic::Paint;
use crate::output::{Rows, plain};

/// Hours, products and alerts shown: with the rest they fit a terminal of 24 lines.
const SALES_ROWS: usize = 5;
const PRODUCT_ROWS: usize = 6;
pub(super) const ALERT_ROWS: usize = 3;
/// Width of the longest sales bar, in characters.
const BAR_CHARS: usize = 24;

/// What one redraw shows.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) sales: Rows,
    pub(super) products: Rows,
    pub(super) alerts: Vec<String>,
    pub(super) rows_in: u64,
    pub(super) rows_per_second: f64,
    pub(super) lag: i64,
    pub(super) drift: i64,
    pub(super) watermark: Option<Micros>,
    pub(super) done: bool,
}

/// Sums over the jobs of a status: rows in, lag, drift and the least watermark.
pub(super) fn totals(status: &Status) -> (u64, i64, i64, Option<Micros>) {
    let rows = status.jobs.iter().map(|job| job.rows_in).sum();
    let lag = status.jobs.iter().map(|job| job.lag_records).sum();
    let drift = status.jobs.iter().map(|job| job.conservation_drift.abs()).sum();
    (rows, lag, drift, status.jobs.iter().filter_map(|job| job.watermark_micros).min())
}

/// The last hours of sales, newest first. Old hours are cut off before the sum.
pub(super) async fn sales(pipeline: &Pipeline, watermark: Option<Micros>) -> Result<Rows> {
    let sql = format!(
        "SELECT window_start, CAST(sum(revenue) AS DECIMAL(20,2)) AS revenue, sum(units) AS units, \
         bool_and(is_final) AS closed FROM sales_per_hour {} \
         GROUP BY window_start ORDER BY window_start DESC LIMIT {SALES_ROWS}",
        since(watermark, 4 * 24).map(|bound| format!("WHERE {bound}")).unwrap_or_default(),
    );
    select(pipeline, &sql).await
}

/// The best products of the last closed six hours.
pub(super) async fn products(pipeline: &Pipeline, watermark: Option<Micros>) -> Result<Rows> {
    let bound = since(watermark, 7 * 24).map(|bound| format!("AND {bound}")).unwrap_or_default();
    let sql = format!(
        "SELECT product, units, CAST(revenue AS DECIMAL(20,2)) AS revenue, window_end \
         FROM top_products WHERE is_final {bound} \
         ORDER BY window_end DESC, revenue DESC LIMIT 10",
    );
    let mut rows = select(pipeline, &sql).await?;
    let newest = rows.value(0, "window_end").cloned();
    let end = rows.columns.iter().position(|column| column.name == "window_end");
    rows.rows.retain(|row| end.and_then(|index| row.get(index)) == newest.as_ref());
    Ok(rows)
}

fn since(watermark: Option<Micros>, hours: i64) -> Option<String> {
    let from = watermark?.checked_sub(hours * 3_600_000_000)?;
    let from = chrono::DateTime::from_timestamp_micros(from)?;
    Some(format!("window_start >= TIMESTAMP '{}'", from.format("%Y-%m-%d %H:%M:%S")))
}

/// The picture as lines, without line ends.
pub(super) fn draw(picture: &Picture, paint: Paint) -> Vec<String> {
    let mut lines = vec![
        paint.bold("Tidemill: a real shop's year, replayed through the broker"),
        summary(picture),
        paint.bold("sales per hour"),
    ];
    let cell = |rows: &Rows, row, column| rows.value(row, column).map(plain).unwrap_or_default();
    let revenue = |row: usize| cell(&picture.sales, row, "revenue").parse::<f64>().unwrap_or(0.0);
    let most = (0..picture.sales.rows.len()).map(revenue).fold(1.0, f64::max);
    for row in 0..SALES_ROWS {
        if row >= picture.sales.rows.len() {
            lines.push(String::new());
            continue;
        }
        // A share of BAR_CHARS, never negative: sales are positive by the view's WHERE.
        let length = ((revenue(row) / most) * BAR_CHARS as f64).round() as usize;
        let open = if cell(&picture.sales, row, "closed") == "true" { "" } else { "  (open)" };
        let start = cell(&picture.sales, row, "window_start");
        lines.push(format!(
            "  {}  {:>12}  {:>7} units  {}{}",
            start.replace('T', " ").get(..16).unwrap_or(&start),
            grouped(&cell(&picture.sales, row, "revenue")),
            grouped(&cell(&picture.sales, row, "units")),
            paint.green(&"#".repeat(length)),
            paint.faint(open),
        ));
    }
    lines.push(paint.bold("top products of six hours"));
    for row in 0..PRODUCT_ROWS {
        if row >= picture.products.rows.len() {
            lines.push(String::new());
            continue;
        }
        let product: String = cell(&picture.products, row, "product").chars().take(36).collect();
        let revenue = grouped(&cell(&picture.products, row, "revenue"));
        let units = grouped(&cell(&picture.products, row, "units"));
        lines.push(format!("  {:>2}. {product:<36} {revenue:>12}  {units:>7} units", row + 1));
    }
    lines.push(paint.bold("alerts (topic alerts)"));
    if picture.alerts.is_empty() {
        lines.push("  none yet; the first mis-keyed order comes on 2011-01-18".into());
    }
    lines.extend(picture.alerts.iter().map(|alert| format!("  {alert}")));
    lines
}

/// The line of numbers below the title; alone, it is what a pipe gets.
pub(super) fn summary(picture: &Picture) -> String {
    let clock = picture
        .watermark
        .and_then(chrono::DateTime::from_timestamp_micros)
        .map(|time| time.format("%Y-%m-%d %H:%M").to_string());
    let shop_time = match clock {
        _ if picture.done => "end of the year".into(),
        Some(time) => time,
        None => "not begun".into(),
    };
    format!(
        "shop time {shop_time}   rows in {}   {:.0} rows/s   lag {}   conservation {}",
        grouped(&picture.rows_in.to_string()),
        picture.rows_per_second,
        grouped(&picture.lag.to_string()),
        if picture.drift == 0 { "holds" } else { "IS BROKEN" },
    )
}
