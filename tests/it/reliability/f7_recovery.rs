//! F7: how long a job with much state is away after a SIGKILL.
//!
//! Many keys with many aggregates in open windows; new rows lie ready; the process is killed and
//! started again at once. Measured is what a user sees: from the start of the new process to the
//! next commit record in the bucket that has new rows in it. It includes the start of the process
//! and of the broker, taking over the last commit, reading the state, new rows, and a whole commit
//! with its syncs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_contract::Commit;
use tidemill_runtime::{Pipeline, Settings, StatementResult};

use super::bucket;
use super::victim::{Start, Victim, pause};

const SCRIPT: &str = "
CREATE SOURCE IF NOT EXISTS readings (
  sensor TEXT NOT NULL, a DECIMAL(12, 2), b DECIMAL(12, 2), c BIGINT, at BIGINT,
  ts AS to_timestamp_millis(at),
  WATERMARK FOR ts AS ts - INTERVAL '10' MINUTE
) WITH ('connector'='filesystem', 'path'='in/*.jsonl', 'format'='json', 'topic.partitions'='2',
        'source.monitor-interval'='20 ms', 'scan.watermark.idle-timeout'='1 h',
        'scan.watermark.alignment.max-drift'='1 h');

CREATE MATERIALIZED VIEW IF NOT EXISTS per_sensor AS
SELECT window_start, sensor, count(*) AS n, sum(a) AS sum_a, min(a) AS min_a, max(a) AS max_a,
       avg(a) AS avg_a, sum(b) AS sum_b, min(b) AS min_b, max(b) AS max_b, avg(b) AS avg_b,
       sum(c) AS sum_c, min(c) AS min_c, max(c) AS max_c
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, sensor;
";

/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;
const MINUTE_MS: i64 = 60_000;
/// Windows that are open all the time.
const WINDOWS: i64 = 4;
/// New rows for each life.
const FRESH: i64 = 2_000;

/// How much is done.
struct Size {
    kills: usize,
    sensors: i64,
    /// The state must be at least so large.
    state_bytes: u64,
    /// Bounds of the median and of the 99th percentile.
    bounds: [Duration; 2],
}

const SHORT: Size = Size {
    kills: 6,
    sensors: 25_000,
    state_bytes: 18_000_000,
    bounds: [Duration::from_secs(20), Duration::from_secs(60)],
};
const LONG: Size = Size {
    kills: 50,
    sensors: 250_000,
    state_bytes: 200_000_000,
    bounds: [Duration::from_secs(1), Duration::from_secs(3)],
};

/// Writes rows `[from, to)`: each sensor once in each window, then again from the first.
fn write_rows(folder: &Path, sensors: i64, from: i64, to: i64) {
    let mut text = String::new();
    for row in from..to {
        let (sensor, window) = (row % sensors, row / sensors % WINDOWS);
        let at = START_MS + window * MINUTE_MS + row % MINUTE_MS;
        writeln!(
            text,
            "{{\"sensor\":\"sensor-{sensor:09}\",\"a\":{}.{:02},\"b\":{}.5,\"c\":{row},\"at\":{at}}}",
            row % 1000,
            row % 100,
            row % 777
        )
        .unwrap();
    }
    put_file(folder, from, &text);
}

fn put_file(folder: &Path, name: i64, text: &str) {
    let hidden = folder.join(".next");
    std::fs::write(&hidden, text).unwrap();
    std::fs::rename(hidden, folder.join(format!("{name:012}.jsonl"))).unwrap();
}

fn newest(bucket: &Path) -> Option<Commit> {
    bucket::newest(bucket, "readings")
}

fn await_records(victim: &mut Victim, bucket: &Path, records: i64) -> Commit {
    victim.wait_until("rows are committed", Duration::from_secs(600), |_| {
        let commit = newest(bucket);
        let found = commit.and_then(|commit| commit.counters.get("records").copied());
        found.is_some_and(|found| i64::try_from(found).unwrap() >= records)
    });
    newest(bucket).unwrap()
}

/// Kills, starts again and waits for the next commit, again and again.
fn kill_and_measure(start: &Start, folder: &Path, bucket: &Path, size: &Size) -> Vec<Duration> {
    let mut rows = WINDOWS * size.sensors;
    let mut victim = start.spawn("");
    let mut times = Vec::new();
    for kill in 0..size.kills {
        await_records(&mut victim, bucket, rows);
        // At different places: while it idles, and in the work on the new rows.
        write_rows(&folder.join("in"), size.sensors, rows, rows + FRESH);
        rows += FRESH;
        pause(Duration::from_millis(u64::try_from(kill).unwrap() * 37 % 150));
        write_rows(&folder.join("in"), size.sensors, rows, rows + FRESH);
        rows += FRESH;
        victim.kill();
        let before = newest(bucket).unwrap().counters["records"];
        let started = Instant::now();
        victim = start.spawn("");
        victim.wait_until("the next commit", Duration::from_secs(120), |_| {
            newest(bucket).is_some_and(|commit| commit.counters["records"] > before)
        });
        times.push(started.elapsed());
    }
    // A row of a later hour in each partition closes every window.
    let later = START_MS + 3_600_000;
    let closing = format!("{{\"sensor\":\"last\",\"a\":1,\"b\":1,\"c\":1,\"at\":{later}}}\n");
    put_file(&folder.join("in"), rows, &closing.repeat(2));
    await_records(&mut victim, bucket, rows + 2);
    victim.stop();
    times
}

#[test]
fn a_job_with_much_state_is_back_soon_after_a_kill() {
    let size = if super::is_long() { LONG } else { SHORT };
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("much.sql"), SCRIPT).unwrap();
    let bucket: PathBuf = folder.path().join("data/bucket");
    let start = Start::script(folder.path(), "much.sql", "100ms", "10s");

    let filled = WINDOWS * size.sensors;
    for window in 0..WINDOWS {
        let (from, to) = (window * size.sensors, (window + 1) * size.sensors);
        write_rows(&folder.path().join("in"), size.sensors, from, to);
    }
    let mut victim = start.spawn("");
    let commit = await_records(&mut victim, &bucket, filled);
    victim.kill();
    let bytes = bucket::state_bytes(&commit);
    assert!(bytes >= size.state_bytes, "the state has {bytes} bytes");

    let mut times = kill_and_measure(&start, folder.path(), &bucket, &size);
    let checked = bucket::assert_conserved(&bucket, &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(assert_counted(folder.path(), &size)));

    eprintln!("F7: each: {times:.0?}");
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    eprintln!(
        "F7: {} MB of state, {} kills, from start to next commit: p50 {:.0?}, p99 {:.0?}, \
         min {:.0?}, max {:.0?}; {checked} commits conserved",
        bytes / 1_000_000,
        times.len(),
        at(50),
        at(99),
        times[0],
        times[times.len() - 1],
    );
    assert!(at(50) <= size.bounds[0], "p50 {:?}", at(50));
    assert!(at(99) <= size.bounds[1], "p99 {:?}", at(99));
}

/// A commit shares the large parts of its state with earlier ones: a flipped bit in one of those
/// is found when the job starts, and is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_part_of_the_state_is_named_and_nothing_new_is_committed() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("much.sql"), SCRIPT).unwrap();
    let bucket: PathBuf = folder.path().join("data/bucket");
    let start = Start::script(folder.path(), "much.sql", "100ms", "10s");
    let mut victim = start.spawn("");
    let sensors = 20_000;
    for (from, to) in [(0, sensors), (sensors, sensors + 10)] {
        write_rows(&folder.path().join("in"), sensors, from, to);
        await_records(&mut victim, &bucket, to);
    }
    victim.kill();

    let before = newest(&bucket).unwrap();
    let shared = before.shared_state.first().expect("the state shares nothing").path.clone();
    let mut bytes = std::fs::read(bucket.join(&shared)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(bucket.join(&shared), bytes).unwrap();

    let settings = Settings { data_dir: folder.path().join("data"), ..Settings::default() };
    let pipeline = Pipeline::open(settings).await.unwrap();
    pipeline.start().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        let failed = pipeline
            .status()
            .jobs
            .into_iter()
            .find(|job| ["failed", "parked"].contains(&job.state.as_str()));
        if let Some(error) = failed.and_then(|job| job.error) {
            break error;
        }
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(error.contains(&shared), "{error}");
    pipeline.stop().await.unwrap();
    // Taking the job over repeats the newest commit in another name; nothing else may follow.
    let after = newest(&bucket).unwrap();
    assert!(after.epoch <= before.epoch + 1, "{} after {}", after.epoch, before.epoch);
    assert_eq!((after.state, after.partitions), (before.state, before.partitions));
}

/// Every row is in exactly one window, whatever was killed.
async fn assert_counted(folder: &Path, size: &Size) {
    let settings = Settings { data_dir: folder.join("data"), ..Settings::default() };
    let pipeline = Pipeline::open(settings).await.unwrap();
    pipeline.start().await.unwrap();
    let sql = "SELECT count(*) AS groups, sum(n) AS n, sum(sum_c) AS c FROM per_sensor
               WHERE sensor <> 'last'";
    let results = pipeline.execute(sql).await.unwrap();
    let StatementResult::Rows { batches, .. } = &results[0] else { panic!("no rows") };
    let text = |column: usize| {
        arrow::util::display::array_value_to_string(batches[0].column(column), 0).unwrap()
    };
    let rows = WINDOWS * size.sensors + 2 * FRESH * i64::try_from(size.kills).unwrap();
    assert_eq!(text(0), (WINDOWS * size.sensors).to_string());
    assert_eq!(text(1), rows.to_string());
    assert_eq!(text(2), (rows * (rows - 1) / 2).to_string());
    for job in pipeline.status().jobs {
        assert_eq!((job.conservation_drift, job.error), (0, None), "{}", job.name);
    }
    pipeline.stop().await.unwrap();
}
