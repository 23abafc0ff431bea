//! Benchmark broker: the embedded broker beside Apache Kafka, writing and reading.
//!
//! One librdkafka client, pinned to one core, writes orders of 276 bytes with `acks=all` into two
//! partitions and receives them again; each broker runs in a process of its own on the other core,
//! on the same disk. Every round does so on each broker, in turn, in a topic of its own. The first
//! round warms everything and is not counted. What was received must be what was written.
//!
//! The embedded broker syncs before it acknowledges. Apache Kafka is measured as it comes, which
//! leaves that to the kernel, and with topics that are flushed at every write.
//!
//! `cargo bench --bench broker`; `TIDEMILL_BENCH_EVENTS` (2,000,000), `TIDEMILL_BENCH_ROUNDS` (7),
//! `TIDEMILL_BENCH_PORT` (9492) of Apache Kafka. Needs what `deploy/kafka.sh` needs.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tidemill_benches::orders::ORDER_BYTES;
use tidemill_benches::throughput::process::usage;
use tidemill_benches::throughput::report::{Round, Run, table};
use tidemill_benches::throughput::systems::{self, System};
use tidemill_benches::throughput::{ClientRun, fetch, produce};
use tidemill_benches::{broker, measure, role};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells a client its topic.
const TOPIC: &str = "TIDEMILL_BENCH_TOPIC";
/// What is measured, in this order.
const CLIENTS: [&str; 2] = ["produce", "fetch"];

fn main() -> Result<()> {
    let records = role::number("TIDEMILL_BENCH_EVENTS", 2_000_000)?;
    let Some(role) = role::current() else {
        return drive(records);
    };
    if role == "broker" {
        return broker::run();
    }
    let brokers = role::brokers().with_context(|| format!("{role}: no brokers"))?;
    let topic = std::env::var(TOPIC).with_context(|| format!("{role}: no topic"))?;
    let run = match role.as_str() {
        "produce" => produce::run(&brokers, &topic, records)?,
        "fetch" => fetch::run(&brokers, &topic, records)?,
        other => bail!("unknown role {other}"),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&run)?)?;
    Ok(())
}

fn drive(records: u64) -> Result<()> {
    let rounds_wanted = role::number("TIDEMILL_BENCH_ROUNDS", 7)?;
    let running = systems::start(role::number("TIDEMILL_BENCH_PORT", 9492)?)?;
    let mut out = std::io::stdout();
    writeln!(out, "benchmark broker: {records} records, {}", measure::machine()?)?;
    writeln!(out, "producer: {:?}", produce::SETTINGS)?;
    let mut rounds = [Vec::new(), Vec::new()];
    for number in 0..=rounds_wanted {
        let (steal_before, all_before) = measure::steal_ticks()?;
        let round = round(&running.systems, number, records)?;
        let (steal, all) = measure::steal_ticks()?;
        let percent = (steal - steal_before) * 100 / (all - all_before).max(1);
        for ((client, runs), kept) in CLIENTS.iter().zip(round).zip(&mut rounds) {
            writeln!(out, "round {number}: steal {percent} % {client} {}", line(&runs))?;
            if number > 0 {
                kept.push(runs);
            }
        }
    }
    let names: Vec<&'static str> = running.systems.iter().map(|system| system.name).collect();
    for (client, rounds) in CLIENTS.iter().zip(&rounds) {
        writeln!(out, "\n{client}\n\n{}", table(rounds, &names))?;
    }
    Ok(())
}

/// Every client on every broker; each round begins with another broker.
fn round(systems: &[System], number: u64, records: u64) -> Result<[Round; 2]> {
    let mut round = [Round::new(), Round::new()];
    let first = usize::try_from(number)? % systems.len().max(1);
    for system in systems.iter().cycle().skip(first).take(systems.len()) {
        let topic = format!("bench-{}-{number}", system.name);
        system.create(&topic)?;
        let mut written = None;
        for (client, runs) in CLIENTS.iter().zip(&mut round) {
            systems::settle(records * ORDER_BYTES as u64)?;
            let run = one(client, system, &topic, records)?;
            let content = run.client.content;
            if content.records != records || *written.get_or_insert(content) != content {
                bail!("{client} on {}: {content:?} instead of {written:?}", system.name);
            }
            runs.insert(system.name, run);
        }
        system.delete(&topic)?;
    }
    Ok(round)
}

fn one(client: &str, system: &System, topic: &str, records: u64) -> Result<Run> {
    let before = usage(system.pid)?;
    let began = Instant::now();
    let output = role::child(client)?
        .env("TIDEMILL_BENCH_BROKERS", &system.brokers)
        .env("TIDEMILL_BENCH_EVENTS", records.to_string())
        .env(TOPIC, topic)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {client}"))?;
    if !output.status.success() {
        bail!("{client} on {} failed after {:?}: {}", system.name, began.elapsed(), output.status);
    }
    let run: ClientRun = role::last_line(&output.stdout).with_context(|| client.to_string())?;
    let after = usage(system.pid)?;
    Ok(Run {
        client: run,
        broker_cpu_ns: after.cpu_ns - before.cpu_ns,
        broker_rss_kib: after.rss_kib,
    })
}

fn line(round: &Round) -> String {
    let shown = |(system, run): (&&str, &Run)| {
        let (wall, broker) = (run.client.wall_ns / 1_000_000, run.broker_cpu_ns / 1_000_000);
        format!("{system} wall {wall} ms broker cpu {broker} ms")
    };
    round.iter().map(shown).collect::<Vec<_>>().join(", ")
}
