//! F19: the disk is full, at any place, and nothing is torn: the epoch fails, the last commit
//! stands, the job says why, and goes on when there is room.
//!
//! A small file system is filled up to a few bytes, fewer or more each time, so that what fails is
//! now the first upload, now the commit, now the table's log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_runtime::{JobStatus, Pipeline, Settings};

use super::is_long;
use super::rig::{Rig, settings};

/// What a fault's end may take to show.
const NOTICED: Duration = Duration::from_secs(5);

/// A file system of its own, unmounted when dropped.
struct Small {
    folder: TempDir,
}

impl Small {
    /// `None`, with a printed line, where nothing may be mounted and nothing must.
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        assert!(std::env::var_os("TIDEMILL_REQUIRE_MOUNT").is_none(), "nothing can be mounted");
        println!("left out: no file system can be mounted here");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves this much room.
    fn fill(&self, room: u64) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![7; 4096];
        let mut length: u64 = 0;
        while let Ok(written @ 1..) = file.write(&block) {
            length += written as u64;
        }
        file.set_len(length.saturating_sub(room)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Room left at the fills: from none to some hundred kilobytes.
fn rooms() -> Vec<u64> {
    let count = if is_long() { 50 } else { 6 };
    (0..count).map(|step| step * step * 4096 * if is_long() { 1 } else { 7 } % 700_000).collect()
}

/// Produces until the job says that it has no room.
async fn until_full(rig: &mut Rig) {
    let begun = Instant::now();
    while rig.job().state != "degraded" {
        assert!(begun.elapsed() < Duration::from_secs(60), "never full: {:?}", rig.job());
        rig.produce().await;
        let settled = |state: &str| state == "degraded" || state == "running";
        rig.until("an answer", |job| settled(&job.state)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_bucket_fails_the_epoch_and_nothing_else() {
    let Some(small) = Small::mount() else { return };
    let folder = TempDir::new().unwrap();
    let bucket = small.path().join("bucket");
    let bucket = Some(format!("file://{}", bucket.display()));
    let settings = Settings { bucket, ..settings(folder.path()) };
    let pipeline = Pipeline::open(settings.clone()).await.unwrap();
    let log = pipeline.log().clone();
    let mut rig = Rig::start("full bucket", pipeline, &log).await;
    let mut resumed = Duration::ZERO;
    let rooms = rooms();
    for room in &rooms {
        rig.produce().await;
        rig.until_committed().await;
        small.fill(*room);
        until_full(&mut rig).await;
        // First it may only say that it waits.
        let says_why = |job: &JobStatus| {
            job.state == "degraded"
                && job.error.as_ref().is_some_and(|e| e.contains("No space left"))
        };
        rig.until("the reason", says_why).await;
        let epoch = rig.job().epoch;
        small.free();
        let freed = Instant::now();
        rig.until("running", |job| job.state == "running").await;
        rig.until_committed().await;
        resumed = resumed.max(freed.elapsed());
        assert!(freed.elapsed() < NOTICED, "room {room}: {:?}", freed.elapsed());
        assert!(rig.job().epoch > epoch, "room {room}");
        rig.check(&log).await;
    }
    rig.pipeline.stop().await.unwrap();
    // Whatever was torn would show now.
    let pipeline = Pipeline::open(settings).await.unwrap();
    let log = pipeline.log().clone();
    let rig = Rig::start("after a full bucket", pipeline, &log).await;
    rig.until_committed().await;
    rig.check(&log).await;
    rig.pipeline.stop().await.unwrap();
    eprintln!("F19 full bucket: {} fills, goes on after at most {resumed:?}", rooms.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_broker_refuses_records_and_lives() {
    let Some(small) = Small::mount() else { return };
    let folder = TempDir::new().unwrap();
    let config = BrokerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: small.path().join("broker"),
        ..BrokerConfig::default()
    };
    let broker = Broker::start(config.clone()).await.unwrap();
    let brokers = Some(broker.address().to_string());
    let settings = Settings { kafka_brokers: brokers, ..settings(folder.path()) };
    let pipeline = Pipeline::open(settings).await.unwrap();
    let log = pipeline.log().clone();
    let mut rig = Rig::start("full broker", pipeline, &log).await;
    rig.produce().await;
    rig.until_committed().await;
    for room in rooms().into_iter().take(if is_long() { 50 } else { 3 }) {
        small.fill(room % 100_000);
        // Until nothing is acknowledged any more; what was handed over waits in the client.
        while rig.is_acknowledged_within(Duration::from_secs(1)).await {
            rig.begin_produce().await;
        }
        // It still answers who only reads.
        let marks = log.watermarks("events").await.unwrap();
        assert!(marks[&0].1 > 0);
        small.free();
        rig.finish_produce().await;
        rig.until_committed().await;
        rig.check(&log).await;
    }
    rig.pipeline.stop().await.unwrap();
    broker.stop().await.unwrap();
    let broker = Broker::start(config).await.unwrap();
    let kafka = tidemill_connectors::log::kafka::KafkaSettings {
        brokers: broker.address().to_string(),
        ..Default::default()
    };
    let log = tidemill_connectors::log::kafka::KafkaLog::new(kafka).unwrap();
    assert_eq!(super::rig::events_in(&log).await, rig.produced());
    broker.stop().await.unwrap();
}
