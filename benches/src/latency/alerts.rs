//! Benchmark d: from the moment an event was due to the moment its alert is in a consumer's hands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};

use super::Epoch;
use super::echo::{self, Event};
use super::generator::{Plan, is_alert};
use super::samples::Samples;
use super::service::{Service, free_port};
use super::subscriber::Subscriber;

/// Events due in so long after the beginning are sent and checked, but not timed: connections are
/// made and the first commit is made then.
const WARM_UP: Duration = Duration::from_secs(3);
/// Time between the start of the generator and its first event.
const LEAD: Duration = Duration::from_millis(500);
/// Longest wait for an alert after the last event.
const PATIENCE: Duration = Duration::from_secs(20);
/// Length of a window in benchmark d2.
const WINDOW_MICROS: i64 = 100_000;

const SOURCE: &str = "CREATE SOURCE ticks (id BIGINT, amount BIGINT, at BIGINT, \
    ts AS to_timestamp_micros(at), WATERMARK FOR ts AS ts) \
    WITH ('connector' = 'kafka', 'topic' = 'ticks', 'format' = 'json', \
          'scan.startup.mode' = 'earliest-offset')";
const D1: [&str; 2] = [
    "CREATE MATERIALIZED VIEW large AS SELECT id, amount, ts FROM ticks WHERE amount > 900",
    "CREATE ALERT large_order ON large WHEN amount > 900 BY id",
];
const D2: [&str; 2] = [
    "CREATE MATERIALIZED VIEW tenths AS SELECT window_start, window_end, count(*) AS n, \
     max(id) AS last FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(ts), INTERVAL '0.1' SECOND)) \
     GROUP BY window_start, window_end",
    "CREATE ALERT closed ON tenths WHEN n > 0 BY window_end",
];

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Consume, look, produce: no pipeline.
    Raw,
    /// An alert on single rows.
    Row,
    /// An alert on a closed window; from when the event was due that closed it.
    Window,
}

/// Runs one case at a rate for some seconds and compares every alert with what it must be.
///
/// # Errors
/// If an alert is missing, comes twice or says something wrong.
pub fn run(case: Case, rate: u64, seconds: u64) -> Result<Samples> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-d-").tempdir()?;
    let service = Service::start(folder.path(), free_port()?)?;
    let (from, to) = if case == Case::Raw { ("raw.in", "raw.out") } else { ("ticks", "alerts") };
    create_topics(service.brokers(), &[from, to])?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut echo = None;
    if case == Case::Raw {
        let (brokers, stop) = (service.brokers().to_owned(), Arc::clone(&stop));
        echo = Some(std::thread::spawn(move || echo::run(&brokers, from, to, &stop)));
    } else {
        service.execute(SOURCE)?;
        for statement in if case == Case::Row { D1 } else { D2 } {
            service.execute(statement)?;
        }
    }
    let now = Epoch::now();
    let lead = i64::try_from(LEAD.as_micros())?;
    let epoch = Epoch { at: now.at + LEAD, micros: now.micros + lead };
    let plan = Plan { epoch, rate, events: rate * seconds };
    let brokers = service.brokers().to_owned();
    let generator = std::thread::spawn(move || plan.send(&brokers, from));
    let subscriber = Subscriber::open(service.brokers(), to)?;
    let arrivals = arrivals(&subscriber, case, &expected(case, plan), plan);
    generator.join().ok().context("the generator panicked")??;
    stop.store(true, Ordering::Relaxed);
    if let Some(echo) = echo {
        echo.join().ok().context("the echo panicked")??;
    }
    let timed_from = epoch.at + WARM_UP;
    let mut samples = Samples::default();
    for (number, arrival) in arrivals? {
        if plan.due(number) >= timed_from {
            samples.add(arrival.saturating_duration_since(plan.due(number)));
        }
    }
    Ok(samples)
}

/// By the event from which latency counts: what the alert must say.
fn expected(case: Case, plan: Plan) -> BTreeMap<u64, i64> {
    if case != Case::Window {
        return (0..plan.events).filter(|id| is_alert(*id)).map(|id| (id, 1000)).collect();
    }
    let window = |number| plan.event_time(number).div_euclid(WINDOW_MICROS);
    let mut closed = BTreeMap::new();
    let mut rows = 0;
    for number in 0..plan.events {
        if number > 0 && window(number) != window(number - 1) {
            closed.insert(number, rows);
            rows = 0;
        }
        rows += 1;
    }
    closed
}

/// When the alert of each event came.
fn arrivals(
    subscriber: &Subscriber,
    case: Case,
    expected: &BTreeMap<u64, i64>,
    plan: Plan,
) -> Result<BTreeMap<u64, Instant>> {
    let mut arrivals = BTreeMap::new();
    let until = plan.due(plan.events) + PATIENCE;
    while arrivals.len() < expected.len() {
        if Instant::now() > until {
            bail!("{} of {} alerts came", arrivals.len(), expected.len());
        }
        let Some((at, payload)) = subscriber.next(Duration::from_millis(100)) else { continue };
        let Some((number, says)) = read(case, &payload)? else { continue };
        match expected.get(&number) {
            Some(right) if *right == says => {}
            other => bail!("the alert of event {number} says {says}, not {other:?}"),
        }
        if arrivals.insert(number, at).is_some() {
            bail!("the alert of event {number} came twice");
        }
    }
    Ok(arrivals)
}

/// The event from which latency counts, and what the alert says; none for `resolved`.
fn read(case: Case, payload: &[u8]) -> Result<Option<(u64, i64)>> {
    if case == Case::Raw {
        let event: Event = serde_json::from_slice(payload)?;
        return Ok(Some((event.id, event.amount)));
    }
    let event: Value = serde_json::from_slice(payload)?;
    if event["data"]["status"] != "firing" {
        return Ok(None);
    }
    let value = &event["data"]["value"];
    let number = |name: &str| value[name].as_i64().with_context(|| format!("no {name}: {event}"));
    let (id, says) = match case {
        Case::Window => (number("last")? + 1, number("n")?),
        Case::Row | Case::Raw => (number("id")?, number("amount")?),
    };
    Ok(Some((u64::try_from(id)?, says)))
}

/// Makes topics of one partition.
///
/// # Errors
/// If the broker does not.
pub fn create_topics(brokers: &str, topics: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = KafkaSettings { brokers: brokers.to_owned(), ..KafkaSettings::default() };
        let log = KafkaLog::new(settings)?;
        for topic in topics {
            log.ensure_topic(topic, 1, &[]).await?;
        }
        Ok(())
    })
}
