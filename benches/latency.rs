//! Benchmarks d, e, k and l: how long things take, seen from outside the program. Definitions and
//! figures are in `LATENCY.md`.
//!
//! `cargo build --release --bin tidemill && cargo bench --bench latency`;
//! `TIDEMILL_BENCH_ONLY` (d,e,k,l), `TIDEMILL_BENCH_RATE` (5,000), `TIDEMILL_BENCH_SECONDS` (30),
//! `TIDEMILL_BENCH_KEYS` (1,000,000), `TIDEMILL_BENCH_PROGRAM` (the program built beside it).

use std::io::{Write as _, stdout};

use anyhow::Result;
use tidemill_benches::latency::alerts::{self, Case};
use tidemill_benches::latency::{recovery, start};
use tidemill_benches::{measure, role};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tries of what has no percentiles.
const TRIES: usize = 3;

fn main() -> Result<()> {
    let only = std::env::var("TIDEMILL_BENCH_ONLY").unwrap_or_else(|_| "d,e,k,l".to_owned());
    writeln!(stdout(), "latency: {}", measure::machine()?)?;
    for name in only.split(',') {
        match name.trim() {
            "d" => alerts_in_time()?,
            "e" => recovered()?,
            "k" => {
                let share = start::idle(role::number("TIDEMILL_BENCH_SECONDS", 30)?)?;
                writeln!(stdout(), "k: an idle service takes {:.2} % of a core", share * 100.0)?;
            }
            "l" => started()?,
            other => anyhow::bail!("there is no benchmark {other}"),
        }
    }
    Ok(())
}

fn alerts_in_time() -> Result<()> {
    let rate = role::number("TIDEMILL_BENCH_RATE", 5_000)?;
    let seconds = role::number("TIDEMILL_BENCH_SECONDS", 30)?;
    writeln!(stdout(), "d: {rate} events/s for {seconds} s, ms from when the event was due")?;
    writeln!(stdout(), "| case | alerts | p50 | p99 | p99.9 | max |\n|---|---|---|---|---|---|")?;
    let cases = [(Case::Raw, "raw loop"), (Case::Row, "d1 row"), (Case::Window, "d2 window")];
    for (case, name) in cases {
        let samples = alerts::run(case, rate, seconds)?;
        writeln!(stdout(), "| {name} | {} |", samples.cells()?)?;
    }
    Ok(())
}

fn recovered() -> Result<()> {
    let keys = role::number("TIDEMILL_BENCH_KEYS", 1_000_000)?;
    for _ in 0..TRIES {
        let outcome = recovery::run(keys, keys * 12)?;
        writeln!(
            stdout(),
            "e: {keys} keys: first output {:.2} s after kill -9; steady {:.0} rows/s, catch-up \
             {:.0} rows/s = {:.2}",
            outcome.first_output.as_secs_f64(),
            outcome.steady,
            outcome.catch_up,
            outcome.catch_up / outcome.steady,
        )?;
    }
    Ok(())
}

fn started() -> Result<()> {
    for _ in 0..TRIES {
        let (cold, warm) = (start::cold()?, start::warm()?);
        writeln!(
            stdout(),
            "l: first result {:.2} s after a start on an empty folder, {:.2} s after a restart",
            cold.as_secs_f64(),
            warm.as_secs_f64(),
        )?;
    }
    Ok(())
}
