//! `fsck` and verified reads: every damaged or missing object is named; a healthy bucket is quiet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_runtime::fsck::{Depth, Report, Severity, check};
use tidemill_runtime::{Pipeline, Settings};

use crate::cli::{finish, tidemill};

const SQL: &str = "
    CREATE SOURCE orders (
      id BIGINT NOT NULL, shop TEXT, at TIMESTAMP, WATERMARK FOR at AS at
    ) WITH ('connector'='filesystem', 'path'='{folder}/in/*.jsonl', 'format'='json');
    CREATE MATERIALIZED VIEW per_minute AS
    SELECT window_start, shop, count(*) AS n
    FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1' MINUTE))
    GROUP BY window_start, shop;
    CREATE SINK all_ids WITH ('connector'='kafka', 'topic'='ids') AS SELECT id FROM orders;";

/// A bucket with a catalog, a fed source, commits with state and outbox, and a table.
async fn filled(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder.join("in")).unwrap();
    let line = |n: usize| {
        let (minute, second, shop) = (n / 60 % 60, n % 60, ["ams", "ber"][n % 2]);
        let at = format!("2024-01-01T00:{minute:02}:{second:02}Z");
        format!("{{\"id\":{n},\"shop\":\"{shop}\",\"at\":\"{at}\"}}\n")
    };
    fs::write(folder.join("in/a.jsonl"), (0..2_000).map(line).collect::<String>()).unwrap();
    let pipeline = open(folder).await;
    pipeline.execute(&SQL.replace("{folder}", &folder.display().to_string())).await.unwrap();
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    pipeline.stop().await.unwrap();
    folder.join("bucket")
}

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        commit_interval: Duration::from_millis(5),
        ..Settings::default()
    };
    Pipeline::open(settings).await.unwrap()
}

async fn look(folder: &Path, depth: Depth) -> Report {
    let settings = Settings { data_dir: folder.to_path_buf(), ..Settings::default() };
    check(&settings.open_bucket().unwrap(), depth).await.unwrap()
}

fn newest(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files.pop().unwrap()
}

/// One object of each kind that must be whole.
fn objects(bucket: &Path) -> Vec<PathBuf> {
    let parquet = fs::read_dir(bucket.join("tables/per_minute")).unwrap();
    let parquet = parquet.map(|entry| entry.unwrap().path());
    let mut objects = vec![
        bucket.join("catalog/00000000000000000001.json"),
        newest(&bucket.join("feeds/orders")),
        newest(&bucket.join("commits/orders")),
        newest(&bucket.join("state/orders")),
        newest(&bucket.join("outbox/orders")),
    ];
    objects.extend(parquet.filter(|path| path.is_file()).take(1));
    objects
}

fn name(bucket: &Path, object: &Path) -> String {
    object.strip_prefix(bucket).unwrap().to_string_lossy().into_owned()
}

fn is_named(report: &Report, object: &str) -> bool {
    let damage = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    damage.map(|finding| finding.object.as_str()).any(|found| found == object)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_or_missing_object_is_named_and_a_whole_bucket_is_quiet() {
    let folder = TempDir::new().unwrap();
    let bucket = filled(folder.path()).await;
    let report = look(folder.path(), Depth::Full).await;
    assert!(!report.has_damage(), "{report:?}");
    for kind in ["catalog entries", "commits", "data files", "feed records", "jobs", "tables"] {
        assert!(report.checked.contains_key(kind), "{kind}: {report:?}");
    }
    for object in objects(&bucket) {
        let whole = fs::read(&object).unwrap();
        let name = name(&bucket, &object);
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            fs::write(&object, &flipped).unwrap();
            let report = look(folder.path(), Depth::Full).await;
            assert!(is_named(&report, &name), "byte {at} of {name}: {report:?}");
        }
        fs::write(&object, &whole[..whole.len() - 1]).unwrap();
        assert!(is_named(&look(folder.path(), Depth::Quick).await, &name), "{name} cut short");
        // The end of a sequence that is gone was never there; all else is missed.
        if !name.starts_with("feeds") && !name.starts_with("commits") {
            fs::remove_file(&object).unwrap();
            assert!(is_named(&look(folder.path(), Depth::Quick).await, &name), "{name} is gone");
        }
        fs::write(&object, &whole).unwrap();
    }
    assert!(!look(folder.path(), Depth::Full).await.has_damage());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_missing_below_the_newest_is_a_hole() {
    let folder = TempDir::new().unwrap();
    let bucket = filled(folder.path()).await;
    // Taking the job up is a commit of its own.
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    pipeline.stop().await.unwrap();
    let commits = bucket.join("commits/orders");
    let last: u64 = newest(&commits).file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(last > 1, "{last} commits");
    let hole = commits.join(format!("{:020}.json", last - 1));
    fs::remove_file(&hole).unwrap();
    let report = look(folder.path(), Depth::Quick).await;
    assert!(is_named(&report, &name(&bucket, &hole)), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_never_answers_from_a_damaged_file() {
    let folder = TempDir::new().unwrap();
    let bucket = filled(folder.path()).await;
    let file = objects(&bucket).pop().unwrap();
    assert!(file.to_string_lossy().contains("tables/per_minute/part-"), "{file:?}");
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    // A byte of the data pages: the footer, which readers parse first, stays as it is.
    flipped[12] ^= 1;
    fs::write(&file, &flipped).unwrap();
    let pipeline = open(folder.path()).await;
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    let error = pipeline.execute("SELECT sum(n) FROM per_minute").await.unwrap_err();
    assert_eq!(error.code, "TM568", "{error}");
    assert!(error.message.contains(&name(&bucket, &file)), "{error}");
    fs::write(&file, &whole).unwrap();
    pipeline.execute("SELECT sum(n) FROM per_minute").await.unwrap();
    pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_says_what_to_do_and_its_exit_code_tells() {
    let folder = TempDir::new().unwrap();
    let bucket = filled(folder.path()).await;
    let fsck = |arguments: &[&str]| {
        let data = folder.path().to_str().unwrap();
        finish(tidemill(folder.path(), &[&["fsck", "--data-dir", data], arguments].concat()))
    };
    let calm = fsck(&[]);
    assert_eq!(calm.code, Some(0), "{}{}", calm.stdout, calm.stderr);
    assert!(calm.stdout.contains("no damage: "), "{}", calm.stdout);
    let commit = newest(&bucket.join("commits/orders"));
    let text = fs::read_to_string(&commit).unwrap();
    fs::write(&commit, text.replacen("\"epoch\":", "\"epoch\" :", 1)).unwrap();
    let hurt = fsck(&["--quick"]);
    assert_eq!(hurt.code, Some(1), "{}{}", hurt.stdout, hurt.stderr);
    let first = format!("damage: {} [TM701]", name(&bucket, &commit));
    for part in [first.as_str(), "means", "do ", "DAMAGED"] {
        assert!(hurt.stdout.contains(part), "{part}: {}", hurt.stdout);
    }
    let json = fsck(&["--json"]);
    assert_eq!(json.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["findings"][0]["severity"], "damage");
}
