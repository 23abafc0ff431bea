//! A failing query, sink or task is isolated: it leaves its job, is tried again and parked with
//! its reason; the others go on, and no row is lost or counted twice on the way.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};
use tidemill_runtime::{JobStatus, Pipeline, Settings};

use crate::answer::lines;
use crate::cli::{Outcome, finish, tidemill};

const EVENTS: &str = "
    CREATE SOURCE IF NOT EXISTS events (
      id BIGINT NOT NULL, shop TEXT, amount BIGINT, at BIGINT,
      ts AS to_timestamp_millis(at),
      WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH ('connector'='kafka', 'topic'='events', 'format'='json');";

const GOOD: &str = "
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
    SELECT window_start, shop, count(*) AS n, sum(amount) AS total
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
    GROUP BY window_start, shop;
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_hour AS
    SELECT window_start, count(*) AS n
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start;";

/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(50),
        flush_interval: Duration::from_millis(200),
        retry_interval: Duration::from_millis(10),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

/// Appends rows of ids `[from, to)`, one a second; amount is the id modulo 7.
async fn produce(pipeline: &Pipeline, from: i64, to: i64) {
    pipeline.log().ensure_topic("events", 1, &[]).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    for id in from..to {
        let shop = ["ams", "ber", "cph"][usize::try_from(id % 3).unwrap()];
        let (amount, at) = (id % 7, START_MS + id * 1000);
        let row = format!("{{\"id\":{id},\"shop\":\"{shop}\",\"amount\":{amount},\"at\":{at}}}");
        let record = ProduceRecord {
            partition: Some(PartitionId(0)),
            key: None,
            payload: Some(Bytes::from(row)),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append("events", record).await.unwrap();
    }
    writer.flush().await.unwrap();
}

async fn number(pipeline: &Pipeline, sql: &str) -> i64 {
    let row: serde_json::Value = serde_json::from_str(&lines(pipeline, sql).await[0]).unwrap();
    let value = row.as_object().unwrap().values().next().unwrap();
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(-1)
}

/// The job that runs a query, if one does.
fn job_of(pipeline: &Pipeline, query: &str) -> Option<JobStatus> {
    let jobs = pipeline.status().jobs;
    jobs.into_iter().find(|job| job.queries.iter().any(|name| name == query))
}

/// Waits until the job of a query is as it should be.
async fn until(pipeline: &Pipeline, query: &str, what: &str, holds: impl Fn(&JobStatus) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !job_of(pipeline, query).is_some_and(|job| holds(&job)) {
        assert!(Instant::now() < deadline, "{query}, {what}: {:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_parked(pipeline: &Pipeline, query: &str) -> JobStatus {
    until(pipeline, query, "parked", |job| job.state == "parked").await;
    job_of(pipeline, query).unwrap()
}

/// The counts of both good views over rows `[0, count)`.
async fn assert_good(pipeline: &Pipeline, count: i64) {
    until(pipeline, "per_minute", "all rows", |job| {
        job.rows_in == u64::try_from(count).unwrap() && job.epoch > 0
    })
    .await;
    assert_eq!(number(pipeline, "SELECT sum(n) FROM per_minute").await, count);
    let total: i64 = (0..count).map(|id| id % 7).sum();
    assert_eq!(number(pipeline, "SELECT sum(total) FROM per_minute").await, total);
    let keys = (count + 59) / 60 * 3;
    assert_eq!(number(pipeline, "SELECT count(*) FROM per_minute").await, keys);
    until(pipeline, "per_hour", "all rows", |job| {
        job.rows_in == u64::try_from(count).unwrap() && job.epoch > 0
    })
    .await;
    assert_eq!(number(pipeline, "SELECT sum(n) FROM per_hour").await, count);
    for job in pipeline.status().jobs {
        assert_eq!(job.conservation_drift, 0, "{job:?}");
    }
}

/// One of three views divides by zero on row 700 of 1,200: the others have every row, it is
/// parked with its reason, and created anew with other words it is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_divides_by_zero_stands_alone() {
    let folder = TempDir::new().unwrap();
    let bad = |divisor: &str| {
        format!(
            "CREATE MATERIALIZED VIEW bad AS
             SELECT window_start, shop, sum(100 / {divisor}) AS share, count(*) AS n
             FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
             GROUP BY window_start, shop;
             CREATE MATERIALIZED VIEW over_bad AS SELECT window_start, sum(n) AS n
             FROM TABLE(TUMBLE(TABLE bad, DESCRIPTOR(window_start), INTERVAL '1' MINUTE))
             GROUP BY window_start;"
        )
    };
    {
        let pipeline = open(folder.path()).await;
        pipeline.execute(&format!("{EVENTS}{GOOD}{}", bad("(id - 700)"))).await.unwrap();
        pipeline.start().await.unwrap();
        produce(&pipeline, 0, 600).await;
        until(&pipeline, "bad", "the good rows", |job| job.rows_in == 600 && job.epoch > 0).await;
        assert_eq!(pipeline.status().jobs.len(), 1, "they share a job while nothing fails");
        produce(&pipeline, 600, 1200).await;

        let parked = until_parked(&pipeline, "bad").await;
        assert!(parked.name.starts_with("events."), "{parked:?}");
        assert_eq!(parked.queries, ["bad", "over_bad"], "who reads it comes with it");
        let error = parked.error.unwrap();
        for part in ["TM340", "'bad'", "division by zero", "id, 700", "RESUME bad", "DROP"] {
            assert!(error.contains(part), "no '{part}' in {error}");
        }
        let parked = parked.parked.unwrap();
        assert!(parked.tries >= 5 && parked.at_micros > 0, "{parked:?}");
        assert_good(&pipeline, 1200).await;
        let shown = lines(&pipeline, "SHOW VIEWS").await;
        assert!(shown.iter().any(|row| row.contains("\"bad\"") && row.contains("division")));
        // What it cannot answer it says; that it was given up loses nothing of the others.
        let refused = pipeline.execute("SELECT * FROM bad").await.unwrap_err();
        assert_eq!(refused.code, "TM340");
        pipeline.execute("RESUME bad").await.unwrap();
        until_parked(&pipeline, "bad").await;
        pipeline.stop().await.unwrap();
    }
    // A start tries it again, from where it stood; the others are as they were.
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    until_parked(&pipeline, "bad").await;
    produce(&pipeline, 1200, 1500).await;
    assert_good(&pipeline, 1500).await;
    assert_eq!(job_of(&pipeline, "per_hour").unwrap().name, "events");

    pipeline.execute("DROP VIEW over_bad; DROP VIEW bad").await.unwrap();
    pipeline.execute(&bad("NULLIF(id - 700, 0)")).await.unwrap();
    until(&pipeline, "bad", "all rows", |job| job.rows_in == 1500 && job.epoch > 0).await;
    let right: i64 = (0..1500).filter(|id| *id != 700).map(|id| 100 / (id - 700)).sum();
    assert_eq!(number(&pipeline, "SELECT sum(share) FROM bad").await, right);
    assert_eq!(number(&pipeline, "SELECT sum(n) FROM bad").await, 1500);
    pipeline.stop().await.unwrap();
}

/// A filter that fails is shared by two views: both leave, and the one without fault runs on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_that_fails_takes_only_those_that_share_it() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let sink = "CREATE SINK tiny WITH ('connector'='kafka', 'topic'='tiny')
        AS SELECT id, CAST(id AS TINYINT) AS small FROM events WHERE amount = 1;";
    pipeline.execute(&format!("{EVENTS}{GOOD}{sink}")).await.unwrap();
    pipeline.start().await.unwrap();
    produce(&pipeline, 0, 100).await;
    until(&pipeline, "tiny", "small ids", |job| job.rows_in == 100 && job.epoch > 0).await;
    produce(&pipeline, 100, 400).await;
    let parked = until_parked(&pipeline, "tiny").await;
    assert_eq!(parked.queries, ["tiny"]);
    let error = parked.error.unwrap();
    assert!(error.contains("'tiny'") && error.contains("cast"), "{error}");
    assert_good(&pipeline, 400).await;
    // What it gave before its fault is there, once.
    let marks = pipeline.log().watermarks("tiny").await.unwrap();
    assert!((15..=19).contains(&marks[&0].1), "ids 1, 8, … 99, at most up to 127: {marks:?}");
    pipeline.execute("DROP SINK tiny").await.unwrap();
    assert!(job_of(&pipeline, "tiny").is_none());
    assert_good(&pipeline, 400).await;
    pipeline.stop().await.unwrap();
}

fn ids_of(file: &Path) -> Vec<i64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let id = |line: &str| line.split(',').next().and_then(|id| id.parse().ok());
    text.lines().filter_map(id).collect()
}

/// The folder of a sink's file becomes a file while rows are waiting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_cannot_be_written_catches_up_when_it_can() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let sink = format!(
        "CREATE SINK ones WITH ('connector'='filesystem', 'path'='{}', 'format'='csv')
         AS SELECT id, shop FROM events WHERE amount = 1;",
        out.join("ones.csv").display()
    );
    let pipeline = open(folder.path()).await;
    pipeline.execute(&format!("{EVENTS}{GOOD}{sink}")).await.unwrap();
    pipeline.start().await.unwrap();
    produce(&pipeline, 0, 300).await;
    until(&pipeline, "ones", "first rows", |job| job.rows_in == 300 && job.epoch > 0).await;
    let aside = folder.path().join("aside");
    std::fs::rename(&out, &aside).unwrap();
    std::fs::write(&out, "not a folder").unwrap();

    produce(&pipeline, 300, 900).await;
    until(&pipeline, "ones", "its own job", |job| job.name != "events" && job.state == "degraded")
        .await;
    assert_good(&pipeline, 900).await;
    let error = job_of(&pipeline, "ones").unwrap().error.unwrap();
    assert!(error.contains("TM561") && error.contains("ones.csv"), "{error}");

    std::fs::remove_file(&out).unwrap();
    std::fs::rename(&aside, &out).unwrap();
    until(&pipeline, "ones", "all rows", |job| job.rows_in == 900 && job.state == "running").await;
    let expected: Vec<i64> = (0..900).filter(|id| id % 7 == 1).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ids_of(&out.join("ones.csv")).len() < expected.len() {
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ids_of(&out.join("ones.csv")), expected);
    pipeline.stop().await.unwrap();
}

/// A sink's file is cut by somebody else: parked at once, and right again after its repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_file_was_cut_is_parked_until_it_is_repaired() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ones.csv");
    let sink = format!(
        "CREATE SINK ones WITH ('connector'='filesystem', 'path'='{}', 'format'='csv')
         AS SELECT id, shop FROM events WHERE amount = 1;",
        file.display()
    );
    let pipeline = open(folder.path()).await;
    pipeline.execute(&format!("{EVENTS}{GOOD}{sink}")).await.unwrap();
    pipeline.start().await.unwrap();
    produce(&pipeline, 0, 300).await;
    until(&pipeline, "ones", "first rows", |job| job.rows_in == 300 && job.epoch > 0).await;
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    produce(&pipeline, 300, 600).await;
    let parked = until_parked(&pipeline, "ones").await;
    assert!(parked.error.unwrap().contains("TM560"));
    assert_good(&pipeline, 600).await;
    std::fs::write(&file, &whole).unwrap();
    pipeline.execute("RESUME ones").await.unwrap();
    until(&pipeline, "ones", "all rows", |job| job.rows_in == 600 && job.state == "running").await;
    let expected: Vec<i64> = (0..600).filter(|id| id % 7 == 1).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ids_of(&file).len() < expected.len() {
        assert!(Instant::now() < deadline, "{:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ids_of(&file), expected);
    pipeline.stop().await.unwrap();
}

const SHOP: &str = "
    CREATE SOURCE IF NOT EXISTS lines (
      invoice TEXT, quantity INT, unit_price DECIMAL(12,3), country TEXT,
      invoice_date TIMESTAMP, WATERMARK FOR invoice_date AS invoice_date
    ) WITH ('connector'='shop', 'limit'='20000');
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_day AS
    SELECT window_start, country, count(*) AS n, sum(quantity * unit_price) AS net
    FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(invoice_date), INTERVAL '1' DAY))
    GROUP BY window_start, country;";

const SELECT: &str = "SELECT * FROM per_day ORDER BY window_start, country;";

struct Shop {
    folder: TempDir,
}

impl Shop {
    fn new(more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("shop.sql"), format!("{SHOP}{more}{SELECT}")).unwrap();
        std::fs::write(folder.path().join("select.sql"), SELECT).unwrap();
        Self { folder }
    }

    fn command(&self, rules: &str) -> std::process::Command {
        let mut command = tidemill(self.folder.path(), &["run", "shop.sql", "--data-dir", "data"]);
        command.env("TIDEMILL__STATE__COMMIT_INTERVAL", "20ms");
        command.env("TIDEMILL__STATE__FLUSH_INTERVAL", "100ms");
        command.env("TIDEMILL__STATE__RETRY_INTERVAL", "10ms");
        command.env("TIDEMILL_FAILPOINTS", rules);
        command
    }

    fn run(&self, rules: &str) -> Outcome {
        finish(self.command(rules))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn table(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.contains(" | ")).map(str::to_owned).collect()
}

fn sorted(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

const RETURNS: &str = "CREATE SINK IF NOT EXISTS returns
    WITH ('connector'='filesystem', 'path'='out/returns.csv', 'format'='csv')
    AS SELECT invoice, quantity, country FROM lines WHERE quantity < 0;";

/// The process dies at each step of a parting, and again while the new job waits: the sink has
/// every row once in the end, and so has the view.
#[test]
fn a_parting_that_is_cut_short_anywhere_comes_to_the_same() {
    let calm = Shop::new(RETURNS);
    let undisturbed = calm.run("");
    assert_eq!(undisturbed.code, Some(0), "{}", undisturbed.stderr);
    let expected = (table(&undisturbed.stdout), sorted(&calm.path("out/returns.csv")));
    let sizes = (expected.0.len(), expected.1.len());
    assert!(sizes.0 > 20 && sizes.1 > 100, "{sizes:?}");

    for point in ["before_split", "after_split", "before_part", "after_part"] {
        let shop = Shop::new(RETURNS);
        // The sink's file lies in a folder that is not there yet: commits are made, not delivered.
        std::fs::create_dir(shop.path("out")).unwrap();
        let later = shop.path("later");
        std::os::unix::fs::symlink(later.join("returns.csv"), shop.path("out/returns.csv"))
            .unwrap();
        let died = shop.run(&format!("commit.{point}=abort"));
        assert_eq!(died.code, None, "{point} was not reached: {}", died.stderr);
        // A second life until the sink stands alone, killed as well.
        let own = shop.path("data/bucket/commits");
        let mut second =
            shop.command("").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !stands_alone(&own) {
            assert!(Instant::now() < deadline, "{point}: the sink stays in its job");
            assert!(second.try_wait().unwrap().is_none(), "{point}: it ended by itself");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        second.kill().unwrap();
        second.wait().unwrap();

        std::fs::create_dir(&later).unwrap();
        let repaired = shop.run("");
        assert_eq!(repaired.code, Some(0), "{point}: {}", repaired.stderr);
        assert_eq!(table(&repaired.stdout), expected.0, "{point}");
        assert_eq!(sorted(&shop.path("out/returns.csv")), expected.1, "{point}");
    }
}

/// Some job besides the source's first has a commit.
fn stands_alone(commits: &Path) -> bool {
    let Ok(jobs) = std::fs::read_dir(commits) else { return false };
    jobs.filter_map(Result::ok)
        .filter(|job| job.file_name() != "lines")
        .any(|job| std::fs::read_dir(job.path()).is_ok_and(|mut commits| commits.next().is_some()))
}

/// A run with a query that fails ends when everything else is done: with its error, and not never.
#[test]
fn a_run_with_a_parked_query_ends_with_its_error() {
    let bad = "CREATE MATERIALIZED VIEW IF NOT EXISTS bad AS
        SELECT window_start, sum(1 / (quantity - quantity)) AS x
        FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(invoice_date), INTERVAL '1' DAY))
        GROUP BY window_start;";
    let shop = Shop::new(bad);
    let outcome = shop.run("");
    assert_eq!(outcome.code, Some(78), "{}", outcome.stderr);
    for part in ["TM340", "'bad'", "division by zero", "RESUME bad"] {
        assert!(outcome.stderr.contains(part), "no '{part}' in {}", outcome.stderr);
    }
    // The other view is whole: without the bad one the same folder gives every row.
    std::fs::write(shop.path("shop.sql"), format!("{SHOP}DROP VIEW IF EXISTS bad;{SELECT}"))
        .unwrap();
    let rest = shop.run("");
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    let calm = Shop::new("").run("");
    assert_eq!(table(&rest.stdout), table(&calm.stdout));
}

/// A panic in a feed, in a job's reading, in its commit, in a delivery: caught and tried again.
#[test]
fn a_panic_anywhere_changes_nothing() {
    let calm = Shop::new(RETURNS);
    let undisturbed = calm.run("");
    let expected = (table(&undisturbed.stdout), sorted(&calm.path("out/returns.csv")));
    // `emitted` is the work of one query: it leaves its job and is right there.
    for point in [
        "feed.before_flush",
        "ingest.pushed",
        "ingest.emitted",
        "ingest.advanced",
        "commit.after_create",
        "publish.before_file",
    ] {
        let shop = Shop::new(RETURNS);
        let outcome = shop.run(&format!("{point}=panic"));
        assert_eq!(outcome.code, Some(0), "{point}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("as told"), "{point}: {}", outcome.stderr);
        assert_eq!(table(&outcome.stdout), expected.0, "{point}");
        assert_eq!(sorted(&shop.path("out/returns.csv")), expected.1, "{point}");
    }
}
