//! a': the job of benchmark a without a log: the same rows from memory through the product's decoder
//! and operators.
//!
//! Compared with the same decoder and one hash map over its columns: no computed column, watermark,
//! slice or window that closes. `memory-decode` is the decoder alone. The clock begins when the
//! rows are in memory and ends before the answer is looked at.

use anyhow::{Context as _, Result, bail};
use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type};
use bytes::Bytes;
use datafusion::common::HashMap;
use tidemill_connectors::format::json::JsonDecoder;
use tidemill_contract::{Emission, PartitionId, RawBatch, RawRecord, Watermark};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::{Engine, SourceProgram};
use tidemill_sql::parse::parse_script;

use crate::digest::{Groups, WINDOW_MS};
use crate::driver::{Answers, Case, Target};
use crate::engine::{Declared, sales, source};
use crate::measure::Stopwatch;
use crate::orders::{ORDER_BYTES, Orders};
use crate::{Digest, Measured, product};

/// Records of a batch, as many as a job takes at once.
const BATCH_RECORDS: usize = 8192;
/// How far orders are out of order, as the source declares.
const DELAY_MICROS: i64 = 2_000_000;

#[derive(Debug)]
pub(super) struct InMemory;

impl Case for InMemory {
    fn name(&self) -> &'static str {
        "a-memory"
    }
    fn title(&self) -> &'static str {
        "the job of a from memory: decoder and operators against decoder and a hash map"
    }
    fn programs(&self) -> &'static [&'static str] {
        &["memory-decode", "memory-loop", "memory"]
    }
    fn baselines(&self) -> &'static [&'static str] {
        &["memory-loop"]
    }
    fn targets(&self) -> &'static [Target] {
        &[Target { program: "memory", baseline: "memory-loop", most: 1.25 }]
    }
    fn has_broker(&self) -> bool {
        false
    }
    fn prepare(&self, _brokers: &str, count: u64) -> Result<Answers> {
        let (mut groups, mut orders, mut json) = (Groups::default(), Orders::default(), Vec::new());
        for _ in 0..count {
            groups.add_order(&orders.next(&mut json)?);
        }
        let answer = groups.digest();
        Ok(["memory-loop", "memory"].map(|program| (program, answer)).into())
    }
    fn run(&self, program: &str, _brokers: &str, count: u64) -> Result<Measured> {
        let catalog =
            catalog(&format!("{}\n{}", source("orders", Declared::Four), sales("orders")))?;
        let spec = catalog.source("orders").context("no source")?;
        let source = SourceProgram::new(spec)?;
        let mut decoder = JsonDecoder::new(source.physical_schema(), &spec.options)?;
        let batches = batches(count)?;
        match program {
            "memory-decode" => {
                let watch = Stopwatch::start()?;
                let mut rows = 0;
                for raw in &batches {
                    rows += decoder.decode(raw)?.rows.num_rows() as u64;
                }
                let measured = watch.stop()?;
                if rows != count {
                    bail!("{rows} rows of {count}");
                }
                Ok(measured)
            }
            "memory-loop" => in_a_loop(&mut decoder, &batches),
            "memory" => {
                let engine = Engine::build(&catalog, "orders", &["sales".to_owned()])?;
                in_the_engine(&mut decoder, &source, engine, &batches)
            }
            other => bail!("unknown program {other}"),
        }
    }
}

/// The catalog after a script.
///
/// # Errors
/// If a statement is wrong.
pub(super) fn catalog(script: &str) -> Result<Catalog> {
    let mut catalog = Catalog::new();
    for parsed in parse_script(script)? {
        catalog.apply(&parsed)?;
    }
    Ok(catalog)
}

/// The orders of benchmark a as batches of two partitions in turn; the bytes of a batch lie
/// together, as those of a fetched batch do.
fn batches(count: u64) -> Result<Vec<RawBatch>> {
    let (mut orders, mut json) = (Orders::default(), Vec::new());
    let mut batches = Vec::new();
    let mut open = [Vec::new(), Vec::new()];
    for number in 0..count {
        orders.next(&mut json)?;
        let partition = (number % 2) as usize;
        let batch = &mut open[partition];
        batch.extend_from_slice(&json);
        let next_offset = (number / 2).cast_signed() + 1;
        if batch.len() == BATCH_RECORDS * ORDER_BYTES {
            batches.push(raw_batch(partition, std::mem::take(batch), next_offset)?);
        }
    }
    for (partition, batch) in open.into_iter().enumerate() {
        let next_offset = (count.cast_signed() + 1 - partition as i64) / 2;
        batches.push(raw_batch(partition, batch, next_offset)?);
    }
    Ok(batches)
}

/// A batch of the orders in `bytes`, those before `next_offset`.
fn raw_batch(partition: usize, bytes: Vec<u8>, next_offset: i64) -> Result<RawBatch> {
    let bytes = Bytes::from(bytes);
    let count = bytes.len() / ORDER_BYTES;
    let record = |place: usize| RawRecord {
        offset: next_offset - (count - place) as i64,
        timestamp_ms: -1,
        key: None,
        payload: Some(bytes.slice(place * ORDER_BYTES..(place + 1) * ORDER_BYTES)),
        headers: Vec::new(),
    };
    let records: Vec<RawRecord> = (0..count).map(record).collect();
    let partition = PartitionId(i32::try_from(partition)?);
    Ok(RawBatch::new(partition, Box::new(records), next_offset))
}

fn in_the_engine(
    decoder: &mut JsonDecoder,
    source: &SourceProgram,
    mut engine: Engine,
    batches: &[RawBatch],
) -> Result<Measured> {
    let watch = Stopwatch::start()?;
    let mut marks = [Watermark::MIN; 2];
    let mut emissions: Vec<Emission> = Vec::new();
    for raw in batches {
        let decoded = decoder.decode(raw)?;
        let (batch, faults) = source.prepare(&decoded.rows, decoded.record_index, raw)?;
        let bad = faults.len() + decoded.faults.len();
        let pushed = engine.push(&batch)?;
        if bad + pushed.late.len() > 0 {
            bail!("{bad} bad rows, {} late ones", pushed.late.len());
        }
        let newest = batch.event_time.as_ref().and_then(arrow::compute::max);
        let mark = &mut marks[usize::try_from(raw.partition.0)?];
        *mark = newest.map_or(*mark, |newest| (*mark).max(Watermark(newest - DELAY_MICROS)));
        let low = marks[0].min(marks[1]);
        emissions.extend(engine.advance(low)?);
        engine.take_receipts();
    }
    emissions.extend(engine.advance(Watermark::MAX)?);
    let mut measured = watch.stop()?;
    let mut digest = Digest::default();
    for emission in &emissions {
        add_sales(&mut digest, &emission.rows)?;
    }
    measured.digest = Some(digest);
    Ok(measured)
}

/// Rows of the view, counted as the hash map's.
fn add_sales(digest: &mut Digest, rows: &RecordBatch) -> Result<()> {
    let [start, _, product, orders, revenue, _] = rows.columns() else {
        bail!("{} columns", rows.num_columns());
    };
    let columns = [start, product, orders, revenue].map(product::plain);
    let [start, product, orders, revenue] = columns;
    let (start, product, orders, revenue) = (start?, product?, orders?, revenue?);
    for row in 0..rows.num_rows() {
        digest.add(
            start.as_primitive::<Int64Type>().value(row),
            product.as_string::<i32>().value(row),
            orders.as_primitive::<Int64Type>().value(row).cast_unsigned(),
            u64::try_from(revenue.as_primitive::<Decimal128Type>().value(row))?,
        );
    }
    Ok(())
}

/// Per product: orders, revenue in cents, prices in cents (for the average).
type Window = HashMap<String, (u64, i128, i128)>;

/// The decoder and a hash map per minute, found again from row to row.
fn in_a_loop(decoder: &mut JsonDecoder, batches: &[RawBatch]) -> Result<Measured> {
    let watch = Stopwatch::start()?;
    let mut windows: Vec<(i64, Window)> = Vec::new();
    for raw in batches {
        let decoded = decoder.decode(raw)?;
        let [product, quantity, price, ordered_at] = decoded.rows.columns() else {
            bail!("{} columns", decoded.rows.num_columns());
        };
        let product = product.as_string::<i32>();
        let quantity = quantity.as_primitive::<Int32Type>().values();
        let price = price.as_primitive::<Decimal128Type>().values();
        let ordered_at = ordered_at.as_primitive::<Int64Type>().values();
        let mut place = 0;
        for row in 0..decoded.rows.num_rows() {
            let minute = ordered_at[row].div_euclid(WINDOW_MS);
            if windows.get(place).is_none_or(|(own, _)| *own != minute) {
                let known = windows.iter().rposition(|(own, _)| *own == minute);
                place = known.unwrap_or_else(|| {
                    windows.push((minute, Window::default()));
                    windows.len() - 1
                });
            }
            let (price, name) = (price[row], product.value(row));
            let group = match windows[place].1.get_mut(name) {
                Some(group) => group,
                None => windows[place].1.entry(name.to_owned()).or_default(),
            };
            group.0 += 1;
            group.1 += i128::from(quantity[row]) * price;
            group.2 += price;
        }
    }
    let mut measured = watch.stop()?;
    let mut digest = Digest::default();
    for (minute, window) in &windows {
        for (product, (orders, revenue, _)) in window {
            digest.add(minute * WINDOW_MS, product, *orders, u64::try_from(*revenue)?);
        }
    }
    measured.digest = Some(digest);
    Ok(measured)
}
