//! Feeds: each row once in its topic, whatever happens to the process that feeds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_connectors::store;
use tidemill_contract::{FaultClass, Result, RowFault, Source, SourceRow};
use tidemill_runtime::{Board, Breaker, Feed, FeedEnd};
use tokio::sync::watch;

const UNITS: u64 = 4;
const ROWS: u64 = 5_000;

/// Units of numbered rows; every hundredth is bad.
struct Numbers {
    done: BTreeSet<String>,
    unit: u64,
    next: u64,
    pause: Duration,
}

#[async_trait::async_trait]
impl Source for Numbers {
    async fn next_unit(&mut self) -> Result<Option<String>> {
        while self.unit < UNITS {
            let name = format!("unit-{}", self.unit);
            self.unit += 1;
            self.next = 0;
            if !self.done.contains(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn next_rows(&mut self) -> Result<Vec<SourceRow>> {
        tokio::time::sleep(self.pause).await;
        let end = (self.next + 500).min(ROWS);
        let rows = (self.next..end).map(|row| {
            let text = format!("{{\"n\":{}}}", (self.unit - 1) * ROWS + row);
            let raw = Bytes::from(text);
            let fault = RowFault {
                raw: raw.clone(),
                stage: "read",
                class: FaultClass::Syntax,
                reason: "odd".to_owned(),
            };
            let payload = if row % 100 == 99 { Err(fault) } else { Ok(raw) };
            SourceRow { row, key: None, payload }
        });
        let rows = rows.collect();
        self.next = end;
        Ok(rows)
    }
}

struct Fixture {
    _folder: TempDir,
    _broker: Broker,
    feed: Feed,
}

async fn fixture(partitions: i32, pause: Duration) -> Fixture {
    let folder = TempDir::new().unwrap();
    let config = BrokerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.path().join("broker"),
        ..BrokerConfig::default()
    };
    let broker = Broker::start(config).await.unwrap();
    let brokers = broker.address().to_string();
    let log = KafkaLog::new(KafkaSettings { brokers, properties: BTreeMap::new() }).unwrap();
    let bucket = folder.path().join("bucket");
    let feed = Feed {
        source: "numbers".to_owned(),
        topic: "numbers".to_owned(),
        dead_topic: "numbers.dead".to_owned(),
        partitions,
        open: Arc::new(move |done| {
            Ok(Some(Box::new(Numbers { done, unit: 0, next: 0, pause }) as Box<dyn Source>))
        }),
        log,
        store: store::open(&bucket.to_string_lossy(), &BTreeMap::new()).unwrap(),
        board: Arc::new(Board::default()),
        breaker: Breaker::default(),
        accept: Arc::default(),
    };
    Fixture { _folder: folder, _broker: broker, feed }
}

async fn to_the_end(feed: &Feed) -> FeedEnd {
    let (ended, mut end) = watch::channel(None);
    let (_stop, stopped) = watch::channel(false);
    tokio::time::timeout(Duration::from_secs(60), feed.clone().run(ended, stopped)).await.unwrap();
    let end = end.borrow_and_update().clone();
    end.unwrap_or_else(|| panic!("the feed did not drain: {:?}", feed.board.status()))
}

/// All payloads of a topic, per partition.
async fn read_all(log: &KafkaLog, topic: &str) -> BTreeMap<i32, Vec<String>> {
    let marks = log.watermarks(topic).await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (partition, record) in log.read_range(topic, &from, &to).await.unwrap() {
        let text = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
        found.entry(partition).or_default().push(text);
    }
    found
}

async fn assert_each_row_once(feed: &Feed, partitions: usize) {
    let good = read_all(&feed.log, "numbers").await;
    assert_eq!(good.len(), partitions);
    let mut seen: Vec<u64> = Vec::new();
    for rows in good.values() {
        for text in rows {
            let number: serde_json::Value = serde_json::from_str(text).unwrap();
            seen.push(number["n"].as_u64().unwrap());
        }
    }
    seen.sort_unstable();
    let expected: Vec<u64> = (0..UNITS * ROWS).filter(|n| n % 100 != 99).collect();
    assert!(seen == expected, "{} rows, expected {}", seen.len(), expected.len());

    let dead = read_all(&feed.log, "numbers.dead").await;
    let mut bad: Vec<String> = Vec::new();
    for text in &dead[&0] {
        let row: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(row["source"], "numbers");
        assert_eq!(row["stage"], "read");
        assert_eq!(row["reason"], "odd");
        bad.push(format!("{} {}", row["unit"].as_str().unwrap(), row["row"]));
        assert!(row["raw_text"].as_str().unwrap().starts_with("{\"n\":"));
    }
    bad.sort_unstable();
    bad.dedup();
    assert_eq!(bad.len(), dead[&0].len(), "no bad row twice");
    assert_eq!(bad.len() as u64, UNITS * ROWS / 100);
    let status = feed.board.status();
    assert_eq!(status.feeds[0].rows, UNITS * ROWS * 99 / 100);
    assert_eq!(status.feeds[0].dead, UNITS * ROWS / 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_fed_once_and_the_end_is_known() {
    let fixture = fixture(3, Duration::ZERO).await;
    let end = to_the_end(&fixture.feed).await;
    assert_eq!(end.ends.values().sum::<i64>(), 19_800);
    assert_each_row_once(&fixture.feed, 3).await;
    // A second start finds nothing to do and the same end.
    assert_eq!(to_the_end(&fixture.feed).await, end);
    assert_each_row_once(&fixture.feed, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_killed_again_and_again_feeds_every_row_once() {
    let fixture = fixture(2, Duration::from_millis(2)).await;
    for life in 1..12_u64 {
        let (ended, _end) = watch::channel(None);
        let (_stop, stopped) = watch::channel(false);
        let task = tokio::spawn(fixture.feed.clone().run(ended, stopped));
        tokio::time::sleep(Duration::from_millis(15 * life)).await;
        // Dropped where it stands: nothing is flushed, nothing written down.
        task.abort();
        let _cancelled = task.await.is_err();
    }
    to_the_end(&fixture.feed).await;
    assert_each_row_once(&fixture.feed, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_feed_goes_on_where_it_was() {
    let fixture = fixture(1, Duration::from_millis(5)).await;
    let (ended, _end) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(fixture.feed.clone().run(ended, stopped));
    tokio::time::sleep(Duration::from_millis(80)).await;
    stop.send_replace(true);
    task.await.unwrap();
    assert_eq!(fixture.feed.board.status().feeds[0].state, "stopped");
    to_the_end(&fixture.feed).await;
    assert_each_row_once(&fixture.feed, 1).await;
}

async fn remake(fixture: &Fixture, topic: &str) {
    let brokers = &fixture.feed.log.settings().brokers;
    let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let options = rdkafka::admin::AdminOptions::new();
    admin.delete_topics(&[topic], &options).await.unwrap()[0].as_ref().unwrap();
    fixture.feed.log.ensure_topic(topic, fixture.feed.partitions, &[]).await.unwrap();
}

async fn until(feed: &Feed, state: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while feed.board.status().feeds.first().is_none_or(|feed| feed.state != state) {
        assert!(std::time::Instant::now() < deadline, "{state}: {:?}", feed.board.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_under_a_feed_stops_it() {
    let fixture = fixture(2, Duration::from_millis(5)).await;
    let feed = &fixture.feed;
    for is_running in [false, true] {
        let (ended, _end) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(feed.clone().run(ended, stopped));
        let rows = feed.board.status().feeds.first().map_or(0, |feed| feed.rows);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while feed.board.status().feeds.first().is_none_or(|feed| feed.rows < rows + 1000) {
            assert!(std::time::Instant::now() < deadline, "{:?}", feed.board.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if !is_running {
            stop.send_replace(true);
            task.await.unwrap();
        }
        remake(&fixture, "numbers").await;
        let (again, _again_end) = watch::channel(None);
        let (_going, on) = watch::channel(false);
        let task = match is_running {
            true => None,
            false => Some(tokio::spawn(feed.clone().run(again, on))),
        };
        until(feed, "data loss").await;
        let error = feed.board.failure().unwrap();
        assert_eq!(error.code, "TM501");
        assert!(error.to_string().contains("made anew"), "{error}");
        feed.accept.notify_one();
        if let Some(task) = task {
            until(feed, "running").await;
            task.abort();
            let _cancelled = task.await.is_err();
            continue;
        }
        until(feed, "done").await;
        // Units that were finished before are not fed again, the others wholly.
        let good = read_all(&feed.log, "numbers").await;
        let fed: usize = good.values().map(Vec::len).sum();
        assert_eq!(fed as u64 % (ROWS * 99 / 100), 0, "whole units only: {fed} rows");
    }
}
