//! Benchmarks k and l: what an idle service costs, and how soon a new one has its first result.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::alerts::create_topics;
use super::generator::producer;
use super::service::{Service, free_port};
use rdkafka::producer::{BaseRecord, Producer as _};

/// Longest wait for a first result.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks for the first result.
const LOOK: Duration = Duration::from_millis(5);
/// Rows in the topic.
const ROWS: i64 = 1_000;
/// Time a service gets to come to rest before it is watched.
const SETTLE: Duration = Duration::from_secs(5);

const STATEMENTS: [&str; 2] = [
    "CREATE SOURCE ticks (id BIGINT, at BIGINT, ts AS to_timestamp_micros(at), \
     WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 'ticks', 'format' = 'json', \
     'scan.startup.mode' = 'earliest-offset')",
    "CREATE MATERIALIZED VIEW seconds AS SELECT window_start, window_end, count(*) AS n \
     FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(ts), INTERVAL '1' SECOND)) \
     GROUP BY window_start, window_end",
];
const COUNT: &str = "SELECT sum(n) FROM seconds WHERE is_final";

/// CPU time of a service that has a view and gets no events, as a share of one core.
///
/// # Errors
/// If the service does not start, or does not have its rows.
pub fn idle(seconds: u64) -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-k-").tempdir()?;
    let service = Service::start(folder.path(), free_port()?)?;
    first_result(&service)?;
    super::pass(SETTLE);
    let (before, began) = (cpu_ticks(service.pid())?, Instant::now());
    super::pass(Duration::from_secs(seconds));
    let ticks = cpu_ticks(service.pid())? - before;
    let wall = began.elapsed();
    if service.number(COUNT)?.is_none() {
        bail!("the idle service lost its rows");
    }
    Ok(f64::from(u32::try_from(ticks)?) / 100.0 / wall.as_secs_f64())
}

/// From the start of the program on an empty folder to the first final row of a view: the topic
/// is made, filled, the source and the view are declared meanwhile.
///
/// # Errors
/// If no result comes.
pub fn cold() -> Result<Duration> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-l-").tempdir()?;
    let began = Instant::now();
    let service = Service::start(folder.path(), free_port()?)?;
    first_result(&service)?;
    Ok(began.elapsed())
}

/// The same on a folder that has everything: from the start to the first answer.
///
/// # Errors
/// If no result comes.
pub fn warm() -> Result<Duration> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-l-").tempdir()?;
    let service = Service::start(folder.path(), free_port()?)?;
    first_result(&service)?;
    service.kill()?;
    restart(folder.path())
}

fn restart(folder: &Path) -> Result<Duration> {
    let began = Instant::now();
    let service = Service::start(folder, free_port()?)?;
    wait_for_rows(&service)?;
    Ok(began.elapsed())
}

fn first_result(service: &Service) -> Result<()> {
    create_topics(service.brokers(), &["ticks"])?;
    let producer = producer(service.brokers())?;
    for id in 0..ROWS {
        // Two seconds of event time: the first one closes.
        let payload = format!("{{\"id\":{id},\"at\":{}}}", id * 2_000);
        let record = BaseRecord::<(), [u8]>::to("ticks").partition(0).payload(payload.as_bytes());
        if let Err((error, _)) = producer.send(record) {
            bail!("row {id}: {error}");
        }
    }
    producer.flush(PATIENCE)?;
    for statement in STATEMENTS {
        service.execute(statement)?;
    }
    wait_for_rows(service)
}

fn wait_for_rows(service: &Service) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match service.number(COUNT) {
            Ok(Some(500)) => return Ok(()),
            Ok(Some(other)) => bail!("the first second has {other} rows, not 500"),
            Ok(None) | Err(_) if Instant::now() < until => super::pass(LOOK),
            Ok(None) => bail!("no result came"),
            Err(error) => return Err(error),
        }
    }
}

/// User and system time of a process in ticks of 10 ms.
///
/// # Errors
/// If there is no such process.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in /proc/…/stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("/proc/…/stat")?.parse()?) };
    Ok(next()? + next()?)
}
