//! Role `tidemill-…`: the product, end to end, with the query that Flink gets.

use anyhow::Result;

use super::Windows;
use crate::{Measured, engine};

/// Runs until the topic's end is committed and published, then reads the table back.
///
/// # Errors
/// If anything fails on the way.
pub fn run(brokers: &str, topic: &str, windows: Windows) -> Result<Measured> {
    engine::run_script(brokers, &script(topic, windows))
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
