//! Jobs end to end, through the embedded broker and a folder as the bucket: windows close when
//! they should, every row is accounted for, and a stop at any point changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};
use tidemill_runtime::{JobStatus, Pipeline, Settings};

use crate::answer::lines;
use crate::reliability::bucket::stop_conserved;

/// Queries of these tests that read a view.
const OVER_VIEWS: &[&str] = &["per_window"];

const MINUTE_MS: i64 = 60_000;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(50),
        flush_interval: Duration::from_millis(300),
        flush_rows: 500,
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

fn source(options: &str) -> String {
    format!(
        "CREATE SOURCE IF NOT EXISTS events (
           id BIGINT NOT NULL, shop TEXT, amount BIGINT, at BIGINT,
           ts AS to_timestamp_millis(at),
           WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
         ) WITH ('connector'='kafka', 'topic'='events', 'format'='json',
                 'topic.partitions'='2' {options});"
    )
}

const PER_MINUTE: &str = "
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
    SELECT window_start, window_end, shop, count(*) AS n, sum(amount) AS total
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
    GROUP BY window_start, window_end, shop;";

const BOUNDED: &str = ", 'scan.bounded.mode'='latest-offset'";

#[derive(Clone)]
struct Event {
    partition: i32,
    payload: String,
}

fn event(partition: i32, id: i64, shop: &str, at: i64) -> Event {
    let payload = format!("{{\"id\":{id},\"shop\":\"{shop}\",\"amount\":{},\"at\":{at}}}", id % 7);
    Event { partition, payload }
}

async fn produce(pipeline: &Pipeline, events: &[Event]) {
    pipeline.log().ensure_topic("events", 2, &[]).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    for event in events {
        let record = ProduceRecord {
            partition: Some(PartitionId(event.partition)),
            key: None,
            payload: Some(Bytes::from(event.payload.clone())),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append("events", record).await.unwrap();
    }
    writer.flush().await.unwrap();
}

async fn number(pipeline: &Pipeline, sql: &str) -> i64 {
    let lines = lines(pipeline, sql).await;
    let row: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let value = row.as_object().unwrap().values().next().unwrap();
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

fn job(pipeline: &Pipeline, name: &str) -> JobStatus {
    let status = pipeline.status();
    let found = status.jobs.iter().find(|job| job.name == name).cloned();
    found.unwrap_or_else(|| panic!("no job '{name}' in {status:?}"))
}

/// Waits until a condition on the status of the job `events` holds.
async fn until(pipeline: &Pipeline, what: &str, holds: impl Fn(&JobStatus) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = pipeline.status();
        let job = status.jobs.iter().find(|job| job.name == "events");
        if job.is_some_and(&holds) {
            return;
        }
        assert!(Instant::now() < deadline, "not in time: {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two partitions, the second an hour ahead of the first, three shops, a row a second.
fn an_hour_apart(seconds: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for second in 0..seconds {
        let shop = ["ams", "ber", "cph"][usize::try_from(second % 3).unwrap()];
        let at = START_MS + second * 1000;
        events.push(event(0, second, shop, at));
        events.push(event(1, seconds + second, shop, at + 60 * MINUTE_MS));
    }
    events
}

fn counted_by_hand(events: &[Event]) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut counts = BTreeMap::new();
    for event in events {
        let Ok(row) = serde_json::from_str::<serde_json::Value>(&event.payload) else { continue };
        let window = row["at"].as_i64().unwrap() / MINUTE_MS;
        let shop = row["shop"].as_str().unwrap().to_owned();
        let entry: &mut (i64, i64) = counts.entry((window, shop)).or_default();
        entry.0 += 1;
        entry.1 += row["amount"].as_i64().unwrap();
    }
    counts
}

const ALL_SORTED: &str = "SELECT * FROM per_minute ORDER BY window_start, shop";

async fn assert_counted(pipeline: &Pipeline, events: &[Event]) {
    let expected = counted_by_hand(events);
    let lines = lines(pipeline, ALL_SORTED).await;
    assert_eq!(lines.len(), expected.len());
    for (line, ((window, shop), (n, total))) in lines.iter().zip(&expected) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let start = row["window_start"].as_str().unwrap();
        let at = |minute: i64| {
            let hours = (minute - START_MS / MINUTE_MS) / 60;
            format!("2024-01-01T{hours:02}:{:02}:00", minute % 60)
        };
        assert!(start.starts_with(&at(*window)), "{line}: not {}", at(*window));
        assert_eq!(row["shop"], shop.as_str(), "{line}");
        assert_eq!(row["n"], *n, "{line}");
        assert_eq!(row["total"].to_string().trim_matches('"'), total.to_string(), "{line}");
        assert_eq!(row["is_final"], true, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_an_hour_apart_lose_no_row_and_hold_few_windows() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let events = an_hour_apart(3 * 3600);
    produce(&pipeline, &events).await;
    pipeline.execute(&(source(BOUNDED) + PER_MINUTE)).await.unwrap();
    pipeline.start().await.unwrap();
    let watched = Arc::clone(&pipeline);
    let watch = tokio::spawn(async move {
        let mut most = 0;
        let mut changes = 0;
        while changes < 100_000 && job(&watched, "events").state != "drained" {
            most = most.max(job(&watched, "events").open_slices);
            changes += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        most
    });
    assert!(pipeline.wait_drained().await.unwrap());
    assert_counted(&pipeline, &events).await;
    let status = job(&pipeline, "events");
    assert_eq!(status.rows_in, events.len() as u64);
    assert_eq!(status.rows_late, 0);
    assert_eq!(status.conservation_drift, 0);
    // A batch of 8,192 rows is 137 minutes here; without alignment it would be all 240.
    let most = watch.await.unwrap();
    assert!(most < 200, "{most} open slices");
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_at_any_point_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let events = an_hour_apart(3600);
    {
        let pipeline = open(folder.path()).await;
        produce(&pipeline, &events).await;
        pipeline.execute(&(source(BOUNDED) + PER_MINUTE)).await.unwrap();
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    for life in 0..6 {
        let pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(7 * life)).await;
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    assert_counted(&pipeline, &events).await;
    let status = job(&pipeline, "events");
    assert_eq!(status.rows_in, events.len() as u64);
    stop_conserved(&pipeline, OVER_VIEWS).await;
    // And what is drained stays so.
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    assert_counted(&pipeline, &events).await;
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_partitions_and_an_idle_end_close_their_windows() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let view = "CREATE MATERIALIZED VIEW per_second AS
        SELECT window_start, count(*) AS n
        FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND))
        GROUP BY window_start;";
    let idle = ", 'scan.watermark.idle-timeout'='300 ms'";
    pipeline.execute(&(source(idle) + view)).await.unwrap();
    pipeline.start().await.unwrap();
    // Only one of two partitions ever gets a row.
    let events: Vec<Event> = (0..5).map(|n| event(0, n, "ams", START_MS + n * 1000)).collect();
    produce(&pipeline, &events).await;
    until(&pipeline, "rows read", |job| job.rows_in == 5).await;
    assert!(!pipeline.wait_drained().await.unwrap(), "it never ends");
    // Five seconds of delay, then the last window closes without another event.
    until(&pipeline, "all windows closed", |job| job.open_slices == 0).await;
    assert_eq!(number(&pipeline, "SELECT count(*) FROM per_second WHERE is_final").await, 5);
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_second").await, 5);
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_9999_timestamp_and_poison_rows_stop_nothing() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let idle = ", 'scan.watermark.idle-timeout'='3 s'";
    pipeline.execute(&(source(idle) + PER_MINUTE)).await.unwrap();
    pipeline.start().await.unwrap();
    let mut events = Vec::new();
    for n in 0..1_000_000 {
        let at = START_MS + n * 50;
        events.push(event(i32::from(n % 2 == 0), n, "ams", at));
        if n % 100 == 0 {
            let poison = match n / 100 % 4 {
                0 => "{\"id\":1,".to_owned(),
                1 => "\u{0}\u{1}not json".to_owned(),
                2 => "{\"shop\":\"ams\",\"amount\":1,\"at\":1}".to_owned(),
                _ => "{\"id\":\"x\",\"at\":1}".to_owned(),
            };
            events.push(Event { partition: 0, payload: poison });
        }
    }
    events.insert(5_000, event(0, 1, "ams", 253_370_764_800_000));
    produce(&pipeline, &events).await;
    until(&pipeline, "rows read", |job| job.rows_in == events.len() as u64).await;
    until(&pipeline, "all windows closed", |job| job.open_slices == 0).await;
    let status = job(&pipeline, "events");
    assert_eq!(status.rows_dead, 10_001);
    assert_eq!(status.rows_late, 0);
    assert_eq!(status.conservation_drift, 0);
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_minute WHERE is_final").await, 1_000_000);
    let stages = "SELECT stage, count(*) AS n FROM \"events$dead\" GROUP BY stage ORDER BY stage";
    let stages = lines(&pipeline, stages).await;
    assert!(stages.contains(&"{\"stage\":\"time\",\"n\":1}".to_owned()), "{stages:?}");
    assert_eq!(number(&pipeline, "SELECT count(*) FROM \"events$dead\"").await, 10_001);
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_are_kept_with_their_reason() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    pipeline.execute(&(source("") + PER_MINUTE)).await.unwrap();
    pipeline.start().await.unwrap();
    let on_time = [
        event(0, 1, "ams", START_MS),
        event(1, 2, "ams", START_MS + 10 * MINUTE_MS),
        event(0, 3, "ams", START_MS + 10 * MINUTE_MS),
    ];
    produce(&pipeline, &on_time).await;
    until(&pipeline, "first window closed", |job| job.rows_in == 3 && job.open_slices == 1).await;
    produce(&pipeline, &[event(0, 4, "ams", START_MS + 1000)]).await;
    until(&pipeline, "late row", |job| job.rows_late == 1).await;
    until(&pipeline, "commit", |job| job.rows_in == 4 && job.epoch > 0).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while lines(&pipeline, "SELECT * FROM \"events$late\"").await.is_empty() {
        assert!(Instant::now() < deadline, "no late row in its topic");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = lines(&pipeline, "SELECT query, reason, raw_text FROM \"events$late\"").await;
    assert_eq!(late.len(), 1);
    assert!(late[0].contains("\"query\":\"per_minute\""), "{late:?}");
    assert!(late[0].contains("behind watermark"), "{late:?}");
    // The open window is there, and says that it is not final.
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_minute WHERE NOT is_final").await, 2);
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_minute WHERE is_final").await, 1);
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_take_effect_while_running_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let events = an_hour_apart(1200);
    {
        let pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
        produce(&pipeline, &events).await;
        pipeline.execute(&(source("") + PER_MINUTE)).await.unwrap();
        until(&pipeline, "rows read", |job| job.rows_in == 2400 && job.epoch > 0).await;
        let over = "CREATE MATERIALIZED VIEW per_window AS
            SELECT window_start, count(*) AS shops, sum(n) AS n
            FROM TABLE(TUMBLE(TABLE per_minute, DESCRIPTOR(window_start), INTERVAL '1' MINUTE))
            GROUP BY window_start;";
        pipeline.execute(over).await.unwrap();
        assert_eq!(pipeline.status().jobs.len(), 2);
        pipeline.execute("PAUSE per_minute").await.unwrap();
        until(&pipeline, "paused", |job| job.state == "paused").await;
        produce(&pipeline, &[event(0, 1, "ams", START_MS + 20 * MINUTE_MS)]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(job(&pipeline, "events").rows_in, 2400);
        pipeline.execute("RESUME per_minute").await.unwrap();
        until(&pipeline, "resumed", |job| job.rows_in == 2401).await;
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert_eq!(pipeline.status().jobs.len(), 2);
    until(&pipeline, "running again", |job| job.state == "running").await;
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_minute").await, 2401);
    let shown = lines(&pipeline, "SHOW VIEWS").await;
    assert_eq!(shown.len(), 2, "{shown:?}");
    pipeline.execute("DROP VIEW per_window").await.unwrap();
    assert_eq!(pipeline.status().jobs.len(), 1);
    let error = pipeline.execute("SELECT * FROM per_minut").await.unwrap_err();
    assert_eq!(error.code, "TM301");
    assert!(error.to_string().contains("per_minute"), "{error}");
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_do_not_share_a_data_folder() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let settings = Settings { data_dir: folder.path().to_path_buf(), ..Settings::default() };
    assert_eq!(Pipeline::open(settings).await.unwrap_err().code, "TM605");
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

/// Commits some events of a fresh topic and stops.
async fn committed(folder: &Path, events: &[Event]) {
    let pipeline = open(folder).await;
    produce(&pipeline, events).await;
    pipeline.execute(&(source("") + PER_MINUTE)).await.unwrap();
    pipeline.start().await.unwrap();
    until(&pipeline, "rows read", |job| job.rows_in == events.len() as u64).await;
    stop_conserved(&pipeline, OVER_VIEWS).await;
    std::fs::remove_dir_all(folder.join("broker")).unwrap();
}

/// Starts on a topic made anew with these events; gives the job's end.
async fn after_loss(folder: &Path, events: &[Event]) -> JobStatus {
    let pipeline = open(folder).await;
    produce(&pipeline, events).await;
    pipeline.start().await.unwrap();
    until(&pipeline, "the job stops", |job| job.state == "data loss").await;
    let status = job(&pipeline, "events");
    assert_eq!(pipeline.wait_drained().await.unwrap_err().code, "TM501");
    stop_conserved(&pipeline, OVER_VIEWS).await;
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_is_data_loss_however_long_it_is() {
    let events = an_hour_apart(100);
    let others: Vec<Event> =
        (0..300).map(|n| event(i32::from(n % 2 == 0), 1000 + n, "osl", START_MS)).collect();
    for anew in [&others[..10], &others[..]] {
        let folder = TempDir::new().unwrap();
        committed(folder.path(), &events).await;
        let status = after_loss(folder.path(), anew).await;
        let error = status.error.unwrap();
        assert!(error.contains("DATA LOSS"), "{error}");
        assert!(error.contains("deleted and made anew"), "{error}");
        assert!(error.contains("partition 0: records [100, 100)"), "{error}");
        assert!(error.contains("partition 1: records [100, 100)"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_and_alerts_get_every_row_once_over_many_stops() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("out").join("sixes.csv");
    let events = an_hour_apart(1800);
    {
        let pipeline = open(folder.path()).await;
        produce(&pipeline, &events).await;
        let sinks = format!(
            "CREATE SINK sixes WITH ('connector'='filesystem', 'path'='{}', 'format'='csv')
               AS SELECT id, shop FROM events WHERE amount = 6;
             CREATE SINK fives WITH ('connector'='kafka', 'topic'='fives', 'key.fields'='shop')
               AS SELECT id, shop FROM events WHERE amount = 5;
             CREATE ALERT busy ON per_minute WHEN n >= 20 BY shop;",
            file.display()
        );
        pipeline.execute(&(source(BOUNDED) + PER_MINUTE + &sinks)).await.unwrap();
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    for life in 0..6 {
        let pipeline = open(folder.path()).await;
        pipeline.start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(9 * life)).await;
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    assert_counted(&pipeline, &events).await;

    let ids = |amount: i64| (0..3600).filter(move |id| id % 7 == amount).collect::<Vec<i64>>();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("id,shop"));
    let mut found: Vec<i64> =
        lines.map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ids(6));

    let mut found: Vec<i64> = Vec::new();
    for record in read_topic(&pipeline, "fives").await {
        let row: serde_json::Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        let key: serde_json::Value = serde_json::from_slice(&record.key.unwrap()).unwrap();
        assert_eq!(key["shop"], row["shop"]);
        found.push(row["id"].as_i64().unwrap());
    }
    found.sort_unstable();
    assert_eq!(found, ids(5));

    let mut ids = Vec::new();
    let mut firing = 0;
    for record in read_topic(&pipeline, "alerts").await {
        let alert: serde_json::Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        firing += i32::from(alert["type"] == "io.tidemill.alert.firing");
        ids.push(alert["id"].as_str().unwrap().to_owned());
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an alert came twice");
    // Twenty of each shop's rows in each of 30 minutes, and again an hour later.
    assert_eq!(firing, 6, "one for each shop, and again after the gap");
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

async fn read_topic(pipeline: &Pipeline, topic: &str) -> Vec<tidemill_contract::RawRecord> {
    let marks = pipeline.log().watermarks(topic).await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let records = pipeline.log().read_range(topic, &from, &to).await.unwrap();
    records.into_iter().map(|(_, record)| record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_one_bucket_the_older_stops() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let older = open(first.path()).await;
    older.execute(&(source("") + PER_MINUTE)).await.unwrap();
    older.start().await.unwrap();
    produce(&older, &[event(0, 1, "ams", START_MS)]).await;
    until(&older, "first commit", |job| job.epoch > 0).await;

    let settings = Settings {
        data_dir: second.path().to_path_buf(),
        kafka_brokers: Some(older.brokers()),
        bucket: Some(older.bucket_url()),
        commit_interval: Duration::from_millis(50),
        ..Settings::default()
    };
    let newer = Pipeline::open(settings).await.unwrap();
    newer.start().await.unwrap();
    until(&newer, "taken over", |job| job.state == "running" && job.rows_in == 1).await;
    let events: Vec<Event> = (2..200).map(|n| event(0, n, "ams", START_MS + n * 1000)).collect();
    produce(&older, &events).await;
    // Whoever commits first goes on; the other one stops, and exactly one is left.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let states = [job(&older, "events").state, job(&newer, "events").state];
        let fenced = states.iter().filter(|state| *state == "fenced").count();
        assert!(fenced < 2, "both stopped");
        if fenced == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{states:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let winner = if job(&older, "events").state == "fenced" { &newer } else { &older };
    until(winner, "all rows", |job| job.rows_in == 199).await;
    assert_eq!(number(winner, "SELECT sum(n) FROM per_minute").await, 199);
    stop_conserved(&newer, OVER_VIEWS).await;
    stop_conserved(&older, OVER_VIEWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_dropped_from_a_shared_job_leaves_the_others_as_they_were() {
    let folder = TempDir::new().unwrap();
    let events = an_hour_apart(600);
    let others = "
        CREATE MATERIALIZED VIEW maxima AS SELECT window_start, shop, max(amount) AS m
        FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
        GROUP BY window_start, shop;
        CREATE MATERIALIZED VIEW hours AS SELECT window_start, count(*) AS n
        FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
        GROUP BY window_start;";
    {
        let pipeline = open(folder.path()).await;
        produce(&pipeline, &events).await;
        pipeline.execute(&(source("") + PER_MINUTE + others)).await.unwrap();
        pipeline.start().await.unwrap();
        until(&pipeline, "rows read", |job| job.rows_in == 1200 && job.epoch > 0).await;
        pipeline.execute("DROP VIEW maxima; DROP VIEW hours").await.unwrap();
        assert!(pipeline.execute("SELECT * FROM maxima").await.is_err());
        stop_conserved(&pipeline, OVER_VIEWS).await;
    }
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    until(&pipeline, "running again", |job| job.state == "running").await;
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM per_minute").await, 1200);
    // The name is free, and what was is gone.
    pipeline
        .execute(&others[..others.find("CREATE MATERIALIZED VIEW hours").unwrap()])
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while number(&pipeline, "SELECT count(*) FROM maxima").await < 60 {
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(number(&pipeline, "SELECT count(*) FROM maxima").await, 60);
    stop_conserved(&pipeline, OVER_VIEWS).await;
}

/// An alert does not wait for the commit interval, which never comes here; what is no alert does.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_leaves_at_once() {
    let folder = TempDir::new().unwrap();
    let pipeline = Pipeline::open(Settings {
        data_dir: folder.path().to_path_buf(),
        commit_interval: Duration::from_secs(3600),
        ..Settings::default()
    })
    .await
    .unwrap();
    pipeline.log().ensure_topic("alerts", 1, &[]).await.unwrap();
    produce(&pipeline, &[event(0, 1, "ams", START_MS)]).await;
    let start = ", 'scan.startup.mode'='earliest-offset'";
    let script = format!(
        "{} CREATE MATERIALIZED VIEW large AS SELECT id, amount, ts FROM events WHERE amount > 5; \
         CREATE ALERT large_amount ON large WHEN amount > 5 BY id;",
        source(start)
    );
    pipeline.execute(&script).await.unwrap();
    pipeline.start().await.unwrap();
    until(&pipeline, "the first row is read", |job| job.rows_in == 1).await;
    assert_eq!(job(&pipeline, "events").epoch, 0, "nothing called for a commit");

    // 6, 13 and 20 are large; the last one is judged when the job has committed before.
    for (number, ids) in [(2, vec![6, 13]), (3, vec![20])] {
        let events: Vec<Event> = ids.iter().map(|id| event(0, *id, "ber", START_MS)).collect();
        produce(&pipeline, &events).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, end) = pipeline.log().watermarks("alerts").await.unwrap()[&0];
            if end == number {
                break;
            }
            assert!(Instant::now() < deadline, "{end} of {number} alerts came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(job(&pipeline, "events").epoch >= 1);
    pipeline.stop().await.unwrap();
}
