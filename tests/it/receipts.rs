//! Receipts of closed windows end to end: one for each window, over restarts, with the offsets and
//! rows that a count by hand finds; and rows that were late, dead or there twice add up.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::log::kafka::KafkaWriter;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};
use tidemill_runtime::{Pipeline, Settings};

use crate::answer::rows;

const MINUTE_MS: i64 = 60_000;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(30),
        retry_interval: Duration::from_millis(10),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

/// Waits until a query gives what is waited for.
async fn until(pipeline: &Pipeline, sql: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = rows(pipeline, sql).await;
        if holds(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{sql}: {found:?}\n{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sum(rows: &[Value], name: &str) -> i64 {
    rows.iter().map(|row| row[name].as_i64().unwrap()).sum()
}

const RECEIPTS: &str = "
    SELECT CAST(to_unixtime(window_start) / 60 AS BIGINT) AS minute, reason, rows_in, on_time,
           behind, rows_out, late, dead, duplicates, offsets, watermark IS NULL AS at_end
    FROM \"per_minute$receipts\" ORDER BY minute";

fn view(of: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
         SELECT window_start, window_end, count(*) AS n
         FROM TABLE(TUMBLE(TABLE {of}, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
         GROUP BY window_start, window_end"
    )
}

/// What was produced, and what each minute was computed from.
#[derive(Default)]
struct Produced {
    next: BTreeMap<i32, i64>,
    minutes: BTreeMap<i64, (i64, BTreeMap<String, [i64; 2]>)>,
}

impl Produced {
    /// `second` after the start; a row that is not counted on time, or a dead one.
    async fn add(
        &mut self,
        writer: &KafkaWriter,
        partition: i32,
        second: Option<i64>,
        counts: bool,
    ) {
        let payload = match second {
            Some(second) => format!("{{\"at\":{}}}", START_MS + second * 1000),
            None => "{\"at\":".to_owned(),
        };
        let record = ProduceRecord {
            partition: Some(PartitionId(partition)),
            key: None,
            payload: Some(Bytes::from(payload)),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append("events", record).await.unwrap();
        let next = self.next.entry(partition).or_default();
        let offset = *next;
        *next += 1;
        if let Some(second) = second.filter(|_| counts) {
            let minute = START_MS / MINUTE_MS + second.div_euclid(60);
            let (rows, offsets) = self.minutes.entry(minute).or_default();
            *rows += 1;
            let range = offsets.entry(partition.to_string()).or_insert([offset, offset]);
            range[1] = offset;
        }
    }

    fn all(&self) -> u64 {
        u64::try_from(self.next.values().sum::<i64>()).unwrap()
    }
}

async fn until_read(pipeline: &Pipeline, records: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while pipeline.status().jobs.iter().any(|job| job.rows_in != records) {
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_window_has_one_receipt_over_restarts() {
    let folder = TempDir::new().unwrap();
    let mut pipeline = open(folder.path()).await;
    let source = "CREATE SOURCE events (at BIGINT, ts AS to_timestamp_millis(at),
          WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
        ) WITH ('connector'='kafka', 'topic'='events', 'format'='json', 'topic.partitions'='2',
                'scan.watermark.idle-timeout'='1 s');";
    pipeline.execute(&format!("{source}{}", view("events"))).await.unwrap();
    pipeline.start().await.unwrap();
    let mut produced = Produced::default();
    for life in 0..3_i64 {
        let writer = pipeline.log().writer().unwrap();
        // Each life is two minutes: in order on one partition, backwards on the other.
        for step in 0..8 {
            produced.add(&writer, 0, Some(life * 120 + step * 17), true).await;
            produced.add(&writer, 1, Some(life * 120 + (step ^ 1) * 17), true).await;
            if step == 5 {
                produced.add(&writer, 0, None, false).await;
            }
        }
        writer.flush().await.unwrap();
        until_read(&pipeline, produced.all()).await;
        if life > 0 {
            produced.add(&writer, 1, Some(life * 120 - 100), false).await;
            writer.flush().await.unwrap();
            until_read(&pipeline, produced.all()).await;
        }
        pipeline.stop().await.unwrap();
        pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
    }
    // The last windows close by the clock.
    let found = until(&pipeline, RECEIPTS, |rows| rows.len() == produced.minutes.len()).await;
    for row in &found {
        let (count, offsets) = &produced.minutes[&row["minute"].as_i64().unwrap()];
        assert_eq!(row["rows_in"].as_i64(), Some(*count), "{row}");
        assert_eq!(row["rows_out"].as_i64(), Some(1), "{row}");
        assert_eq!(row["on_time"].as_i64().unwrap() + row["behind"].as_i64().unwrap(), *count);
        let ranges: BTreeMap<String, [i64; 2]> =
            serde_json::from_str(row["offsets"].as_str().unwrap()).unwrap();
        assert_eq!(ranges, *offsets, "{row}");
    }
    assert_eq!(found[0]["reason"], "watermark");
    assert_eq!(found.last().unwrap()["reason"], "idle");
    assert_eq!((sum(&found, "late"), sum(&found, "dead"), sum(&found, "duplicates")), (2, 3, 0));
    let late = rows(&pipeline, "SELECT count(*) AS n FROM \"events$late\"").await;
    assert_eq!(sum(&late, "n"), 2);
    // One for each window, also after another restart.
    pipeline.stop().await.unwrap();
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert_eq!(rows(&pipeline, RECEIPTS).await, found);
    // Those of a view that was dropped are not those of the next one by its name.
    pipeline.execute(&format!("DROP VIEW per_minute; {}", view("events"))).await.unwrap();
    let again = until(&pipeline, RECEIPTS, |rows| rows.len() == produced.minutes.len()).await;
    // Read in one go the late rows may be in time.
    let all = |receipts: &[Value]| sum(receipts, "rows_in") + sum(receipts, "late");
    assert_eq!(all(&again), all(&found));
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_a_feed_wrote_twice_are_told_and_the_end_closes_what_is_open() {
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("in");
    std::fs::create_dir(&input).unwrap();
    let file = |name: &str, from: i64| {
        let lines: String =
            (0..90).map(|second| format!("{}\n", START_MS + (from + second) * 1000)).collect();
        std::fs::write(input.join(name), format!("at\n{lines}")).unwrap();
    };
    file("a.csv", 0);
    let source = |options: &str| {
        format!(
            "CREATE SOURCE events (at BIGINT, ts AS to_timestamp_millis(at), WATERMARK FOR ts AS ts)
             WITH ('connector'='filesystem', 'path'='{}/*.csv', 'format'='csv',
                   'topic'='events', 'topic.partitions'='1' {options});",
            input.display()
        )
    };
    let data = folder.path().join("data");
    let pipeline = open(&data).await;
    let followed = source(", 'source.monitor-interval'='20 ms'");
    pipeline.execute(&format!("{followed}{}", view("events"))).await.unwrap();
    pipeline.start().await.unwrap();
    until_read(&pipeline, 90).await;
    // What a feed that was stopped half way appends when it wakes up, after a restart.
    pipeline.stop().await.unwrap();
    let pipeline = open(&data).await;
    pipeline.start().await.unwrap();
    let (from, to) = ([(0, 70)].into(), [(0, 90)].into());
    let copies = pipeline.log().read_range("events", &from, &to).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    for (partition, copy) in copies {
        let record = ProduceRecord {
            partition: Some(PartitionId(partition)),
            key: copy.key,
            payload: copy.payload,
            timestamp_ms: None,
            headers: copy.headers,
        };
        writer.append("events", record).await.unwrap();
    }
    writer.flush().await.unwrap();
    until_read(&pipeline, 110).await;
    file("b.csv", 120);
    let found = until(&pipeline, RECEIPTS, |rows| rows.len() == 3).await;
    let counts: Vec<i64> = found.iter().map(|row| row["rows_in"].as_i64().unwrap()).collect();
    assert_eq!(counts, [60, 30 + 20, 60], "repeats are told and count");
    assert_eq!(sum(&found, "duplicates"), 20);
    assert_eq!(found[0]["duplicates"], 0, "it closed before them");
    pipeline.stop().await.unwrap();

    // Bounded: the end closes everything.
    let pipeline = open(&folder.path().join("bounded")).await;
    pipeline.execute(&format!("{}{}", source(""), view("events"))).await.unwrap();
    pipeline.start().await.unwrap();
    let found = until(&pipeline, RECEIPTS, |rows| rows.len() == 4).await;
    let last = found.last().unwrap();
    assert_eq!((&last["reason"], &last["at_end"]), (&"end".into(), &true.into()));
    assert_eq!(sum(&found, "rows_in"), 180);
    pipeline.stop().await.unwrap();
}
