//! Role `tidemill-…`: the product, end to end, with the query that Flink gets.

use anyhow::Result;
use tidemill_runtime::Pipeline;

use super::Windows;
use crate::load::topic;
use crate::orders::{EPOCH_MS, ORDERS_PER_MINUTE};
use crate::{Digest, Measured, engine};

/// Minutes of event time whose hopping windows fit into one result.
const PIECE_MINUTES: i64 = 15;

/// Runs until the topic's end is committed and published, then reads the table back.
///
/// # Errors
/// If anything fails on the way.
pub fn run(brokers: &str, orders: u64, windows: Windows) -> Result<Measured> {
    let script = script(&topic(orders), windows);
    engine::run_script(brokers, &script, async |pipeline| answer(pipeline, orders).await)
}

/// Reads the table piece by piece: a query's result is limited.
async fn answer(pipeline: &Pipeline, orders: u64) -> Result<Digest> {
    let minutes = i64::try_from(orders / ORDERS_PER_MINUTE)?;
    let edges: Vec<i64> = (0..=minutes / PIECE_MINUTES)
        .map(|piece| EPOCH_MS + piece * PIECE_MINUTES * 60_000)
        .collect();
    let mut digest = Digest::default();
    // Open at both ends, so that no row is left out wherever its window begins.
    let before = edges.first().map(|first| format!("WHERE {}", below(*first)));
    let between = edges.windows(2).map(|pair| {
        let (from, to) = (pair.first().copied(), pair.last().copied());
        let from = below(from.unwrap_or_default());
        format!("WHERE NOT ({from}) AND {}", below(to.unwrap_or_default()))
    });
    let after = edges.last().map(|last| format!("WHERE NOT ({})", below(*last)));
    for condition in before.into_iter().chain(between).chain(after) {
        engine::read(pipeline, &condition, &mut digest).await?;
    }
    Ok(digest)
}

fn below(time_ms: i64) -> String {
    format!("window_start < to_timestamp_millis({time_ms})")
}

fn script(topic: &str, windows: Windows) -> String {
    let windows = windows.function();
    format!(
        "CREATE SOURCE orders (
           product_id TEXT, quantity INT, unit_price DECIMAL(10,2), ordered_at BIGINT,
           ordered AS to_timestamp_millis(ordered_at),
           WATERMARK FOR ordered AS ordered - INTERVAL '2' SECOND
         ) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json',
                 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');
         CREATE MATERIALIZED VIEW sales AS
         SELECT window_start, window_end, product_id, count(*) AS orders,
                sum(quantity * unit_price) AS revenue, avg(unit_price) AS price
         FROM TABLE({windows})
         GROUP BY window_start, window_end, product_id
         EMIT ON WINDOW CLOSE;"
    )
}
