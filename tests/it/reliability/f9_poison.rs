//! F9: poison. Records that no source could take, among good ones, while the program is killed:
//! each is set aside with its bytes, stage and class, none is lost or set aside twice, the good rows
//! are exact, and what a `REPLAY` repairs counts as if it had been good from the start.

mod corpus;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord, RawRecord};
use tidemill_runtime::{Pipeline, Settings};

use self::corpus::{COMMON, LARGE, Poison, REPAIR, REPAIRABLE, odd, time_of};
use super::is_long;
use crate::answer::rows;
use crate::cli::tidemill;

const SCRIPT: &str = "
    CREATE SOURCE IF NOT EXISTS events (
      id BIGINT NOT NULL, small INT, amount DECIMAL(12, 2), ratio DOUBLE, flag BOOLEAN, note TEXT,
      tags ARRAY<INT>, box ROW<w INT, h INT>, day DATE, seen TIMESTAMP, data BYTES, at BIGINT,
      code TEXT, number AS CAST(code AS INT),
      ts AS to_timestamp_millis(at), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH ('connector'='kafka', 'topic'='events', 'format'='json', 'topic.partitions'='2');
    CREATE MATERIALIZED VIEW IF NOT EXISTS kept AS SELECT id, small, amount, at FROM events;
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_day AS
    SELECT window_start, small, count(*) AS n, sum(id) AS ids, sum(amount) AS amount
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' DAY))
    GROUP BY window_start, small;";
/// How long anything may take that is waited for: longer is a stall.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was appended to the topic: by partition and offset.
#[derive(Default)]
struct Sent {
    records: BTreeMap<(i32, i64), Record>,
    good: u64,
    ends: [i64; 2],
}

enum Record {
    Good,
    Poison(&'static Poison, u64),
}

impl Sent {
    fn poison(&self) -> impl Iterator<Item = (&'static Poison, u64)> {
        self.records.values().filter_map(|record| match record {
            Record::Good => None,
            Record::Poison(poison, number) => Some((*poison, *number)),
        })
    }

    fn numbers_of_repairable(&self) -> Vec<(&'static Poison, u64)> {
        self.poison().filter(|(poison, _)| REPAIRABLE.contains(&poison.name)).collect()
    }
}

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.join("data"),
        broker_listen: "127.0.0.1:0".parse().unwrap(),
        commit_interval: Duration::from_millis(100),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

/// Appends good rows with poison spread among them.
async fn fill(pipeline: &Pipeline, good: u64, poison: u64) -> Sent {
    let limits = [("max.message.bytes", "100000000")];
    pipeline.log().ensure_topic("events", 2, &limits).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    let mut sent = Sent::default();
    let gap = good / poison;
    let mut kinds = COMMON.iter().cycle();
    for number in 0..good {
        let payload = if number % 1000 == 7 { odd(number) } else { good_row(number) };
        append(&writer, &mut sent, number, payload, Record::Good).await;
        sent.good += 1;
        if number % gap == gap / 2 {
            let kind = kinds.next().unwrap();
            // Numbers of their own, so that a repaired row is no other row's double.
            let number = 1_000_000_000 + number;
            let payload = kind.bytes(number);
            append(&writer, &mut sent, number / 3, payload, Record::Poison(kind, number)).await;
        }
        if number == good / 2 {
            writer.flush().await.unwrap();
            append_large(&pipeline.brokers(), &mut sent, number);
        }
    }
    writer.flush().await.unwrap();
    sent
}

async fn append(
    writer: &impl LogWriter,
    sent: &mut Sent,
    spread: u64,
    payload: Vec<u8>,
    record: Record,
) {
    let partition = usize::try_from(spread % 2).unwrap();
    let number = i32::try_from(partition).unwrap();
    let produced = ProduceRecord {
        partition: Some(PartitionId(number)),
        key: None,
        payload: Some(Bytes::from(payload)),
        timestamp_ms: None,
        headers: Vec::new(),
    };
    writer.append("events", produced).await.unwrap();
    sent.records.insert((number, sent.ends[partition]), record);
    sent.ends[partition] += 1;
}

/// Our own writer takes no such records; others do.
fn append_large(brokers: &str, sent: &mut Sent, number: u64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.max.bytes", "100000000")
        .set("queue.buffering.max.kbytes", "200000")
        .set("compression.type", "lz4")
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for kind in LARGE {
        let payload = kind.bytes(number);
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("events").partition(0);
        producer.send(record.payload(&payload)).unwrap();
        tokio::task::block_in_place(|| producer.flush(PATIENCE)).unwrap();
        sent.records.insert((0, sent.ends[0]), Record::Poison(kind, number));
        sent.ends[0] += 1;
    }
}

fn good_row(number: u64) -> Vec<u8> {
    let (small, cents) = (number % 5, number % 997);
    let row = json!({
        "id": number, "small": small, "amount": format!("{}.{:02}", cents / 100, cents % 100),
        "at": time_of(number), "tags": [1, 2], "box": {"w": 1, "h": 2}, "code": "7",
    });
    row.to_string().into_bytes()
}

/// The program, and the end of what it says.
struct Victim {
    child: Child,
    url: String,
    said: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
}

impl Victim {
    fn start(folder: &Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
        let mut command = tidemill(folder, &arguments);
        command.env("TIDEMILL__STATE__COMMIT_INTERVAL", "100ms");
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut url, mut line) = (String::new(), String::new());
        while line.trim_end() != "tidemill: ready" {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended early");
            if let Some(rest) = line.split("listening on ").nth(1) {
                url = rest.split(';').next().unwrap().to_owned();
            }
        }
        let said = Arc::new(Mutex::new(Vec::new()));
        listen(stderr, Arc::clone(&said));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, url, said, client }
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.client.get(format!("{}/metrics", self.url)).send().await.unwrap();
        let text = text.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{job=\"events\"")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
    }

    /// Waits until so many records were read.
    async fn until_read(&mut self, records: u64) {
        let deadline = Instant::now() + PATIENCE;
        #[allow(clippy::cast_precision_loss)]
        while self.metric("tidemill_rows_in_total").await < records as f64 {
            self.assert_alive();
            let stalled = Instant::now() > deadline;
            assert!(!stalled, "{records} records were never read: {:?}", self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        let said = self.said.lock().unwrap();
        assert!(ended.is_none(), "it died by itself: {said:?}");
        assert!(!said.iter().any(|line| line.contains("panicked")), "{said:?}");
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.assert_alive();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait().map(drop)).is_err() {
            eprintln!("a child process may be left");
        }
    }
}

fn listen(stderr: BufReader<ChildStderr>, said: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            said.lock().unwrap().push(line);
        }
    });
}

async fn read_all(log: &KafkaLog, topic: &str) -> Vec<(i32, RawRecord)> {
    let marks = log.watermarks(topic).await.unwrap();
    let from = marks.iter().map(|(partition, (low, _))| (*partition, *low)).collect();
    let to = marks.iter().map(|(partition, (_, end))| (*partition, *end)).collect();
    log.read_range(topic, &from, &to).await.unwrap()
}

/// Each poison record is one dead row with its bytes, stage and class; nothing else is dead.
async fn assert_dead(pipeline: &Pipeline, sent: &Sent) {
    let mut missing: BTreeMap<(i32, i64), (&Poison, u64)> = BTreeMap::new();
    for (place, record) in &sent.records {
        if let Record::Poison(poison, number) = record {
            missing.insert(*place, (*poison, *number));
        }
    }
    for (_, record) in read_all(pipeline.log(), "events.dead").await {
        let row: Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        let partition = i32::try_from(row["partition"].as_i64().unwrap()).unwrap();
        let place = (partition, row["offset"].as_i64().unwrap());
        let found = missing.remove(&place);
        let (poison, number) = found.unwrap_or_else(|| panic!("dead twice, or not poison: {row}"));
        let said = (row["stage"].as_str().unwrap(), row["class"].as_str().unwrap());
        assert_eq!(said, (poison.stage, poison.class), "{}: {}", poison.name, row["reason"]);
        let bytes = poison.bytes(number);
        let kept = decode_base64(row["raw_base64"].as_str().unwrap());
        assert_eq!(row["raw_bytes"], bytes.len(), "{}", poison.name);
        assert!(kept == bytes[..bytes.len().min(64 << 10)], "{}: other bytes", poison.name);
    }
    let names: Vec<&str> = missing.values().map(|(poison, _)| poison.name).collect();
    assert!(names.is_empty(), "not in quarantine: {names:?}");
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => 0,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.as_bytes().chunks(4) {
        let word = four.iter().fold(0_u32, |word, byte| word << 6 | u32::from(value(*byte)));
        let padding = four.iter().filter(|byte| **byte == b'=').count();
        bytes.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    bytes
}

/// Counts and sums as SQL must give them: of the good rows, and of those that were repaired.
fn expected(sent: &Sent, good: u64) -> (u64, u64, u64) {
    let repaired = sent.numbers_of_repairable();
    let ids: u64 = (0..good).sum::<u64>() + repaired.iter().map(|(_, number)| number).sum::<u64>();
    let plain = (0..good).filter(|number| number % 1000 != 7);
    let cents: u64 = plain.map(|number| number % 997).sum();
    let commas = repaired.iter().filter(|(poison, _)| poison.name == "decimal comma").count();
    (good + repaired.len() as u64, ids, cents + 150 * commas as u64)
}

fn whole(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(f64::NAN)
}

async fn assert_sums(pipeline: &Pipeline, sql: &str, (count, ids, cents): (u64, u64, u64)) {
    let row = &rows(pipeline, sql).await[0];
    #[allow(clippy::cast_precision_loss)]
    let wanted = (count as f64, ids as f64, cents as f64);
    let cents = (whole(&row["amount"]) * 100.0).round();
    assert_eq!((whole(&row["n"]), whole(&row["ids"]), cents), wanted, "{sql}");
}

fn replay_statement() -> String {
    format!("REPLAY DEAD FROM events WITH {REPAIR}")
}

/// Kills the program while it replays, then lets it replay again.
async fn replay_with_a_kill(folder: &Path, total: u64) {
    let mut victim = Victim::start(folder);
    victim.until_read(total).await;
    let request = victim.client.post(format!("{}/api/v1/statements", victim.url));
    let request = tokio::spawn(request.body(replay_statement()).send());
    // Some of the rows are in the topic, and the book is not complete yet: or it is, by luck.
    victim.until_read(total + 1).await;
    victim.kill();
    // The answer was lost with the process, or came just before.
    drop(request.await.unwrap());
}

async fn survive(good: u64, poison: u64, kills: u64) {
    let started = Instant::now();
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    pipeline.execute(SCRIPT).await.unwrap();
    let sent = fill(&pipeline, good, poison).await;
    pipeline.stop().await.unwrap();
    drop(pipeline);
    let total = sent.records.len() as u64;
    for kill in 1..=kills {
        let mut victim = Victim::start(folder.path());
        victim.until_read(total * kill / (kills + 1)).await;
        victim.kill();
    }
    let filled = started.elapsed();
    replay_with_a_kill(folder.path(), total).await;

    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    let done = rows(&pipeline, &replay_statement()).await;
    let count = |name: &str| done[0][name].as_u64().unwrap();
    let repairable = sent.numbers_of_repairable().len() as u64;
    assert_eq!(count("replayed") + count("already_replayed"), repairable, "{done:?}");
    assert_eq!(count("still_bad") + count("not_available"), 0, "{done:?}");
    let again = rows(&pipeline, &replay_statement()).await;
    assert_eq!(again[0]["replayed"], 0, "{again:?}");

    // A row of the next day in each partition closes the day.
    let mut closing = Sent::default();
    let writer = pipeline.log().writer().unwrap();
    for partition in 0..2 {
        let at = corpus::START_MS + 2 * 86_400_000;
        let row = format!("{{\"id\":-{},\"at\":{at}}}", partition + 1).into_bytes();
        append(&writer, &mut closing, partition, row, Record::Good).await;
    }
    writer.flush().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let all = total + repairable + 2;
    let job = loop {
        let status = pipeline.status();
        let job = status.jobs.iter().find(|job| job.name == "events").unwrap().clone();
        if job.rows_in == all && job.open_slices <= 1 {
            break job;
        }
        assert!(Instant::now() < deadline, "{all} records were never read: {job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(job.conservation_drift, 0);
    assert_eq!(job.rows_late, 0);
    assert_eq!(job.rows_dead, total - good);
    let sums = expected(&sent, good);
    let batch =
        "SELECT count(*) AS n, sum(id) AS ids, sum(amount) AS amount FROM kept WHERE id >= 0";
    assert_sums(&pipeline, batch, sums).await;
    let windows = "SELECT sum(n) AS n, sum(ids) AS ids, sum(amount) AS amount FROM per_day
                   WHERE is_final AND window_start < TIMESTAMP '2024-01-02 00:00:00'";
    assert_sums(&pipeline, windows, sums).await;
    let distinct = rows(&pipeline, "SELECT count(DISTINCT id) AS n FROM kept WHERE id >= 0").await;
    assert_eq!(distinct[0]["n"], sums.0);
    assert_dead(&pipeline, &sent).await;
    assert_shown(&pipeline, &sent).await;
    pipeline.stop().await.unwrap();
    println!(
        "F9: {} kinds, {good} good + {} poison records, {} kills, {repairable} repaired; \
         {:.0} s to fill and kill, {:.0} s in all",
        COMMON.len() + LARGE.len(),
        total - good,
        kills + 1,
        filled.as_secs_f64(),
        started.elapsed().as_secs_f64(),
    );
}

/// `SHOW DEAD` counts each stage and class.
async fn assert_shown(pipeline: &Pipeline, sent: &Sent) {
    let mut wanted: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for (poison, _) in sent.poison() {
        let key = (poison.stage.to_owned(), poison.class.to_owned());
        let entry = wanted.entry(key).or_default();
        entry.0 += 1;
        entry.1 += u64::from(REPAIRABLE.contains(&poison.name));
    }
    let mut found = BTreeMap::new();
    for row in rows(pipeline, "SHOW DEAD FROM events").await {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let number = |name: &str| row[name].as_u64().unwrap();
        found.insert((text("stage"), text("class")), (number("rows"), number("replayed")));
    }
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_among_good_rows_is_set_aside_whole_and_can_be_repaired() {
    assert!(COMMON.len() + LARGE.len() >= 60);
    if is_long() {
        survive(1_000_000, 10_000, 5).await;
    } else {
        survive(60_000, 1_200, 1).await;
    }
}
