//! Dead rows: looked at, repaired and submitted again, each once, whatever happens in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};
use tidemill_runtime::{Pipeline, Settings};

use crate::answer::rows;

const SOURCE: &str = "
    CREATE SOURCE IF NOT EXISTS orders (
      id BIGINT NOT NULL, shop TEXT, amount DECIMAL(8, 2), at BIGINT, key BYTES METADATA FROM 'key',
      ts AS to_timestamp_millis(at), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH ('connector'='kafka', 'topic'='orders-in', 'format'='json', 'topic.partitions'='2');
    CREATE MATERIALIZED VIEW IF NOT EXISTS kept AS SELECT id, shop, amount, key FROM orders;";

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        broker_listen: "127.0.0.1:0".parse().unwrap(),
        commit_interval: Duration::from_millis(50),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

async fn started(folder: &Path) -> Arc<Pipeline> {
    let pipeline = open(folder).await;
    pipeline.execute(SOURCE).await.unwrap();
    pipeline.start().await.unwrap();
    pipeline
}

async fn produce(pipeline: &Pipeline, partition: i32, key: Option<&str>, payloads: &[&[u8]]) {
    let writer = pipeline.log().writer().unwrap();
    for payload in payloads {
        let record = ProduceRecord {
            partition: Some(PartitionId(partition)),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            payload: Some(Bytes::copy_from_slice(payload)),
            timestamp_ms: Some(1_700_000_000_000),
            headers: vec![("trace".to_owned(), Bytes::from_static(b"t1"))],
        };
        writer.append("orders-in", record).await.unwrap();
    }
    writer.flush().await.unwrap();
}

/// Waits until a query gives a number.
async fn until(pipeline: &Pipeline, sql: &str, wanted: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = rows(pipeline, sql).await;
        let number = found[0].as_object().unwrap().values().next().and_then(Value::as_i64);
        if number == Some(wanted) {
            return;
        }
        let status = pipeline.status();
        assert!(Instant::now() < deadline, "{sql} never gave {wanted}: {found:?}, {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const DEAD: &str = "SELECT count(*) AS n FROM \"orders$dead\"";
const KEPT: &str = "SELECT count(*) AS n FROM kept";

fn counts(row: &Value) -> BTreeMap<&str, i64> {
    let fields = row.as_object().unwrap().iter();
    fields.filter_map(|(name, value)| Some((name.as_str(), value.as_i64()?))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_rows_are_summed_up_repaired_and_replayed_once() {
    let folder = TempDir::new().unwrap();
    let pipeline = started(folder.path()).await;
    let payloads: &[&[u8]] = &[
        b"{\"id\":1,\"shop\":\"ams\",\"amount\":1.50,\"at\":1700000000000}",
        b"{\"id\":2,\"shop\":\"ams\",\"amount\":2.50,\"at\":1700000001000,}",
        b"{\"id\":3,\"shop\":\"ams\",\"amount\":\"3,50\",\"at\":1700000002000}",
        b"{\"shop\":\"ams\",\"amount\":4.50,\"at\":1700000003000}",
        b"\xff\xfe{}",
    ];
    produce(&pipeline, 1, Some("k"), payloads).await;
    until(&pipeline, DEAD, 4).await;

    let shown = rows(&pipeline, "SHOW DEAD FROM orders").await;
    let classes: Vec<(&str, &str, i64, i64)> = shown
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            let number = |name: &str| row[name].as_i64().unwrap();
            (text("stage"), text("class"), number("rows"), number("replayed"))
        })
        .collect();
    let expected = [
        ("decode", "encoding", 1, 0),
        ("check", "missing", 1, 0),
        ("decode", "syntax", 1, 0),
        ("check", "type", 1, 0),
    ];
    assert_eq!(classes, expected);
    assert!(shown[2]["example"].as_str().unwrap().starts_with("partition 1, offset 1: "));
    assert_eq!(rows(&pipeline, "SHOW DEAD LIMIT 2").await.len(), 2);

    let repair = "REPLAY DEAD FROM orders WHERE class IN ('syntax', 'type', 'missing') \
                  WITH CASE class WHEN 'syntax' THEN replace(raw_text, ',}', '}') \
                                  WHEN 'type' THEN replace(raw_text, '3,50', '3.50') \
                                  WHEN 'missing' THEN raw_text END";
    let planned = rows(&pipeline, &format!("EXPLAIN {repair}")).await;
    assert_eq!(counts(&planned[0])["replayable"], 2);
    until(&pipeline, KEPT, 1).await;
    let done = rows(&pipeline, repair).await;
    let done = counts(&done[0]);
    assert_eq!((done["selected"], done["replayed"], done["still_bad"]), (3, 2, 1));
    until(&pipeline, KEPT, 3).await;
    // Again: the same rows are not submitted a second time.
    let again = rows(&pipeline, repair).await;
    assert_eq!(counts(&again[0])["already_replayed"], 2);
    assert_eq!(counts(&again[0])["replayed"], 0);
    // The repaired rows have the key, the record time and the headers of the first ones.
    let repaired = rows(&pipeline, "SELECT id, amount, key FROM kept ORDER BY id").await;
    assert_eq!(repaired[1]["amount"].to_string().trim_matches('"').parse(), Ok(2.5));
    assert_eq!(repaired[1]["key"], repaired[0]["key"]);
    let marks = pipeline.log().watermarks("orders-in").await.unwrap();
    let from = marks.keys().map(|partition| (*partition, 0)).collect();
    let to = marks.iter().map(|(partition, (_, end))| (*partition, *end)).collect();
    let topic = pipeline.log().read_range("orders-in", &from, &to).await.unwrap();
    let replayed: Vec<_> = topic
        .iter()
        .filter(|(_, record)| record.headers.iter().any(|(name, _)| name == "tm-replay-of"))
        .collect();
    assert_eq!(replayed.len(), 2);
    for (_, record) in replayed {
        assert_eq!(record.timestamp_ms, 1_700_000_000_000);
        assert!(record.headers.contains(&("trace".to_owned(), Bytes::from_static(b"t1"))));
    }
    let shown = rows(&pipeline, "SHOW DEAD FROM orders").await;
    let replayed: i64 = shown.iter().map(|row| row["replayed"].as_i64().unwrap()).sum();
    assert_eq!(replayed, 2);
    // FORCE does.
    let forced = rows(&pipeline, &format!("{repair} LIMIT 1 FORCE")).await;
    assert_eq!(counts(&forced[0])["replayed"], 1);
    until(&pipeline, KEPT, 4).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_is_read_again_and_what_is_gone_is_said() {
    let folder = TempDir::new().unwrap();
    let pipeline = started(folder.path()).await;
    let long = "x".repeat(100_000);
    let cut = format!("{{\"id\":7,\"shop\":\"{long}\",\"amount\":1,\"at\":1700000000000,}}");
    produce(&pipeline, 0, None, &[cut.as_bytes()]).await;
    until(&pipeline, DEAD, 1).await;
    let kept =
        rows(&pipeline, "SELECT raw_bytes, length(raw_text) AS n FROM \"orders$dead\"").await;
    assert_eq!(kept[0]["raw_bytes"], cut.len());
    assert_eq!(kept[0]["n"], 64 << 10);
    let repair = "REPLAY DEAD FROM orders WITH replace(raw_text, ',}', '}')";
    let done = rows(&pipeline, repair).await;
    assert_eq!(counts(&done[0])["replayed"], 1, "{done:?}");
    until(&pipeline, "SELECT max(length(shop)) AS n FROM kept", 100_000).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_fails_in_the_job_is_a_new_dead_row_with_the_first_ones_id() {
    let folder = TempDir::new().unwrap();
    let pipeline = started(folder.path()).await;
    produce(&pipeline, 0, None, &[b"{\"id\":1,\"amount\":1,\"at\":1700000000000,}"]).await;
    until(&pipeline, DEAD, 1).await;
    let first = rows(&pipeline, "SELECT id FROM \"orders$dead\"").await;
    // What the check before the submission cannot see: the source changes in between.
    pipeline.execute("DROP VIEW kept").await.unwrap();
    rows(&pipeline, "REPLAY DEAD FROM orders WITH replace(raw_text, ',}', '}')").await;
    pipeline.execute("DROP SOURCE orders").await.unwrap();
    let stricter = SOURCE.replace("shop TEXT", "shop TEXT NOT NULL");
    pipeline.execute(&stricter).await.unwrap();
    // The first record is quarantined again under its own id; the replayed one is new.
    until(&pipeline, DEAD, 3).await;
    let dead = rows(
        &pipeline,
        "SELECT id, class, attempt, replay_of FROM \"orders$dead\" ORDER BY attempt DESC NULLS LAST",
    )
    .await;
    assert_eq!(dead[0]["attempt"], 1);
    assert_eq!(dead[0]["class"], "missing");
    assert_eq!(dead[0]["replay_of"], first[0]["id"]);
    assert_eq!(dead[1]["id"], dead[2]["id"]);
    let done = rows(
        &pipeline,
        "REPLAY DEAD FROM orders \
         WITH replace(replace(raw_text, ',}', '}'), '\"id\"', '\"shop\":\"ams\",\"id\"')",
    )
    .await;
    let done = counts(&done[0]);
    assert_eq!((done["replayed"], done["already_replayed"]), (1, 2));
    until(&pipeline, KEPT, 1).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_file_are_replayed_after_the_file_was_read() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("in.csv");
    let long = "y".repeat(100_000);
    std::fs::write(&file, format!("id,shop\n1,ams\n2,ber,x\n3,{long},x\n")).unwrap();
    let pipeline = open(&folder.path().join("data")).await;
    let script = format!(
        "CREATE SOURCE lines (id BIGINT NOT NULL, shop TEXT)
         WITH ('connector'='filesystem', 'path'='{}', 'format'='csv');
         CREATE MATERIALIZED VIEW kept AS SELECT id, shop FROM lines;",
        file.display()
    );
    pipeline.execute(&script).await.unwrap();
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    let repair = "REPLAY DEAD FROM lines WHERE class = 'fields' \
        WITH concat('{\"id\":', split_part(raw_text, ',', 1), ',\"shop\":\"', \
                    split_part(raw_text, ',', 2), '\"}')";
    let done = rows(&pipeline, repair).await;
    assert_eq!(counts(&done[0])["replayed"], 2, "{done:?}");
    until(&pipeline, "SELECT count(*) AS n FROM kept", 3).await;
    until(&pipeline, "SELECT max(length(shop)) AS n FROM kept", 100_000).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_replays_are_refused_with_their_place() {
    let folder = TempDir::new().unwrap();
    let pipeline = started(folder.path()).await;
    produce(&pipeline, 0, None, &[b"{"]).await;
    until(&pipeline, DEAD, 1).await;
    for (sql, code, marked) in [
        ("REPLAY DEAD FROM ordrs", "TM301", None),
        ("REPLAY DEAD FROM orders WHERE clas = 'x'", "TM201", Some("clas")),
        ("REPLAY DEAD FROM orders WITH 5", "TM641", Some("5")),
        ("REPLAY DEAD FROM orders WITH (SELECT 'x')", "TM109", Some("(SELECT 'x')")),
        ("REPLAY DEAD orders", "TM101", Some("orders")),
        ("REPLAY DEAD FROM orders LIMIT 0", "TM101", Some("0")),
        ("SHOW DEAD FROM nothing", "TM301", None),
    ] {
        let error = pipeline.execute(sql).await.unwrap_err();
        assert_eq!(error.code, code, "{sql}: {error}");
        let found = error.span.map(|span| &sql[span.start..span.end]);
        assert_eq!(found, marked, "{sql}: {error}");
    }
    let bounded = "CREATE SOURCE ended (id BIGINT) WITH ('connector'='kafka', 'topic'='orders-in',
                   'format'='json', 'scan.bounded.mode'='latest-offset');";
    pipeline.execute(bounded).await.unwrap();
    let error = pipeline.execute("REPLAY DEAD FROM ended").await.unwrap_err();
    assert_eq!(error.code, "TM642");
    pipeline.stop().await.unwrap();
}

/// Waits until the job or feed of a source waits for a person; gives the reason.
async fn until_given_up(pipeline: &Pipeline) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = pipeline.status();
        let given_up = |state: &str| matches!(state, "parked" | "failed");
        let jobs = status.jobs.iter().filter(|job| given_up(&job.state)).map(|job| &job.error);
        let feeds = status.feeds.iter().filter(|feed| given_up(&feed.state));
        if let Some(error) = jobs.chain(feeds.map(|feed| &feed.error)).flatten().next() {
            return error.clone();
        }
        assert!(Instant::now() < deadline, "nothing gave up: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_goes_wholly_bad_stops_and_skips_nothing() {
    let folder = TempDir::new().unwrap();
    let script = SOURCE.replace("'format'='json'", "'format'='json', 'dead.window'='1000'");
    let pipeline = open(folder.path()).await;
    pipeline.execute(&script).await.unwrap();
    pipeline.start().await.unwrap();
    let good: Vec<String> =
        (0..2000).map(|id| format!("{{\"id\":{id},\"amount\":1,\"at\":1700000000000}}")).collect();
    let good: Vec<&[u8]> = good.iter().map(String::as_bytes).collect();
    let bad = vec![&b"{\"id\":\"x\"}"[..]; 5000];
    produce(&pipeline, 0, None, &good).await;
    produce(&pipeline, 0, None, &bad[..100]).await;
    until(&pipeline, DEAD, 100).await;
    assert_eq!(pipeline.status().jobs[0].state, "running", "some bad rows are borne");
    produce(&pipeline, 0, None, &bad).await;
    produce(&pipeline, 0, None, &good).await;
    let reason = until_given_up(&pipeline).await;
    assert!(reason.contains("TM591"), "{reason}");
    assert!(reason.contains("of the last"), "{reason}");
    // What was read is committed, and the rest is read by whoever goes on.
    pipeline.stop().await.unwrap();
    drop(pipeline);
    for _ in 0..20 {
        let pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let all = loop {
            let status = pipeline.status().jobs[0].clone();
            if matches!(status.state.as_str(), "parked" | "failed") || status.rows_in == 9100 {
                break status.rows_in == 9100;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if all {
            until(&pipeline, KEPT, 4000).await;
            until(&pipeline, DEAD, 5100).await;
            return pipeline.stop().await.unwrap();
        }
        pipeline.stop().await.unwrap();
    }
    panic!("it never came to the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_of_nothing_but_bad_rows_stops() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("in.csv");
    std::fs::write(&file, format!("id;shop\n{}", "1;a;b\n".repeat(30_000))).unwrap();
    let pipeline = open(&folder.path().join("data")).await;
    let script = format!(
        "CREATE SOURCE lines (id BIGINT, shop TEXT)
         WITH ('connector'='filesystem', 'path'='{}', 'format'='csv',
               'csv.field-delimiter'=';', 'dead.window'='2000');
         CREATE MATERIALIZED VIEW kept AS SELECT id, shop FROM lines;",
        file.display()
    );
    pipeline.execute(&script).await.unwrap();
    pipeline.start().await.unwrap();
    let reason = until_given_up(&pipeline).await;
    assert!(reason.contains("TM591") && reason.contains("fields"), "{reason}");
    assert!(reason.contains("then RESUME kept"), "{reason}");
    assert_eq!(pipeline.status().feeds[0].dead, 2000);
    // Each time one more window is read; no row is skipped or quarantined twice.
    let mut dead = 2000;
    while dead < 30_000 {
        pipeline.execute("RESUME kept").await.unwrap();
        let reason = until_given_up(&pipeline).await;
        assert!(reason.contains("TM591"), "{reason}");
        let now = pipeline.status().feeds[0].dead;
        assert!((dead + 2000..dead + 10_000).contains(&now), "{dead}, then {now}");
        dead = now;
    }
    pipeline.execute("RESUME kept").await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    assert_eq!(pipeline.status().feeds[0].dead, 30_000);
    let ids = rows(&pipeline, "SELECT count(DISTINCT id) AS n FROM \"lines$dead\"").await;
    assert_eq!(ids[0]["n"], 30_000);
    let marks = pipeline.log().watermarks("lines.dead").await.unwrap();
    assert_eq!(marks.values().map(|(_, end)| *end).collect::<Vec<_>>(), [30_000]);
    pipeline.stop().await.unwrap();
    let wrong = "CREATE SOURCE x (id BIGINT) WITH ('connector'='kafka', 'dead.max-ratio'='2')";
    let pipeline = open(&folder.path().join("data")).await;
    assert_eq!(pipeline.execute(wrong).await.unwrap_err().code, "TM113");
    pipeline.stop().await.unwrap();
}
