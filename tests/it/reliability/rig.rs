//! A small pipeline under test: one source with a view and a sink over it, fed piece by piece, and
//! what must have come out of it.
//!
//! The expected result is counted by hand from what was produced, never by the code under test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_connectors::format::json;
use tidemill_connectors::log::kafka::{KafkaLog, KafkaWriter};
use tidemill_connectors::store::{Store, StoreLimits, open};
use tidemill_contract::{ErrorKind, LogWriter, PartitionId, ProduceRecord, RawRecord};
use tidemill_runtime::ledger::read_commit;
use tidemill_runtime::{JobStatus, Pipeline, Settings, StatementResult};

/// Events of one piece: two minutes, an event a second.
const PIECE: i64 = 120;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;
/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is registered.
pub(super) const SCRIPT: &str = "
    CREATE SOURCE IF NOT EXISTS events (
      id BIGINT NOT NULL, shop TEXT, amount BIGINT, at BIGINT,
      ts AS to_timestamp_millis(at),
      WATERMARK FOR ts AS ts
    ) WITH ('connector'='kafka', 'topic'='events', 'format'='json', 'topic.partitions'='1');
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
    SELECT window_start, shop, count(*) AS n, sum(amount) AS total
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
    GROUP BY window_start, shop;
    CREATE SINK IF NOT EXISTS tenth WITH ('connector'='kafka', 'topic'='tenth', 'format'='json')
    AS SELECT id, amount FROM events WHERE id % 10 = 0;";

/// A folder that costs no disk where the system has one.
pub(super) fn quick_folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Commits often, every row published at once, short deadlines.
pub(super) fn settings(folder: &Path) -> Settings {
    Settings {
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(20),
        commit_timeout: Duration::from_secs(5),
        flush_interval: Duration::ZERO,
        flush_rows: 1,
        store_limits: StoreLimits {
            try_timeout: Duration::from_millis(200),
            operation_timeout: Duration::from_millis(800),
        },
        ..Settings::default()
    }
}

/// The pipeline and its producer.
pub(super) struct Rig {
    pub(super) pipeline: Arc<Pipeline>,
    producer: KafkaWriter,
    /// Events produced so far; their ids are the numbers below.
    produced: i64,
    /// The bare bucket, to look at what is committed.
    bucket: Store,
    name: String,
}

/// The event with an id.
pub(super) fn event(id: i64) -> ProduceRecord {
    ProduceRecord {
        partition: Some(PartitionId(0)),
        key: None,
        payload: Some(Bytes::from(payload(id))),
        timestamp_ms: None,
        headers: Vec::new(),
    }
}

/// How many events the source's topic has: those produced, each whole, in order, from the first.
pub(super) async fn events_in(log: &KafkaLog) -> i64 {
    let mut next = 0;
    for record in records(log, "events").await {
        let found = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
        assert_eq!(found, payload(next));
        next += 1;
    }
    next
}

/// All records of a topic with one partition.
async fn records(log: &KafkaLog, topic: &str) -> Vec<RawRecord> {
    let marks = log.watermarks(topic).await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let found = log.read_range(topic, &from, &to).await.unwrap();
    found.into_iter().map(|(_, record)| record).collect()
}

fn payload(id: i64) -> String {
    let shop = ["ams", "ber", "cph"][usize::try_from(id % 3).unwrap()];
    format!(r#"{{"id":{id},"shop":"{shop}","amount":{},"at":{}}}"#, id % 7, START_MS + id * 1000)
}

impl Rig {
    /// Registers the statements and starts, after whatever an earlier life produced; events go by `log`, which need not be the pipeline's.
    pub(super) async fn start(name: &str, pipeline: Arc<Pipeline>, log: &KafkaLog) -> Self {
        let bucket = open(&pipeline.bucket_url(), &BTreeMap::new()).unwrap();
        log.ensure_topic("events", 1, &[]).await.unwrap();
        let produced = events_in(log).await;
        let producer = log.writer().unwrap();
        pipeline.execute(SCRIPT).await.unwrap();
        pipeline.start().await.unwrap();
        Self { pipeline, producer, produced, bucket, name: name.to_owned() }
    }

    /// Produces the next events; they are acknowledged when this returns.
    pub(super) async fn produce(&mut self) {
        self.begin_produce().await;
        self.finish_produce().await;
    }

    /// Hands the next events to the producer.
    pub(super) async fn begin_produce(&mut self) {
        for id in self.produced..self.produced + PIECE {
            self.producer.append("events", event(id)).await.unwrap();
        }
        self.produced += PIECE;
    }

    /// Waits until all events are acknowledged.
    pub(super) async fn finish_produce(&self) {
        self.producer.flush().await.unwrap();
    }

    /// Everything handed over is acknowledged, at the latest after this time.
    pub(super) async fn is_acknowledged_within(&self, at_most: Duration) -> bool {
        matches!(tokio::time::timeout(at_most, self.producer.flush()).await, Ok(Ok(())))
    }

    /// Events produced so far.
    pub(super) fn produced(&self) -> i64 {
        self.produced
    }

    pub(super) fn job(&self) -> JobStatus {
        let status = self.pipeline.status();
        status.jobs.into_iter().find(|job| job.name == "events").unwrap()
    }

    /// Waits for a state of the job; how long that took.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&JobStatus) -> bool) -> Duration {
        let started = Instant::now();
        loop {
            let job = self.job();
            if holds(&job) {
                return started.elapsed();
            }
            let is_over = job.state == "parked" || job.state == "fenced";
            assert!(!is_over, "{}: {what}: the job ended: {job:?}", self.name);
            assert!(started.elapsed() < PATIENCE, "{}: not in time: {what}: {job:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every job has committed and published everything produced, and nothing is wrong.
    pub(super) async fn until_committed(&self) {
        let started = Instant::now();
        while !self.is_committed().await {
            let jobs = self.pipeline.status().jobs;
            let is_over = |job: &JobStatus| job.state == "parked" || job.state == "fenced";
            assert!(!jobs.iter().any(is_over), "{}: a job ended: {jobs:?}", self.name);
            assert!(started.elapsed() < PATIENCE, "{}: not committed: {jobs:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn is_committed(&self) -> bool {
        let produced = u64::try_from(self.produced).unwrap();
        let jobs = self.pipeline.status().jobs;
        // A query that left its job may not have its own yet.
        let has = |query: &str| jobs.iter().any(|job| job.queries.iter().any(|name| name == query));
        if !has("per_minute") || !has("tenth") {
            return false;
        }
        for job in &jobs {
            if job.state != "running" || job.rows_in != produced {
                return false;
            }
            let commit = read_commit(&self.bucket, &job.name, job.epoch).await.unwrap();
            let committed = commit.and_then(|commit| commit.counters.get("records").copied());
            if committed != Some(produced) {
                return false;
            }
        }
        true
    }

    /// Nothing lost, nothing twice, so far: the view and the sink's topic against a count by hand.
    pub(super) async fn check(&self, log: &KafkaLog) -> Vec<String> {
        let sql = "SELECT to_unixtime(window_start) / 60 AS minute, shop, n, total
                   FROM per_minute ORDER BY minute, shop";
        let found = rows(&self.pipeline, sql).await;
        let mut counts: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
        for id in 0..self.produced {
            let row: serde_json::Value = serde_json::from_str(&payload(id)).unwrap();
            let key = (row["at"].as_i64().unwrap() / 60_000, row["shop"].as_str().unwrap().into());
            let entry = counts.entry(key).or_default();
            entry.0 += 1;
            entry.1 += row["amount"].as_i64().unwrap();
        }
        let expected: Vec<String> = counts
            .iter()
            .map(|((minute, shop), (n, total))| format!("{minute},{shop},{n},{total}"))
            .collect();
        assert_eq!(found, expected, "{}: the view; {:?}", self.name, self.job());
        let sent = sink_ids(log).await;
        let tenth: Vec<i64> = (0..self.produced).filter(|id| id % 10 == 0).collect();
        assert_eq!(sent, tenth, "{}: the sink's topic", self.name);
        found
    }
}

/// The ids in the sink's topic, sorted.
async fn sink_ids(log: &KafkaLog) -> Vec<i64> {
    let mut ids = Vec::new();
    for record in records(log, "tenth").await {
        let row: serde_json::Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        ids.push(row["id"].as_i64().unwrap());
    }
    ids.sort_unstable();
    ids
}

/// Asks until there is an answer: a query meets the faults, too, and says so.
async fn answer(pipeline: &Pipeline, sql: &str) -> Vec<StatementResult> {
    let started = Instant::now();
    loop {
        match pipeline.execute(sql).await {
            Ok(results) => return results,
            Err(error) if error.kind == ErrorKind::Unavailable && started.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The rows of a query, their values separated by commas.
async fn rows(pipeline: &Pipeline, sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for result in answer(pipeline, sql).await {
        let StatementResult::Rows { batches, schema } = result else { continue };
        for line in batches.iter().flat_map(|batch| json::encode(batch).unwrap()) {
            let row: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let value = |name: &String| row[name].to_string().trim_matches('"').to_owned();
            let names = schema.fields().iter().map(|field| field.name());
            lines.push(names.map(value).collect::<Vec<_>>().join(","));
        }
    }
    lines
}
