//! `EXPLAIN STALL`: what it says holds a window open does, and what it says closes it does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};
use tidemill_runtime::{Pipeline, Settings, StatementResult};

const SQL: &str = "
    CREATE SOURCE events (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5' SECOND)
      WITH ('connector'='kafka', 'topic'='events', 'format'='json', 'topic.partitions'='2',
            'scan.watermark.idle-timeout'='{idle}');
    CREATE MATERIALIZED VIEW per_minute AS SELECT window_start, count(*) AS n
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start;";

async fn running(folder: &TempDir, idle: &str) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.path().to_path_buf(),
        commit_interval: Duration::from_millis(20),
        ..Settings::default()
    };
    let pipeline = Pipeline::open(settings).await.unwrap();
    pipeline.log().ensure_topic("events", 2, &[]).await.unwrap();
    pipeline.execute(&SQL.replace("{idle}", idle)).await.unwrap();
    pipeline.start().await.unwrap();
    pipeline
}

async fn produce(pipeline: &Pipeline, partition: i32, at: &str) {
    let writer = pipeline.log().writer().unwrap();
    let payload = format!("{{\"id\":1,\"at\":\"2024-01-01T00:{at}Z\"}}");
    let record = ProduceRecord {
        partition: Some(PartitionId(partition)),
        key: None,
        payload: Some(payload.into()),
        timestamp_ms: None,
        headers: Vec::new(),
    };
    writer.append("events", record).await.unwrap();
    writer.flush().await.unwrap();
}

/// The answer as `about: says` lines.
async fn explained(pipeline: &Pipeline) -> String {
    let results = pipeline.execute("EXPLAIN STALL per_minute").await.unwrap();
    let [StatementResult::Rows { batches, .. }] = results.as_slice() else {
        panic!("no rows: {results:?}");
    };
    let mut text = String::new();
    for batch in batches {
        let column = |index: usize| {
            let column = batch.column(index).as_any();
            column.downcast_ref::<arrow::array::StringArray>().unwrap().clone()
        };
        for (about, says) in column(0).iter().zip(&column(1)) {
            text += &format!("{}: {}\n", about.unwrap(), says.unwrap());
        }
    }
    text
}

/// Waits until the answer has all of these parts.
async fn until(pipeline: &Pipeline, parts: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = explained(pipeline).await;
        if parts.iter().all(|part| text.contains(part)) {
            return text;
        }
        assert!(Instant::now() < deadline, "not in time: {parts:?} in\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_names_the_partition_that_holds_the_window_and_what_closes_it() {
    let folder = TempDir::new().unwrap();
    let pipeline = running(&folder, "1 h").await;
    until(&pipeline, &["'per_minute' has no open window", "there is nothing to close"]).await;

    produce(&pipeline, 0, "00:30").await;
    produce(&pipeline, 0, "03:00").await;
    let text =
        until(&pipeline, &["[2024-01-01T00:00:00", "partition 0: watermark 2024-01-01T00:02:55"])
            .await;
    let holding: Vec<&str> = text.lines().filter(|line| line.contains("IT HOLDS")).collect();
    assert_eq!(holding.len(), 1, "{text}");
    assert!(holding[0].starts_with("partition 1: watermark not known yet"), "{text}");
    let closes: Vec<&str> = text.lines().filter(|line| line.starts_with("closes when")).collect();
    assert_eq!(closes.len(), 1, "{text}");
    let row = "partition 1 gives a row at or after 2024-01-01T00:01:05.000000Z";
    assert!(closes[0].contains(row) && closes[0].contains("counts as idle"), "{text}");

    // A row just before that does not close it, one at it does.
    produce(&pipeline, 1, "01:04").await;
    until(&pipeline, &["partition 1: watermark 2024-01-01T00:00:59", "[2024-01-01T00:00:00"]).await;
    produce(&pipeline, 1, "01:05").await;
    until(&pipeline, &["next window: [2024-01-01T00:01:00"]).await;

    pipeline.execute("PAUSE per_minute").await.unwrap();
    until(&pipeline, &["RESUME is given"]).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_partitions_hold_nothing_and_the_clock_goes_on() {
    let folder = TempDir::new().unwrap();
    let pipeline = running(&folder, "300 ms").await;
    produce(&pipeline, 0, "00:30").await;
    produce(&pipeline, 0, "00:50").await;
    let text =
        until(&pipeline, &["partition 1:", "idle; it holds nothing", "goes with the clock"]).await;
    assert!(!text.contains("IT HOLDS"), "{text}");
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_view_is_an_error_that_names_the_nearest() {
    let folder = TempDir::new().unwrap();
    let pipeline = running(&folder, "1 s").await;
    let error = pipeline.execute("EXPLAIN STALL per_minut").await.unwrap_err();
    assert_eq!(error.code, "TM301");
    assert!(error.to_string().contains("per_minute"), "{error}");
    assert!(pipeline.execute("EXPLAIN STALL").await.unwrap_err().span.is_some());
    pipeline.stop().await.unwrap();
}
