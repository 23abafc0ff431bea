//! g: how much memory a key takes that has rows in open windows.
//!
//! The operators are fed from memory with a row for every key, over and over. What the process
//! holds more than before, divided by the keys, is told at the worst of these points: with rows
//! only (`…-rows`), and after a snapshot and another row for each key (`…-snapshot`), as a job that
//! commits has it. `…-hop` has windows of six slices, all six with a row for every key, five of
//! them closed to new rows. Freed memory is given back as soon as the server does it.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use tidemill_contract::{EventBatch, PartitionId, RawBatch, Watermark};
use tidemill_sql::engine::{Engine, SourceProgram};

use super::in_memory::catalog;
use crate::digest::Cell;
use crate::driver::{Answers, Case};
use crate::measure::{Stopwatch, resident_bytes};
use crate::orders::{EPOCH_MS, mixed};
use crate::report::{Round, as_f64, spread, verdict};
use crate::{Digest, Measured, product, role};

/// Rows of a batch.
const BATCH_ROWS: u64 = 8192;
/// Slide, and the size of windows that do not overlap.
const SLIDE_MS: i64 = 10_000;
/// Slices of a hopping window.
const SLICES: i64 = 6;

const PROGRAMS: &[&str] =
    &["i64-rows", "i64-snapshot", "i64-hop", "text24-rows", "text24-snapshot", "text24-hop"];

#[derive(Debug)]
pub(super) struct Keys;

impl Case for Keys {
    fn name(&self) -> &'static str {
        "g"
    }
    fn title(&self) -> &'static str {
        "memory per key of count and sum: 64-bit and 24-byte keys, tumbling and hopping windows"
    }
    fn programs(&self) -> &'static [&'static str] {
        PROGRAMS
    }
    fn baselines(&self) -> &'static [&'static str] {
        &[]
    }
    fn unit(&self) -> &'static str {
        "key"
    }
    fn count(&self) -> Result<u64> {
        role::number("TIDEMILL_BENCH_KEYS", 1_000_000)
    }
    fn has_broker(&self) -> bool {
        false
    }
    fn prepare(&self, _brokers: &str, count: u64) -> Result<Answers> {
        Ok(PROGRAMS.iter().map(|program| (*program, Feed::of(program).answer(count))).collect())
    }
    fn run(&self, program: &str, _brokers: &str, count: u64) -> Result<Measured> {
        Feed::of(program).run(count)
    }
    fn verdicts(&self, rounds: &[Round], count: u64) -> String {
        let held = |round: &Round, program: &str| {
            Some(as_f64(round.get(program)?.held_bytes) / as_f64(count))
        };
        let mut page = String::new();
        for (kind, most) in [("i64", 48.0), ("text24", 96.0)] {
            let program = |end| format!("{kind}-{end}");
            let rows = spread(rounds, |round| held(round, &program("rows")));
            page += &verdict(&format!("{kind}: bytes a key"), rows, most);
            let snapshot = spread(rounds, |round| held(round, &program("snapshot")));
            page += &verdict(&format!("{kind}: bytes a key, with a snapshot"), snapshot, most);
            let slice = spread(rounds, |round| {
                let more = held(round, &program("hop"))? - held(round, &program("rows"))?;
                Some(more / (SLICES - 1) as f64)
            });
            page += &verdict(&format!("{kind}: bytes a key and further slice"), slice, 24.0);
        }
        page
    }
}

/// What a program feeds.
#[derive(Debug, Clone, Copy)]
struct Feed {
    is_text: bool,
    /// Slices that get a row for every key.
    slices: i64,
    has_snapshot: bool,
}

impl Feed {
    fn of(program: &str) -> Self {
        let is_hop = program.ends_with("hop");
        Self {
            is_text: program.starts_with("text"),
            slices: if is_hop { SLICES } else { 1 },
            has_snapshot: program.ends_with("snapshot"),
        }
    }

    /// Rows of a key in a slice.
    fn passes(self) -> i64 {
        if self.has_snapshot { 2 } else { 1 }
    }

    fn script(self) -> String {
        let kind = if self.is_text { "TEXT" } else { "BIGINT" };
        let windows = if self.slices > 1 {
            "HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '1' MINUTE)"
        } else {
            "TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND)"
        };
        format!(
            "CREATE SOURCE events (
               k {kind}, v BIGINT, at BIGINT, ts AS to_timestamp_millis(at),
               WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
             ) WITH ('connector' = 'kafka', 'topic' = 'events', 'format' = 'json');
             CREATE MATERIALIZED VIEW per_key AS
             SELECT window_start, window_end, k, count(*) AS n, sum(v) AS total
             FROM TABLE({windows})
             GROUP BY window_start, window_end, k
             EMIT ON WINDOW CLOSE;"
        )
    }

    fn run(self, keys: u64) -> Result<Measured> {
        let catalog = catalog(&self.script())?;
        let source = SourceProgram::new(catalog.source("events").context("no source")?)?;
        let build = || Engine::build(&catalog, "events", &["per_key".to_owned()]);
        // What is made once, however many keys there are, is made before the measurement.
        let mut digest = Digest::default();
        self.feed(&mut build()?, &source, BATCH_ROWS, &mut digest)?;
        digest = Digest::default();

        let mut engine = build()?;
        let before = resident_bytes()?;
        let watch = Stopwatch::start()?;
        let most = self.feed(&mut engine, &source, keys, &mut digest)?;
        let mut measured = watch.stop()?;
        measured.held_bytes = most.saturating_sub(before);
        take(&mut digest, &mut engine, Watermark::MAX)?;
        measured.digest = Some(digest);
        Ok(measured)
    }

    /// Gives a row for every key to every slice; the bytes resident with the last slice full.
    fn feed(
        self,
        engine: &mut Engine,
        source: &SourceProgram,
        keys: u64,
        digest: &mut Digest,
    ) -> Result<u64> {
        for slice in 0..self.slices {
            take(digest, engine, Watermark((EPOCH_MS + slice * SLIDE_MS) * 1_000))?;
            for pass in 0..self.passes() {
                if pass > 0 {
                    engine.snapshot()?;
                }
                let mut first = 0;
                while first < keys {
                    let rows = BATCH_ROWS.min(keys - first);
                    let pushed = engine.push(&self.batch(source, first..first + rows, slice)?)?;
                    if !pushed.late.is_empty() {
                        bail!("{} late rows", pushed.late.len());
                    }
                    first += rows;
                }
            }
        }
        settled()
    }

    fn batch(
        self,
        source: &SourceProgram,
        numbers: std::ops::Range<u64>,
        slice: i64,
    ) -> Result<EventBatch> {
        let rows = u32::try_from(numbers.end - numbers.start)?;
        let keys: ArrayRef = if self.is_text {
            Arc::new(StringArray::from_iter_values(numbers.clone().map(text)))
        } else {
            Arc::new(Int64Array::from_iter_values(numbers.clone().map(number)))
        };
        let values = Int64Array::from_iter_values(numbers.map(u64::cast_signed));
        let at = Int64Array::from_value(EPOCH_MS + slice * SLIDE_MS, rows as usize);
        let columns: Vec<ArrayRef> = vec![keys, Arc::new(values), Arc::new(at)];
        let physical = RecordBatch::try_new(source.physical_schema(), columns)?;
        let no_record = RawBatch::of(PartitionId(0), &[], 0);
        let (batch, faults) = source.prepare(&physical, (0..rows).collect(), &no_record)?;
        if let Some((_, fault)) = faults.first() {
            bail!("a row is bad: {}", fault.reason);
        }
        Ok(batch)
    }

    /// Every key has the same rows in every slice, so windows differ by how many slices they have.
    fn answer(self, keys: u64) -> Digest {
        let mut digest = Digest::default();
        let size = self.slices;
        for last in 0..2 * size - 1 {
            let start = EPOCH_MS + (last + 1 - size) * SLIDE_MS;
            let slices = (last + 1).min(size).min(2 * size - 1 - last);
            let rows = i128::from(slices * self.passes());
            let bounds = [start, start + size * SLIDE_MS].map(|at| Cell::Number(at.into()));
            for key in 0..keys {
                let name = self.is_text.then(|| text(key));
                let name = match &name {
                    Some(name) => Cell::Text(name),
                    None => Cell::Number(number(key).into()),
                };
                let total = Cell::Number(rows * i128::from(key));
                digest.row(0, &[bounds[0], bounds[1], name, Cell::Number(rows), total]);
            }
        }
        digest
    }
}

/// Moves the watermark and adds what comes out to the answer.
fn take(digest: &mut Digest, engine: &mut Engine, watermark: Watermark) -> Result<()> {
    for emission in engine.advance(watermark)? {
        product::add_rows(digest, 0, &emission.rows)?;
    }
    engine.take_receipts();
    Ok(())
}

/// Resident bytes when the allocator has given back what it was going to: it looks at its clock
/// only when something is freed, so something is, until nothing more goes.
fn settled() -> Result<u64> {
    let mut least = resident_bytes()?;
    let mut since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(300) {
        drop(vec![1_u8; 1 << 16]);
        let now = resident_bytes()?;
        if now + (1 << 16) < least {
            (least, since) = (now, std::time::Instant::now());
        }
    }
    Ok(least)
}

fn number(key: u64) -> i64 {
    mixed(key.wrapping_add(1)).cast_signed()
}

/// 24 bytes.
fn text(key: u64) -> String {
    format!("key-{:020}", mixed(key.wrapping_add(1)))
}
