//! F19: a bit turns over on the disk, and nobody gets a wrong result: a start is refused with the
//! object named, or the query that reads the object says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidemill_connectors::store;
use tidemill_contract::{Commit, ErrorKind};
use tidemill_runtime::Pipeline;
use tidemill_runtime::ledger::{Ledger, read_commit};
use tidemill_runtime::publish::read_staged;

use super::is_long;
use super::rig::{Rig, quick_folder, settings};
use crate::fault::Random;

/// A stopped pipeline's bucket.
struct Bucket {
    _folder: tempfile::TempDir,
    root: PathBuf,
    data: PathBuf,
    store: store::Store,
    commit: Commit,
}

async fn bucket() -> Bucket {
    let folder = quick_folder();
    let data = folder.path().to_owned();
    let pipeline = Pipeline::open(settings(&data)).await.unwrap();
    let log = pipeline.log().clone();
    let mut rig = Rig::start("whole", pipeline, &log).await;
    rig.produce().await;
    rig.until_committed().await;
    rig.check(&log).await;
    let epoch = rig.job().epoch;
    rig.pipeline.stop().await.unwrap();
    let root = data.join("bucket");
    let store = store::open(&root.to_string_lossy(), &BTreeMap::new()).unwrap();
    let mut newest = read_commit(&store, "events", epoch).await.unwrap().unwrap();
    while let Some(next) = read_commit(&store, "events", newest.epoch + 1).await.unwrap() {
        newest = next;
    }
    Bucket { _folder: folder, root, data, store, commit: newest }
}

/// Turns one bit of a file over; a second time turns it back.
fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1 << (at % 8);
    std::fs::write(file, bytes).unwrap();
}

/// Every place of a file, or as many as there is time for.
fn places(file: &Path, most: usize) -> Vec<usize> {
    let length = usize::try_from(std::fs::metadata(file).unwrap().len()).unwrap();
    let most = if is_long() { most.saturating_mul(20) } else { most };
    if length <= most {
        return (0..length).collect();
    }
    let mut random = Random(length as u64);
    (0..most).map(|_| random.below(length)).collect()
}

/// A whole start on the damaged bucket: the job ends and names the object.
async fn refused(bucket: &Bucket, object: &str) {
    let pipeline = match Pipeline::open(settings(&bucket.data)).await {
        Ok(pipeline) => pipeline,
        Err(error) => {
            assert!(error.message.contains(object), "{object}: {error}");
            return;
        }
    };
    if let Err(error) = pipeline.start().await {
        assert!(error.message.contains(object), "{object}: {error}");
        return pipeline.stop().await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let error = loop {
        assert!(Instant::now() < deadline, "{object}: the job does not end");
        let status = pipeline.status();
        let job = status.jobs.iter().find(|job| job.name == "events").unwrap();
        assert_ne!(job.state, "running", "{object} is damaged");
        if matches!(job.state.as_str(), "parked" | "failed") {
            break job.error.clone().unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(error.contains(object), "{object}: {error}");
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_named_and_never_a_result() {
    let bucket = bucket().await;
    let slot = format!("commits/events/{:020}.json", bucket.commit.epoch);
    let file = bucket.root.join(&slot);
    let mut flips = 0;
    for at in places(&file, usize::MAX) {
        flip(&file, at);
        let opened =
            Ledger::open(store::Store::clone(&bucket.store), "events", "other".to_owned()).await;
        let error = opened.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "byte {at}: {error}");
        assert!(error.message.contains(&slot), "byte {at}: {error}");
        flip(&file, at);
        flips += 1;
    }
    flip(&file, 100);
    refused(&bucket, &slot).await;
    flip(&file, 100);

    for object in bucket.commit.state.iter().chain(&bucket.commit.outbox) {
        let file = bucket.root.join(&object.path);
        for at in places(&file, 200) {
            flip(&file, at);
            let error = read_staged(&bucket.store, object).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Corrupt, "byte {at}: {error}");
            assert!(error.message.contains(&object.path), "byte {at}: {error}");
            flip(&file, at);
            flips += 1;
        }
        flip(&file, 10);
        refused(&bucket, &object.path).await;
        flip(&file, 10);
    }
    flips += parquet(&bucket).await;
    eprintln!("F19 bit flips: {flips}, each named");
}

/// Flips in the Parquet files: each query says so.
async fn parquet(bucket: &Bucket) -> usize {
    let mut flips = 0;
    let folder = bucket.root.join("tables/per_minute");
    let files = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "parquet"));
    for file in files.collect::<Vec<_>>() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for at in places(&file, 5) {
            flip(&file, at);
            let pipeline = Pipeline::open(settings(&bucket.data)).await.unwrap();
            pipeline.start().await.unwrap();
            let error = pipeline.execute("SELECT sum(n) FROM per_minute").await.unwrap_err();
            assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM568"), "{error}");
            assert!(error.message.contains(&name), "byte {at}: {error}");
            pipeline.stop().await.unwrap();
            flip(&file, at);
            flips += 1;
        }
    }
    flips
}
