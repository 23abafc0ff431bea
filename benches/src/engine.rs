//! Role `a`: the whole product on the topic, from log to Delta table, as a user would run it.

use anyhow::{Context as _, Result, bail};
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimeUnit};
use tidemill_runtime::{Pipeline, StatementResult};

use crate::load::topic;
use crate::product::{self, Clock};
use crate::{Digest, Measured};

/// Which columns the source declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// The four the query reads.
    Four,
    /// All twelve of the payload.
    Twelve,
}

const FOUR: &str = "product_id TEXT, quantity INT, unit_price DECIMAL(10,2), ordered_at BIGINT";
const TWELVE: &str = "order_id TEXT, customer_id TEXT, product_id TEXT, category TEXT, \
    quantity INT, unit_price DECIMAL(10,2), currency TEXT, country TEXT, channel TEXT, \
    ordered_at BIGINT, status TEXT, note TEXT";

/// Runs the pipeline until the topic's end is committed and published.
///
/// # Errors
/// If anything fails on the way.
pub fn run(brokers: &str, orders: u64, declared: Declared) -> Result<Measured> {
    let script = script(&topic(orders), declared);
    run_script(brokers, &script, answer)
}

/// The same for other statements; `answer` reads what they gave, with the clock stopped.
///
/// # Errors
/// If anything fails on the way.
pub fn run_script(
    brokers: &str,
    script: &str,
    answer: impl AsyncFnOnce(&Pipeline) -> Result<Digest>,
) -> Result<Measured> {
    product::run(brokers, &[script.to_owned()], Clock::FromOpening, answer)
}

/// The source `orders` over a topic, read to its end.
pub fn source(topic: &str, declared: Declared) -> String {
    source_named("orders", topic, declared)
}

/// The same with another name: also its quarantine and its late rows, topics of the broker, are then
/// its own.
pub fn source_named(name: &str, topic: &str, declared: Declared) -> String {
    let columns = if declared == Declared::Four { FOUR } else { TWELVE };
    format!(
        "CREATE SOURCE {name} (
           {columns},
           ordered AS to_timestamp_millis(ordered_at),
           WATERMARK FOR ordered AS ordered - INTERVAL '2' SECOND
         ) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json',
                 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');"
    )
}

/// The view of benchmark a over a source.
pub fn sales(source: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW sales AS
         SELECT window_start, window_end, product_id, count(*) AS orders,
                sum(quantity * unit_price) AS revenue, avg(unit_price) AS price
         FROM TABLE(TUMBLE(TABLE {source}, DESCRIPTOR(ordered), INTERVAL '1' MINUTE))
         GROUP BY window_start, window_end, product_id
         EMIT ON WINDOW CLOSE;"
    )
}

fn script(topic: &str, declared: Declared) -> String {
    format!("{}\n{}", source(topic, declared), sales("orders"))
}

/// Reads the table back, after the clock was stopped.
async fn answer(pipeline: &Pipeline) -> Result<Digest> {
    let mut digest = Digest::default();
    read(pipeline, "", &mut digest).await?;
    Ok(digest)
}

/// Adds the rows of `sales`, those of a condition if there is one.
///
/// # Errors
/// If the query fails or gives something else.
pub async fn read(pipeline: &Pipeline, condition: &str, digest: &mut Digest) -> Result<()> {
    let statement =
        format!("SELECT window_start, product_id, orders, revenue FROM sales {condition}");
    for result in pipeline.execute(&statement).await? {
        if let StatementResult::Rows { batches, .. } = result {
            for batch in &batches {
                add(digest, batch)?;
            }
        }
    }
    Ok(())
}

/// Adds the rows of a batch with the columns of `sales`.
///
/// # Errors
/// If a column is missing or is of another type.
pub fn add(digest: &mut Digest, batch: &RecordBatch) -> Result<()> {
    let column = |name: &str, wanted: &DataType| -> Result<_> {
        let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
        Ok(cast(column, wanted)?)
    };
    let starts = column("window_start", &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    let starts = cast(&starts, &DataType::Int64)?;
    let starts = starts.as_primitive::<Int64Type>();
    let products = column("product_id", &DataType::Utf8)?;
    let products = products.as_string::<i32>();
    let orders = column("orders", &DataType::Int64)?;
    let orders = orders.as_primitive::<Int64Type>();
    let revenue = column("revenue", &DataType::Decimal128(38, 2))?;
    let revenue = revenue.as_primitive::<Decimal128Type>();
    for row in 0..batch.num_rows() {
        digest.add(
            starts.value(row),
            products.value(row),
            u64::try_from(orders.value(row))?,
            u64::try_from(revenue.value(row))?,
        );
    }
    if revenue.null_count() > 0 {
        bail!("a revenue is null");
    }
    Ok(())
}
