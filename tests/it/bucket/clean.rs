//! Data files nobody needs go; a file a table or a commit names never does, whoever races whom.

use std::collections::BTreeSet;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use object_store::path::Path;
use tidemill_connectors::sinks::delta::{self, CompactSettings};
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Clock, StagedFile, SystemClock};
use tidemill_runtime::clean::clean_tables;
use tidemill_runtime::ledger::{Ledger, read_commit};
use tidemill_runtime::publish::Staged;
use tidemill_runtime::{CleanSettings, Pipeline, Settings};

const JOB: &str = "orders";
const VIEW: &str = "sales";
const HOUR: i64 = 3_600_000_000;

fn local(folder: &FsPath) -> Store {
    let url = format!("file://{}", folder.display());
    store::open(&url, &std::collections::BTreeMap::new()).unwrap()
}

fn rows(n: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    vec![RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![n]))]).unwrap()]
}

async fn table(store: &Store) {
    delta::create_if_missing(store, VIEW, rows(0)[0].schema_ref()).await.unwrap();
}

async fn stage(store: &Store, job: &str, epoch: u64) -> StagedFile {
    let staged = Staged::new(Arc::clone(store), job, epoch);
    staged.stage_parquet(VIEW, rows(i64::try_from(epoch).unwrap())).await.unwrap().unwrap()
}

async fn publish(store: &Store, epoch: u64, files: &[StagedFile]) {
    let version = i64::try_from(epoch).unwrap();
    delta::add_files(store, VIEW, files, JOB, version).await.unwrap();
}

fn now() -> i64 {
    SystemClock.now_micros()
}

async fn clean(store: &Store, published: u64, at: i64) -> BTreeSet<String> {
    let settings = CleanSettings::default();
    let views = [VIEW.to_owned()];
    let deleted = clean_tables(store, JOB, &views, published, settings, at).await.unwrap();
    deleted.iter().map(ToString::to_string).collect()
}

async fn is_there(store: &Store, path: &str) -> bool {
    store::get(store, &Path::parse(path).unwrap()).await.unwrap().is_some()
}

#[tokio::test]
async fn files_go_when_their_proof_is_there_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    table(&store).await;
    let (mut ledger, _) = Ledger::open(Arc::clone(&store), JOB, "one".to_owned()).await.unwrap();
    for epoch in 1..=20 {
        let mut commit = ledger.draft();
        commit.files = vec![stage(&store, JOB, epoch).await];
        ledger.commit(commit.clone()).await.unwrap();
        publish(&store, epoch, &commit.files).await;
        ledger.mark_published(epoch);
    }
    let abandoned = stage(&store, JOB, 20).await.path;
    let under_way = stage(&store, JOB, 21).await.path;
    let others = stage(&store, "orders.7", 3).await.path;
    let foreign = Path::from("tables/sales/0001-spark.parquet");
    store::put(&store, &foreign, bytes::Bytes::from_static(b"PAR1")).await.unwrap();

    let deleted = clean(&store, 20, now()).await;
    assert_eq!(deleted, [abandoned].into(), "only a try for a taken epoch is surely dead");
    let deleted = clean(&store, 20, now() + 25 * HOUR).await;
    assert_eq!(deleted, [others].into(), "another job's file goes by its age");
    assert!(is_there(&store, &under_way).await);

    let settings = CompactSettings { files_min: 2, ..CompactSettings::default() };
    let compacted = delta::compact(&store, VIEW, settings).await.unwrap().unwrap();
    assert_eq!(compacted.removed.len(), 20);
    let deleted = clean(&store, 20, now() + 25 * HOUR).await;
    assert_eq!(deleted, BTreeSet::new(), "a reader of an older version may need them");
    // So many epochs that no kept commit names the replaced files any more.
    for epoch in 21..=130 {
        let commit = ledger.draft();
        ledger.commit(commit).await.unwrap();
        ledger.mark_published(epoch);
    }
    let deleted = clean(&store, 130, now() + 8 * 24 * HOUR).await;
    let mut expected: BTreeSet<String> = compacted.removed.into_iter().collect();
    expected.insert(under_way);
    assert_eq!(deleted, expected);
    assert!(is_there(&store, &compacted.added).await);
    assert_eq!(delta::files(&store, VIEW).await.unwrap(), [compacted.added]);
    assert!(is_there(&store, foreign.as_ref()).await, "not ours to delete");
}

/// One of two processes that both believe to own the job.
struct Writer {
    ledger: Ledger,
    staged: Option<StagedFile>,
    /// Committed by this writer and not yet published.
    owed: Option<(u64, Vec<StagedFile>)>,
}

impl Writer {
    async fn open(store: &Store, name: String) -> Self {
        let (mut ledger, newest) = Ledger::open(Arc::clone(store), JOB, name).await.unwrap();
        if let Some(commit) = newest {
            publish(store, commit.epoch, &commit.files).await;
            ledger.mark_published(commit.epoch);
        }
        Self { ledger, staged: None, owed: None }
    }

    /// Publishes what is owed, or commits what is staged; false if the other one was faster.
    async fn go_on(&mut self, store: &Store) -> bool {
        if let Some((epoch, files)) = self.owed.take() {
            publish(store, epoch, &files).await;
            self.ledger.mark_published(epoch);
        } else if let Some(file) = self.staged.take() {
            let mut commit = self.ledger.draft();
            commit.files = vec![file];
            self.owed = Some((commit.epoch, commit.files.clone()));
            return self.ledger.commit(commit).await.is_ok();
        }
        true
    }

    fn published(&self) -> u64 {
        self.ledger.next_epoch() - 1 - u64::from(self.owed.is_some())
    }
}

#[tokio::test]
async fn no_race_of_two_writers_loses_a_file_that_counts() {
    for seed in 1..=12_u64 {
        let folder = tempfile::tempdir().unwrap();
        race(local(folder.path()), seed).await;
    }
}

/// Two writers, compaction and clean-up in a random order of small steps.
async fn race(store: Store, seed: u64) {
    table(&store).await;
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut lives = 2;
    let mut writers =
        [Writer::open(&store, "1".to_owned()).await, Writer::open(&store, "2".to_owned()).await];
    let mut newest = 0;
    for _ in 0..90 {
        let writer = &mut writers[usize::from(next(2) == 0)];
        match next(6) {
            0 | 1 if writer.owed.is_none() => {
                writer.staged = Some(stage(&store, JOB, writer.ledger.next_epoch()).await);
            }
            0..=3 => {
                if writer.go_on(&store).await {
                    newest = newest.max(writer.ledger.next_epoch() - 1);
                } else {
                    lives += 1;
                    *writer = Writer::open(&store, lives.to_string()).await;
                }
            }
            // Every clock has run out: the proofs alone must hold.
            4 => drop(clean(&store, writer.published(), now() + 1_000 * HOUR).await),
            _ => {
                let settings = CompactSettings { files_min: 3, ..CompactSettings::default() };
                delta::compact(&store, VIEW, settings).await.unwrap();
            }
        }
        check(&store, newest, &writers).await;
    }
    assert!(newest > 2, "{newest} epochs");
}

/// Everything that counts is there: the table's files, what the newest commit names, and what a
/// writer has staged for an epoch that is still free.
async fn check(store: &Store, newest: u64, writers: &[Writer]) {
    let mut needed = delta::files(store, VIEW).await.unwrap();
    if let Some(commit) = read_commit(store, JOB, newest).await.unwrap() {
        needed.extend(commit.files.into_iter().map(|file| file.path));
    }
    for writer in writers.iter().filter(|writer| writer.ledger.next_epoch() > newest) {
        needed.extend(writer.staged.iter().map(|file| file.path.clone()));
    }
    for path in needed {
        assert!(is_there(store, &path).await, "'{path}' is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_cleans_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        data_dir: folder.path().to_path_buf(),
        commit_interval: Duration::from_millis(10),
        clean: CleanSettings { interval: Duration::from_millis(50), ..CleanSettings::default() },
        ..Settings::default()
    };
    let inbox = folder.path().join("in");
    std::fs::create_dir_all(&inbox).unwrap();
    let sql = format!(
        "CREATE SOURCE orders (id BIGINT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (
           'connector'='filesystem', 'path'='{}/*.jsonl', 'format'='json',
           'source.monitor-interval'='20 ms');
         CREATE MATERIALIZED VIEW sales AS SELECT window_start, count(*) AS n
         FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1' MINUTE))
         GROUP BY window_start;",
        inbox.display()
    );
    let pipeline = Pipeline::open(settings).await.unwrap();
    pipeline.execute(&sql).await.unwrap();
    // Left by a try of this job that died before its commit.
    let dead = stage(pipeline.store(), JOB, 1).await;
    pipeline.start().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut minute = 0;
    while is_there(pipeline.store(), &dead.path).await {
        let at = format!("2024-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60);
        let line = format!("{{\"id\":1,\"at\":\"{at}\"}}\n");
        std::fs::write(inbox.join(format!("{minute:04}.jsonl")), line).unwrap();
        minute += 1;
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pipeline.stop().await.unwrap();
}
