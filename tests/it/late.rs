//! Late rows end to end: what a view with `LATE REVISE` shows, what its Delta table holds and what
//! its alerts say is what the rows say that came in time, over restarts, kills and compactions.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use tidemill_connectors::sinks::delta::{self, CompactSettings, DataFileName, FileOrigin};
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{
    LogWriter, PartitionId, ProduceRecord, RevisedTable, StagedFile, WindowBounds,
};
use tidemill_runtime::{JobStatus, Pipeline, Settings};

use crate::answer::rows;
use crate::cli::{finish, tidemill};

const MINUTE_MS: i64 = 60_000;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

/// Rows and their sum by start of the window in minutes and shop.
type Counted = BTreeMap<(i64, String), (i64, i64)>;

#[derive(Debug, Clone)]
struct Event {
    shop: &'static str,
    amount: i64,
    at: i64,
}

impl Event {
    fn json(&self) -> String {
        let Self { shop, amount, at } = self;
        format!("{{\"shop\":\"{shop}\",\"amount\":{amount},\"at\":{at}}}")
    }
}

fn count(events: &[Event], starts: fn(i64) -> Vec<i64>) -> Counted {
    let mut counted = Counted::new();
    for event in events {
        for start in starts(event.at.div_euclid(MINUTE_MS)) {
            let entry = counted.entry((start, event.shop.to_owned())).or_default();
            entry.0 += 1;
            entry.1 += event.amount;
        }
    }
    counted
}

/// The table of a view as its active files hold it.
async fn table(store: &Store, bucket: &Path, view: &str) -> Counted {
    let mut rows = Counted::new();
    for file in delta::files(store, view).await.unwrap() {
        let file = std::fs::File::open(bucket.join(file)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let number = |name: &str| {
                let column = cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
                column.as_primitive::<Int64Type>().values().to_vec()
            };
            let (starts, n, total) = (number("window_start"), number("n"), number("total"));
            let shops = batch.column_by_name("shop").unwrap().as_string::<i32>().clone();
            for row in 0..batch.num_rows() {
                let key = (starts[row] / 1000 / MINUTE_MS, shops.value(row).to_owned());
                let known = rows.insert(key.clone(), (n[row], total[row]));
                assert!(known.is_none(), "{key:?} is there twice");
            }
        }
    }
    rows
}

/// The same, read by the Python package `deltalake`; `None` if there is no interpreter for it.
fn table_in_python(bucket: &Path, view: &str) -> Option<Counted> {
    const SCRIPT: &str = r#"
import os, sys, deltalake
table = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table().to_pylist()
for row in table:
    minute = int(row["window_start"].timestamp()) // 60
    print(minute, row["shop"], int(row["n"]), int(row["total"]))
sys.stdout.flush()
os._exit(0)
"#;
    let Ok(python) = std::env::var("TIDEMILL_PYTHON") else {
        println!("left out: TIDEMILL_PYTHON names no interpreter with the package deltalake");
        return None;
    };
    let place = bucket.join("tables").join(view);
    let output = Command::new(python).args(["-c", SCRIPT]).arg(place).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows = Counted::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| parts[index].parse::<i64>().unwrap();
        let known = rows.insert((number(0), parts[1].to_owned()), (number(2), number(3)));
        assert!(known.is_none(), "twice: {line}");
    }
    Some(rows)
}

async fn open(folder: &Path) -> Arc<Pipeline> {
    open_with(folder, &[]).await
}

/// With properties of the client of the log.
async fn open_with(folder: &Path, properties: &[(&str, &str)]) -> Arc<Pipeline> {
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let settings = Settings {
        kafka_properties: properties.iter().map(text).collect(),
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(30),
        flush_interval: Duration::from_millis(60),
        flush_rows: 500,
        retry_interval: Duration::from_millis(10),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

async fn produce(pipeline: &Pipeline, events: &[Event]) {
    pipeline.log().ensure_topic("events", 1, &[]).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    for event in events {
        let record = ProduceRecord {
            partition: Some(PartitionId(0)),
            key: None,
            payload: Some(Bytes::from(event.json())),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append("events", record).await.unwrap();
    }
    writer.flush().await.unwrap();
}

async fn selected(pipeline: &Pipeline, view: &str) -> Counted {
    let sql = format!(
        "SELECT CAST(to_unixtime(window_start) / 60 AS BIGINT) AS minute, shop, \
         CAST(n AS BIGINT) AS n, CAST(total AS BIGINT) AS total FROM {view} WHERE is_final"
    );
    let mut counted = Counted::new();
    for row in rows(pipeline, &sql).await {
        let number = |name: &str| row[name].as_i64().unwrap();
        let key = (number("minute"), row["shop"].as_str().unwrap().to_owned());
        let known = counted.insert(key, (number("n"), number("total")));
        assert!(known.is_none(), "twice: {row}");
    }
    counted
}

fn job(pipeline: &Pipeline) -> JobStatus {
    pipeline.status().jobs.iter().find(|job| job.name == "events").cloned().unwrap()
}

/// Waits until the job has read so many rows.
async fn until_read(pipeline: &Pipeline, rows: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while pipeline.status().jobs.iter().all(|job| job.rows_in != rows as u64) {
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the view's table holds what is expected.
async fn until_in_table(pipeline: &Pipeline, folder: &Path, view: &str, expected: &Counted) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = table(pipeline.store(), &folder.join("bucket"), view).await;
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{view}: {found:?}\nnot {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn source(options: &str) -> String {
    format!(
        "CREATE SOURCE IF NOT EXISTS events (
           shop TEXT, amount BIGINT, at BIGINT, ts AS to_timestamp_millis(at),
           WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
         ) WITH ({options}, 'format'='json');"
    )
}

fn view(name: &str, window: &str, late: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS {name} AS
         SELECT window_start, window_end, shop, count(*) AS n, sum(amount) AS total
         FROM TABLE({window}) GROUP BY window_start, window_end, shop
         EMIT ON WINDOW CLOSE {late};"
    )
}

const MINUTES: &str = "TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)";
const HOPS: &str = "HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTE)";
const DAY: &str = "LATE REVISE FOR INTERVAL '1' DAY";

fn minute(minute: i64) -> Vec<i64> {
    vec![minute]
}

fn three_minutes(minute: i64) -> Vec<i64> {
    vec![minute - 2, minute - 1, minute]
}

fn at(shop: &'static str, minute: i64) -> Event {
    Event { shop, amount: 1 + minute % 5, at: START_MS + minute * MINUTE_MS + 100 }
}

/// What a table holds while minute 20 and everything after is open.
fn closed(events: &[Event], starts: fn(i64) -> Vec<i64>, length: i64) -> Counted {
    let mut counted = count(events, starts);
    counted.retain(|(start, _), _| start + length <= START_MS / MINUTE_MS + 20);
    counted
}

/// What stands after all corrections, as `status window subject`; every id comes once.
async fn alerts_that_hold(pipeline: &Pipeline) -> BTreeSet<String> {
    let marks = pipeline.log().watermarks("alerts").await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let mut ids = BTreeSet::new();
    let mut holds = BTreeMap::new();
    for (_, record) in pipeline.log().read_range("alerts", &from, &to).await.unwrap() {
        let event: serde_json::Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        assert!(ids.insert(text(&event["id"])), "an alert came twice: {event}");
        let data = &event["data"];
        let line = |status: &serde_json::Value| {
            format!(
                "{} {} {}",
                text(status),
                text(&data["window"]["start"]),
                text(&event["subject"])
            )
        };
        if data["status"] != "revised" {
            holds.insert(text(&event["id"]), line(&data["status"]));
            continue;
        }
        assert_eq!(event["type"], "io.tidemill.alert.revised");
        if data["before"].is_object() {
            holds.remove(&text(&data["before"]["id"])).expect("it was said");
        }
        if data["after"].is_object() {
            holds.insert(text(&data["after"]["id"]), line(&data["after"]["status"]));
        }
    }
    holds.into_values().collect()
}

/// Waits for an alert; gives all that stand then. The rows of a commit are in their table before
/// its alerts are in their topic.
async fn until_alert(pipeline: &Pipeline, line: &str) -> BTreeSet<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let holds = alerts_that_hold(pipeline).await;
        if holds.contains(line) {
            return holds;
        }
        assert!(Instant::now() < deadline, "{line}: {holds:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_revise_the_table_the_answers_and_the_alerts() {
    let folder = TempDir::new().unwrap();
    let mut events = Vec::new();
    for minute in 0..15 {
        events.extend([at("ams", minute), at("ber", minute), at("ber", minute)]);
    }
    // Ten seconds into minute 20: with the delay of five, everything before it closes.
    events.push(Event { at: START_MS + 20 * MINUTE_MS + 10_000, ..at("end", 20) });
    let mut pipeline = open(folder.path()).await;
    let statements = source("'connector'='kafka', 'topic'='events'")
        + &view("per_minute", MINUTES, DAY)
        + &view("hops", HOPS, DAY)
        + &view("dropped", MINUTES, "LATE DROP")
        + &view("kept", MINUTES, "LATE TO too_late")
        + "CREATE ALERT busy ON per_minute WHEN n >= 3 BY shop;
           CREATE ALERT quiet ON per_minute WHEN n < 2 FOR 2 WINDOWS BY shop;";
    produce(&pipeline, &events).await;
    pipeline.execute(&statements).await.unwrap();
    pipeline.start().await.unwrap();
    until_read(&pipeline, events.len()).await;
    let on_time = closed(&events, minute, 1);
    until_in_table(&pipeline, folder.path(), "per_minute", &on_time).await;
    let before = "firing 2024-01-01T00:01:00Z shop=ams";
    let undisturbed = until_alert(&pipeline, before).await;
    assert!(undisturbed.iter().all(|line| !line.contains("ber")), "{undisturbed:?}");

    // Twice: a row of an old key, of a new key, of a window without rows, and one far too late.
    for life in 0..2 {
        let minutes = [("ams", 3), ("ams", 3 + life), ("cph", 5), ("ams", 17), ("ber", 9)];
        let late: Vec<Event> = minutes.iter().map(|(shop, minute)| at(shop, *minute)).collect();
        produce(&pipeline, &late).await;
        produce(&pipeline, &[at("old", -2 * 24 * 60)]).await;
        events.extend(late);
        until_read(&pipeline, events.len() + 1 + life as usize).await;
        // At once, whether or not it is committed.
        assert_eq!(selected(&pipeline, "per_minute").await, closed(&events, minute, 1));
        assert_eq!(selected(&pipeline, "hops").await, closed(&events, three_minutes, 3));
        until_in_table(&pipeline, folder.path(), "per_minute", &closed(&events, minute, 1)).await;
        until_in_table(&pipeline, folder.path(), "hops", &closed(&events, three_minutes, 3)).await;
        assert_eq!(selected(&pipeline, "per_minute").await, closed(&events, minute, 1));
        pipeline.stop().await.unwrap();
        pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
        until_read(&pipeline, events.len() + 1 + life as usize).await;
        assert_eq!(selected(&pipeline, "hops").await, closed(&events, three_minutes, 3));
    }
    assert_eq!(selected(&pipeline, "dropped").await, on_time);
    assert_eq!(selected(&pipeline, "kept").await, on_time);
    assert_told(&pipeline).await;
    let holds = alerts_that_hold(&pipeline).await;
    for line in [
        "firing 2024-01-01T00:03:00Z shop=ams",
        "resolved 2024-01-01T00:04:00Z shop=ams",
        "firing 2024-01-01T00:09:00Z shop=ber",
    ] {
        assert!(holds.contains(line) && !undisturbed.contains(line), "{line}: {holds:?}");
    }
    assert!(holds.contains(before), "{holds:?}");
    // Three quiet minutes less: what resolved at the end resolved earlier, and fired again.
    for line in ["resolved 2024-01-01T00:03:00Z shop=ams", "firing 2024-01-01T00:06:00Z shop=ams"] {
        assert!(holds.contains(line), "{line}: {holds:?}");
    }
    pipeline.stop().await.unwrap();
    for (name, expected) in [
        ("per_minute", closed(&events, minute, 1)),
        ("hops", closed(&events, three_minutes, 3)),
        ("dropped", on_time),
    ] {
        if let Some(found) = table_in_python(&folder.path().join("bucket"), name) {
            assert_eq!(found, expected, "{name}");
        }
    }
}

/// The counters, the relations of late rows and of changes, after the two lives above.
async fn assert_told(pipeline: &Pipeline) {
    let status = job(pipeline);
    assert_eq!(status.conservation_drift, 0);
    for (name, late, revised) in
        [("per_minute", 2, 10), ("hops", 2, 10), ("dropped", 12, 0), ("kept", 12, 0)]
    {
        let count = status.counters[name];
        assert_eq!((count.late, count.revised), (late, revised), "{name}: {count:?}");
    }
    let kept = rows(pipeline, "SELECT query, raw_text FROM too_late").await;
    assert_eq!(kept.len(), 12, "{kept:?}");
    assert!(kept.iter().all(|row| row["query"] == "kept"), "{kept:?}");
    let late = rows(pipeline, "SELECT query, raw_text FROM \"events$late\" ORDER BY query").await;
    let queries: Vec<&str> = late.iter().map(|row| row["query"].as_str().unwrap()).collect();
    assert_eq!(queries, ["hops", "hops", "per_minute", "per_minute"], "{late:?}");
    let shown = rows(pipeline, "SHOW TABLES").await;
    assert!(shown.iter().any(|row| row["name"] == "too_late"), "{shown:?}");
    let changes = rows(
        pipeline,
        "SELECT key, before, after, late_rows FROM \"per_minute$revisions\" \
         WHERE window_start = TIMESTAMP '2024-01-01T00:03:00Z' ORDER BY epoch",
    )
    .await;
    let n = |value: &serde_json::Value| -> i64 {
        let row: serde_json::Value = serde_json::from_str(value.as_str().unwrap()).unwrap();
        row["n"].as_i64().unwrap()
    };
    assert!(changes.iter().all(|row| row["key"] == "{\"shop\":\"ams\"}"), "{changes:?}");
    assert_eq!(n(&changes[0]["before"]), 1);
    assert_eq!(n(&changes[changes.len() - 1]["after"]), 4);
    for (before, after) in changes.iter().zip(&changes[1..]) {
        assert_eq!(before["after"], after["before"], "{changes:?}");
    }
    let late_rows: i64 = changes.iter().map(|row| row["late_rows"].as_i64().unwrap()).sum();
    assert_eq!(late_rows, 3);
}

/// Waits until a view's job has given up, and tells why.
async fn until_parked(pipeline: &Pipeline, view: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let jobs = pipeline.status().jobs;
        let found = jobs.into_iter().find(|job| job.queries.iter().any(|name| name == view));
        if let Some(JobStatus { state, error: Some(error), name, .. }) = found
            && state == "parked"
        {
            assert_ne!(name, "events", "it has a job of its own");
            return error;
        }
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The files of a table are damaged when rows in them are to be replaced: the view leaves its job
/// with the revision committed and not done, over a restart too; after the repair it is done, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_takes_its_revision_along_when_it_leaves_its_job() {
    let folder = TempDir::new().unwrap();
    let bucket = folder.path().join("bucket");
    let mut events: Vec<Event> = (0..15).map(|minute| at("ams", minute)).collect();
    events.push(Event { at: START_MS + 20 * MINUTE_MS + 10_000, ..at("end", 20) });
    let mut pipeline = open(folder.path()).await;
    let statements = source("'connector'='kafka', 'topic'='events'")
        + &view("per_minute", MINUTES, DAY)
        + &view("hops", HOPS, DAY)
        + "CREATE ALERT busy ON per_minute WHEN n >= 2 BY shop;";
    produce(&pipeline, &events).await;
    pipeline.execute(&statements).await.unwrap();
    pipeline.start().await.unwrap();
    until_read(&pipeline, events.len()).await;
    let on_time = closed(&events, minute, 1);
    until_in_table(&pipeline, folder.path(), "per_minute", &on_time).await;
    until_in_table(&pipeline, folder.path(), "hops", &closed(&events, three_minutes, 3)).await;

    let mut whole = BTreeMap::new();
    for file in delta::files(pipeline.store(), "per_minute").await.unwrap() {
        let path = bucket.join(file);
        let content = std::fs::read(&path).unwrap();
        let mut damaged = content.clone();
        damaged[content.len() / 2] ^= 0x40;
        std::fs::write(&path, damaged).unwrap();
        whole.insert(path, content);
    }
    let late = [at("ams", 3), at("cph", 5)];
    produce(&pipeline, &late).await;
    events.extend(late);
    let error = until_parked(&pipeline, "per_minute").await;
    assert!(error.contains("TM568"), "{error}");
    // Who stays has its own revisions.
    until_in_table(&pipeline, folder.path(), "hops", &closed(&events, three_minutes, 3)).await;
    pipeline.stop().await.unwrap();
    pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    until_parked(&pipeline, "per_minute").await;
    let known = delta::files(pipeline.store(), "per_minute").await.unwrap();
    assert!(known.iter().all(|file| whole.contains_key(&bucket.join(file))), "nothing was added");

    for (path, content) in &whole {
        std::fs::write(path, content).unwrap();
    }
    pipeline.execute("RESUME per_minute").await.unwrap();
    until_in_table(&pipeline, folder.path(), "per_minute", &closed(&events, minute, 1)).await;
    assert_eq!(selected(&pipeline, "per_minute").await, closed(&events, minute, 1));
    // And goes on from there.
    let late = [at("ams", 3), at("cph", 17)];
    produce(&pipeline, &late).await;
    events.extend(late);
    until_in_table(&pipeline, folder.path(), "per_minute", &closed(&events, minute, 1)).await;
    until_in_table(&pipeline, folder.path(), "hops", &closed(&events, three_minutes, 3)).await;
    let sql = "SELECT key, late_rows FROM \"per_minute$revisions\"";
    assert_eq!(rows(&pipeline, sql).await.len(), 4, "each change is told once");
    let holds = alerts_that_hold(&pipeline).await;
    assert!(holds.contains("firing 2024-01-01T00:03:00Z shop=ams"), "{holds:?}");
    pipeline.stop().await.unwrap();
}

/// What late rows changed in a view does not fit into the topic that says so: the view leaves its
/// job with it, nothing is left out, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_cannot_be_told_waits_until_it_can() {
    let folder = TempDir::new().unwrap();
    let mut events = vec![at("ams", 3); 5];
    events.push(Event { at: START_MS + 20 * MINUTE_MS + 10_000, ..at("end", 20) });
    let pipeline = open_with(folder.path(), &[("message.max.bytes", "4000")]).await;
    let texts = format!(
        "CREATE MATERIALIZED VIEW texts AS
         SELECT window_start, window_end, count(*) AS n, string_agg(repeat(shop, 200), '') AS text
         FROM TABLE({MINUTES}) GROUP BY window_start, window_end {DAY};"
    );
    let statements = source("'connector'='kafka', 'topic'='events'")
        + &view("per_minute", MINUTES, DAY)
        + &texts;
    produce(&pipeline, &events).await;
    pipeline.execute(&statements).await.unwrap();
    pipeline.start().await.unwrap();
    until_read(&pipeline, events.len()).await;
    until_in_table(&pipeline, folder.path(), "per_minute", &closed(&events, minute, 1)).await;

    // 3,000 characters before and 3,600 after.
    produce(&pipeline, &[at("ams", 3)]).await;
    events.push(at("ams", 3));
    let error = until_parked(&pipeline, "texts").await;
    assert!(error.contains("TM515") && error.contains("texts.revisions"), "{error}");
    until_in_table(&pipeline, folder.path(), "per_minute", &closed(&events, minute, 1)).await;
    let told = rows(&pipeline, "SELECT key, after FROM \"per_minute$revisions\"").await;
    assert_eq!(told.len(), 1, "{told:?}");
    pipeline.stop().await.unwrap();

    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let told = loop {
        let told = rows(&pipeline, "SELECT before, after FROM \"texts$revisions\"").await;
        if !told.is_empty() {
            break told;
        }
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let n = |side: &str| -> i64 {
        let row: serde_json::Value = serde_json::from_str(told[0][side].as_str().unwrap()).unwrap();
        row["n"].as_i64().unwrap()
    };
    assert_eq!((told.len(), n("before"), n("after")), (1, 5, 6));
    let closed = rows(&pipeline, "SELECT n FROM texts WHERE is_final").await;
    assert_eq!(closed, [serde_json::json!({"n": 6})]);
    pipeline.stop().await.unwrap();
}

/// Events in order, every fifth up to half an hour late.
fn disordered(count: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for number in 0..count {
        let back = if number % 5 == 0 { number * 7919 % 1_800_000 } else { 0 };
        let shop = ["ams", "ber", "cph"][usize::try_from(number % 3).unwrap()];
        let at = (START_MS + number * 100 - back).max(START_MS);
        events.push(Event { shop, amount: number % 11, at });
    }
    events
}

/// The record of the newest commit of the source's job.
fn newest_commit(bucket: &Path) -> String {
    let slots = std::fs::read_dir(bucket.join("commits/events")).unwrap();
    let paths = slots.map(|slot| slot.unwrap().path());
    let records = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    std::fs::read_to_string(records.max().expect("a commit")).unwrap()
}

/// The program, killed where a commit with revisions becomes true and visible, again and again.
#[test]
fn kills_around_revisions_change_nothing() {
    let folder = TempDir::new().unwrap();
    let events = disordered(100_000);
    let lines: Vec<String> = events.iter().map(Event::json).collect();
    std::fs::write(folder.path().join("events.jsonl"), lines.join("\n")).unwrap();
    let path = folder.path().join("events.jsonl");
    let options = format!("'connector'='filesystem', 'path'='{}'", path.display());
    let script = source(&options) + &view("per_minute", MINUTES, DAY) + &view("hops", HOPS, DAY);
    std::fs::write(folder.path().join("late.sql"), script).unwrap();
    let run = |points: &str| {
        let mut command = tidemill(folder.path(), &["run", "late.sql", "--data-dir", "data"]);
        command.env("TIDEMILL__STATE__COMMIT_INTERVAL", "1ms");
        command.env("TIDEMILL__STATE__FLUSH_INTERVAL", "1ms");
        command.env("TIDEMILL_FAILPOINTS", points);
        finish(command)
    };
    let bucket = folder.path().join("data/bucket");
    let dies = |points: &str| {
        let outcome = run(points);
        assert_eq!(outcome.code, None, "{points}: {}\n{}", outcome.stdout, outcome.stderr);
    };
    let replaces_rows = || newest_commit(&bucket).contains("\"revised\":[");
    dies("commit.after_create=abort@2");
    while !replaces_rows() {
        dies("commit.after_create=abort@2");
    }
    // The tables do not have it, then they do; then it is taken over without what it replaces.
    for points in ["publish.before_table=abort@1", "recover.before_take_over=abort@1"] {
        dies(points);
        assert!(replaces_rows(), "{points}: the same commit is the newest");
    }
    dies("recover.taken_over=abort@1");
    assert!(!replaces_rows(), "a take-over would replace rows by none");
    dies("publish.after_table=abort@3");
    dies("publish.before_table=abort@4");
    dies("commit.before_create=abort@2");
    let calm = run("");
    assert_eq!(calm.code, Some(0), "{}\n{}", calm.stdout, calm.stderr);
    let store = store::open(&bucket.to_string_lossy(), &BTreeMap::new()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (name, starts) in [("per_minute", minute as fn(i64) -> Vec<i64>), ("hops", three_minutes)] {
        let expected = count(&events, starts);
        assert_eq!(runtime.block_on(table(&store, &bucket, name)), expected, "{name}");
        if let Some(found) = table_in_python(&bucket, name) {
            assert_eq!(found, expected, "{name}");
        }
    }
    let log = std::fs::read_dir(bucket.join("tables/per_minute/_delta_log")).unwrap();
    let is_rewrite = |text: &str| text.contains("\"UPDATE\"") && text.contains("{\"remove\":");
    let rewrites = log.filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        let is_entry = path.extension().is_some_and(|extension| extension == "json");
        is_entry && is_rewrite(&std::fs::read_to_string(path).unwrap())
    });
    assert!(rewrites.count() > 0, "no file was ever written again");
}

/// Rows of windows of a minute, one shop.
fn minutes(starts: impl Iterator<Item = i64>, n: i64) -> RecordBatch {
    let starts: Vec<i64> = starts.map(|minute| minute * MINUTE_MS * 1000).collect();
    let ends: Vec<i64> = starts.iter().map(|start| start + MINUTE_MS * 1000).collect();
    let count = starts.len();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema = Schema::new(vec![
        Field::new("window_start", time.clone(), true),
        Field::new("window_end", time, true),
        Field::new("shop", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("total", DataType::Int64, true),
    ]);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(TimestampMicrosecondArray::from(starts)),
            Arc::new(TimestampMicrosecondArray::from(ends)),
            Arc::new(StringArray::from(vec!["ams"; count])),
            Arc::new(Int64Array::from(vec![n; count])),
            Arc::new(Int64Array::from(vec![n; count])),
        ],
    )
    .unwrap()
}

async fn stage(store: &Store, rows: &RecordBatch, name: &str) -> StagedFile {
    let content = delta::write_parquet(std::slice::from_ref(rows)).unwrap();
    let path = delta::location("v").join(name);
    let file = StagedFile {
        view: "v".to_owned(),
        path: path.to_string(),
        bytes: content.len() as u64,
        rows: rows.num_rows() as u64,
        // Of the parts of a commit only state and outbox are compared with theirs.
        crc32c: 0,
    };
    store::put(store, &path, content).await.unwrap();
    file
}

/// Compaction and revision of one table at the same moment, over and over: whichever is first, no
/// old row comes back and no other row goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_beside_a_revision_brings_nothing_back() {
    let folder = TempDir::new().unwrap();
    let store = store::open(&folder.path().to_string_lossy(), &BTreeMap::new()).unwrap();
    delta::create_if_missing(&store, "v", &minutes(0..1, 0).schema()).await.unwrap();
    let settings = CompactSettings { files_min: 2, ..CompactSettings::default() };
    let mut expected = Counted::new();
    let (mut version, mut beaten, mut compacted) = (0, 0, 0);
    for round in 0..20 {
        for part in 0..3 {
            version += 1;
            let first = 100 * round + 10 * part;
            let rows = minutes(first..first + 10, 1);
            let file = stage(&store, &rows, &format!("part-{version}.parquet")).await;
            assert!(delta::add_files(&store, "v", &[file], "job", version).await.unwrap());
            expected.extend((first..first + 10).map(|minute| ((minute, "ams".to_owned()), (1, 1))));
        }
        version += 1;
        // One window of each of the three files, and one of a round before.
        let windows: BTreeSet<i64> =
            [5, 15, 25, -75].iter().map(|offset| (100 * round + offset).max(5)).collect();
        let rows = minutes(windows.iter().copied(), version);
        let file = stage(&store, &rows, &format!("part-{version}.parquet")).await;
        let bounds = |minute: &i64| {
            let start = minute * MINUTE_MS * 1000;
            WindowBounds { start, end: start + MINUTE_MS * 1000 }
        };
        let revised = RevisedTable {
            view: "v".to_owned(),
            start_column: "window_start".to_owned(),
            end_column: "window_end".to_owned(),
            windows: windows.iter().map(bounds).collect(),
            rows: windows.len() as u64,
        };
        let revision = async {
            // Begins a little later each round, so that each comes first sometimes.
            tokio::time::sleep(Duration::from_micros(300 * round as u64)).await;
            let files = [file];
            let done = delta::revise_files(&store, &files, &revised, "job", version).await.unwrap();
            let again = delta::revise_files(&store, &files, &revised, "job", version).await;
            assert!(done && !again.unwrap(), "once, however often tried");
        };
        let compaction = delta::compact(&store, "v", settings);
        let ((), compaction) = futures::future::join(revision, compaction).await;
        match compaction {
            Ok(done) => compacted += i32::from(done.is_some()),
            Err(error) => {
                assert_eq!(error.code, "TM566", "{error}");
                beaten += 1;
            }
        }
        expected
            .extend(windows.iter().map(|minute| ((*minute, "ams".to_owned()), (version, version))));
        assert_eq!(table(&store, folder.path(), "v").await, expected, "round {round}");
    }
    // What was written here says in its name who wrote it, for a clean-up, and its checksum.
    let mut rewritten = 0;
    for entry in std::fs::read_dir(folder.path().join("tables/v")).unwrap() {
        let path = delta::location("v").join(entry.unwrap().file_name().to_str().unwrap());
        if path.as_ref().contains("/part-") || path.extension() != Some("parquet") {
            continue;
        }
        let name = DataFileName::of(&path).expect("a name that is understood");
        assert_eq!(name.origin, FileOrigin::Compacted);
        let content = std::fs::read(folder.path().join(path.as_ref())).unwrap();
        delta::check_content(&path, &Bytes::from(content)).unwrap();
        rewritten += 1;
    }
    assert!(rewritten >= 20, "each round takes rows out of files");
    println!("compactions: {compacted} done, {beaten} beaten by a revision");
    assert!(compacted > 0, "no compaction was ever first");
}
