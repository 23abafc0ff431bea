//! Benchmark e: `kill -9` in the middle of a backlog, with a million keys in the state.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use super::alerts::create_topics;
use super::service::{Service, free_port};
use super::subscriber::Subscriber;

/// Longest wait for the backlog to be read.
const PATIENCE: Duration = Duration::from_secs(300);
/// Events to a second of event time.
const EVENTS_PER_SECOND: u64 = 100_000;
/// Time between two looks at how far the job is.
const LOOK: Duration = Duration::from_millis(20);

const STATEMENTS: [&str; 4] = [
    "CREATE SOURCE ticks (id BIGINT, k BIGINT, at BIGINT, ts AS to_timestamp_micros(at), \
     WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 'ticks', 'format' = 'json', \
     'scan.startup.mode' = 'earliest-offset')",
    "CREATE MATERIALIZED VIEW keys AS SELECT window_start, window_end, k, count(*) AS n \
     FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(ts), INTERVAL '1' DAY)) \
     GROUP BY window_start, window_end, k",
    "CREATE MATERIALIZED VIEW tenths AS SELECT window_start, window_end, count(*) AS n, \
     max(id) AS last FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(ts), INTERVAL '0.1' SECOND)) \
     GROUP BY window_start, window_end",
    "CREATE ALERT closed ON tenths WHEN n > 0 BY window_end",
];

/// What one kill cost.
#[derive(Debug)]
pub struct Outcome {
    /// From the start of the new process to the first alert it gave.
    pub first_output: Duration,
    /// Rows a second before the kill, all keys being known.
    pub steady: f64,
    /// Rows a second after it, from the first output to the end of the backlog.
    pub catch_up: f64,
}

/// Reads `events` events of `keys` keys, and is killed when two thirds are read.
///
/// # Errors
/// If a row is lost or counted twice, an alert is missing, or the job does not go on.
pub fn run(keys: u64, events: u64) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-e-").tempdir()?;
    let port = free_port()?;
    let service = Service::start(folder.path(), port)?;
    create_topics(service.brokers(), &["ticks", "alerts"])?;
    fill(service.brokers(), keys, events)?;
    let subscriber = Subscriber::open(service.brokers(), "alerts")?;
    for statement in STATEMENTS {
        service.execute(statement)?;
    }
    let mut alerts = Alerts::default();
    let steady_from = wait_for_rows(&service, &subscriber, &mut alerts, keys)?;
    let killed_at = wait_for_rows(&service, &subscriber, &mut alerts, events * 2 / 3)?;
    let steady = rate(steady_from, killed_at);
    service.kill()?;
    if killed_at.1 > events * 5 / 6 {
        bail!("the kill came too late to say anything: {} of {events} rows", killed_at.1);
    }
    let known = alerts.last();
    let began = Instant::now();
    let service = Service::start(folder.path(), port)?;
    // A new one: how soon a client finds a broker again is not measured here. It reads everything.
    let subscriber = Subscriber::open(service.brokers(), "alerts")?;
    while alerts.last() == known {
        alerts.take(&subscriber, LOOK)?;
        if began.elapsed() > PATIENCE {
            bail!("no alert after the restart");
        }
    }
    let first_output = began.elapsed();
    let from = (Instant::now(), rows(&service)?);
    let done = wait_for_rows(&service, &subscriber, &mut alerts, events)?;
    // The last tenth stays open until its partition counts as idle.
    let closed = (events - 1) * 10 / EVENTS_PER_SECOND;
    let until = Instant::now() + PATIENCE;
    while (alerts.0.len() as u64) < closed && Instant::now() < until {
        alerts.take(&subscriber, LOOK)?;
    }
    alerts.check(closed)?;
    let total = asked(&service, "SELECT sum(n) FROM keys")?;
    let distinct = asked(&service, "SELECT count(*) FROM keys")?;
    if total != Some(i64::try_from(events)?) || distinct != Some(i64::try_from(keys)?) {
        bail!("{total:?} rows of {distinct:?} keys were counted, not {events} of {keys}");
    }
    Ok(Outcome { first_output, steady, catch_up: rate(from, done) })
}

/// A million rows are many for the memory of one query (`TM603`): it is asked again.
fn asked(service: &Service, sql: &str) -> Result<Option<i64>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match service.number(sql) {
            Err(error) if error.to_string().contains("TM603") && Instant::now() < until => {}
            answer => return answer,
        }
    }
}

type Place = (Instant, u64);

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(from: Place, to: Place) -> f64 {
    to.1.saturating_sub(from.1) as f64 / to.0.duration_since(from.0).as_secs_f64().max(1e-9)
}

/// Waits until the job has read so many rows.
fn wait_for_rows(
    service: &Service,
    subscriber: &Subscriber,
    alerts: &mut Alerts,
    wanted: u64,
) -> Result<Place> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = rows(service)?;
        if found >= wanted {
            return Ok((Instant::now(), found));
        }
        if Instant::now() > until {
            bail!("{found} of {wanted} rows were read");
        }
        alerts.take(subscriber, LOOK)?;
    }
}

/// Rows the job has read.
fn rows(service: &Service) -> Result<u64> {
    let answer = service.execute("SHOW JOBS")?;
    let columns = answer["columns"].as_array().context("no columns")?;
    let place = columns.iter().position(|column| column["name"] == "rows_in");
    let cell = &answer["rows"][0][place.context("SHOW JOBS has no rows_in")?];
    let text = cell.as_str().map(ToOwned::to_owned).unwrap_or_else(|| cell.to_string());
    Ok(text.parse().unwrap_or(0))
}

/// Rows of each closed tenth, by the last event in it.
#[derive(Debug, Default)]
struct Alerts(BTreeMap<i64, (String, i64)>);

impl Alerts {
    fn last(&self) -> Option<i64> {
        self.0.last_key_value().map(|(last, _)| *last)
    }

    /// Takes what comes; the same event may come again, another one for the same window not.
    fn take(&mut self, subscriber: &Subscriber, at_most: Duration) -> Result<()> {
        let until = Instant::now() + at_most;
        while let Some((_, payload)) =
            subscriber.next(until.saturating_duration_since(Instant::now()))
        {
            let event: Value = serde_json::from_slice(&payload)?;
            if event["data"]["status"] != "firing" {
                continue;
            }
            let value = &event["data"]["value"];
            let (Some(last), Some(rows)) = (value["last"].as_i64(), value["n"].as_i64()) else {
                bail!("an alert without numbers: {event}");
            };
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let before = self.0.insert(last, (id.clone(), rows));
            if before.is_some_and(|before| before != (id, rows)) {
                bail!("the window that ends with event {last} was judged twice");
            }
        }
        Ok(())
    }

    fn check(&self, closed: u64) -> Result<()> {
        let right = i64::try_from(EVENTS_PER_SECOND / 10)?;
        let wrong = self.0.values().filter(|(_, rows)| *rows != right).count();
        if !(closed..=closed + 1).contains(&(self.0.len() as u64)) || wrong > 0 {
            bail!("{} windows closed, not {closed}; {wrong} with wrong counts", self.0.len());
        }
        Ok(())
    }
}

fn fill(brokers: &str, keys: u64, events: u64) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "50")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    for id in 0..events {
        let at = id * 1_000_000 / EVENTS_PER_SECOND;
        let payload = format!("{{\"id\":{id},\"k\":{},\"at\":{at}}}", id % keys);
        let mut record =
            BaseRecord::<(), [u8]>::to("ticks").partition(0).payload(payload.as_bytes());
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(PATIENCE)?;
    Ok(())
}
