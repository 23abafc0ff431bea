//! Benchmark a: orders as JSON in a topic → one-minute count, sum, avg per product → Delta table.
//!
//! Compared with `a0` (receive only) and `floor` (receive, four fields by sonic-rs, hash map). The
//! topic is filled first; then every round runs each program once in a process of its own, in
//! turn. The first round warms the page cache and is not counted; a round in which others took
//! more than 5 % of the machine is run again. Every answer is compared with the generator's.
//!
//! `cargo bench --bench a`; `TIDEMILL_BENCH_EVENTS` (2,000,000), `TIDEMILL_BENCH_ROUNDS` (7),
//! `TIDEMILL_BENCH_BROKERS` (not set: the embedded broker).

use std::io::Write as _;

use anyhow::{Result, bail};
use tidemill_benches::engine::Declared;
use tidemill_benches::report::{Round, table};
use tidemill_benches::role::{self, BrokerChild};
use tidemill_benches::{Digest, Measured, broker, engine, floor, load, measure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The programs in the order of a round.
const PROGRAMS: [&str; 4] = ["a0", "floor", "a", "a-12-columns"];
/// Share of the machine that others may take in a round.
const STEAL_MAX_PERCENT: u64 = 5;
/// Rounds thrown away for that at most.
const REJECTED_MAX: u64 = 7;

fn main() -> Result<()> {
    let orders = role::number("TIDEMILL_BENCH_EVENTS", 2_000_000)?;
    let Some(role) = role::current() else {
        return drive(orders);
    };
    if role == "broker" {
        return broker::run();
    }
    let Some(brokers) = role::brokers() else {
        bail!("{role}: no brokers");
    };
    let measured = match role.as_str() {
        "a0" => floor::consume(&brokers, orders)?,
        "floor" => floor::group(&brokers, orders)?,
        "a" => engine::run(&brokers, orders, Declared::Four)?,
        "a-12-columns" => engine::run(&brokers, orders, Declared::Twelve)?,
        other => bail!("unknown role {other}"),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}

fn drive(orders: u64) -> Result<()> {
    let rounds_wanted = role::number("TIDEMILL_BENCH_ROUNDS", 7)?;
    let (child, brokers) = match role::brokers() {
        Some(brokers) => (None, brokers),
        None => {
            let child = BrokerChild::start()?;
            let address = child.address().to_string();
            (Some(child), address)
        }
    };
    let mut out = std::io::stdout();
    let broker = if child.is_some() { "embedded broker" } else { "brokers from outside" };
    writeln!(out, "benchmark a: {orders} orders, {broker}, {}", measure::machine()?)?;
    let answer = load::fill(&brokers, orders)?;
    writeln!(out, "answer: {answer:?}")?;
    let mut rounds = Vec::new();
    let mut rejected = 0;
    round(&brokers, answer)?;
    while (rounds.len() as u64) < rounds_wanted {
        let (steal_before, all_before) = measure::steal_ticks()?;
        let done = round(&brokers, answer)?;
        let (steal, all) = measure::steal_ticks()?;
        let percent = (steal - steal_before) * 100 / (all - all_before).max(1);
        let kept = percent <= STEAL_MAX_PERCENT || rejected >= REJECTED_MAX;
        let verdict = if kept { "" } else { " rejected" };
        writeln!(out, "round {}: steal {percent} %{verdict} {}", rounds.len() + 1, line(&done))?;
        if kept {
            rounds.push(done);
        } else {
            rejected += 1;
        }
    }
    writeln!(out, "\n{}", table(&rounds, &PROGRAMS, orders))?;
    drop(child);
    Ok(())
}

/// Every program once.
fn round(brokers: &str, answer: Digest) -> Result<Round> {
    let mut round = Round::new();
    for program in PROGRAMS {
        let measured = role::run(program, brokers)?;
        if measured.digest.is_some_and(|digest| digest != answer) {
            bail!("{program} gives a wrong answer: {:?} instead of {answer:?}", measured.digest);
        }
        round.insert(program, measured);
    }
    Ok(round)
}

fn line(round: &Round) -> String {
    let shown = |(program, run): (&&str, &Measured)| {
        format!("{program} cpu {} ms wall {} ms", run.cpu_ns / 1_000_000, run.wall_ns / 1_000_000)
    };
    round.iter().map(shown).collect::<Vec<_>>().join(", ")
}
