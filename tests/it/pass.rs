//! Rows through the whole program without a window: files in, files out, in both spellings of a
//! sink, with what is wrong set aside.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_runtime::{Pipeline, Settings, StatementResult};

use crate::cli::{finish, tidemill};
use crate::reliability::bucket::{assert_conserved, stop_conserved};

const SCRIPT: &str = "
CREATE TABLE IF NOT EXISTS orders (id BIGINT NOT NULL, shop STRING, amount DECIMAL(8, 2))
WITH ('connector' = 'filesystem', 'path' = 'in/*.csv', 'format' = 'csv');

CREATE TABLE IF NOT EXISTS large (id BIGINT, shop STRING, amount DECIMAL(8, 2))
WITH ('connector' = 'filesystem', 'path' = 'out/large.jsonl', 'format' = 'json');

INSERT INTO large SELECT id, upper(shop) AS shop, amount FROM orders WHERE amount >= 10;

CREATE SINK IF NOT EXISTS small WITH ('connector' = 'filesystem', 'path' = 'out/small.csv', 'format' = 'csv')
AS SELECT id, amount FROM orders WHERE amount < 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS kept AS SELECT id, amount FROM orders;

SELECT count(*) AS n, sum(amount) AS amount FROM kept;
SELECT stage, count(*) AS n FROM \"orders$dead\" GROUP BY stage ORDER BY stage;
";

#[test]
fn files_in_files_out_and_the_bad_rows_beside_them() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("in")).unwrap();
    std::fs::create_dir(path("out")).unwrap();
    std::fs::write(path("in/a.csv"), "id,shop,amount\n1,ams,10.00\n2,ber,9.99\n,ber,1\n").unwrap();
    std::fs::write(path("in/b.csv"), "id,shop,amount\n3,cph,250.5\nfour,cph,1\n5,a,b,c\n").unwrap();
    std::fs::write(path("pass.sql"), SCRIPT).unwrap();
    // The second run goes on where the first ended: nothing is done twice.
    for _ in 0..2 {
        let arguments = ["run", "pass.sql", "--data-dir", "data", "--format", "csv"];
        let done = finish(tidemill(folder.path(), &arguments));
        assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);
        assert!(done.stdout.contains("3,270.49"), "{}", done.stdout);
        assert!(done.stdout.contains("read,1"), "{}", done.stdout);
        let large = std::fs::read_to_string(path("out/large.jsonl")).unwrap();
        let mut lines: Vec<&str> = large.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.len(), 2, "{large}");
        assert!(lines[0].contains("\"AMS\"") && lines[0].contains("10.00"), "{large}");
        assert!(lines[1].contains("\"CPH\"") && lines[1].contains("250.50"), "{large}");
        assert_eq!(std::fs::read_to_string(path("out/small.csv")).unwrap(), "id,amount\n2,9.99\n");
        assert!(assert_conserved(&path("data/bucket"), &[]) > 0);
    }
}

/// Results published after every commit make many files; they are put together while the job
/// runs, and no answer changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_are_compacted_while_the_job_runs() {
    let folder = TempDir::new().unwrap();
    let settings = Settings {
        data_dir: folder.path().join("data"),
        broker_listen: "127.0.0.1:0".parse().unwrap(),
        commit_interval: Duration::from_millis(5),
        flush_interval: Duration::ZERO,
        flush_rows: 1,
        ..Settings::default()
    };
    let pipeline = Pipeline::open(settings).await.unwrap();
    let script = "
        CREATE SOURCE lines (
          invoice TEXT, quantity INT, invoice_date TIMESTAMP,
          WATERMARK FOR invoice_date AS invoice_date
        ) WITH ('connector'='shop', 'limit'='20000', 'speed'='100000');
        CREATE MATERIALIZED VIEW per_hour AS
        SELECT window_start, count(*) AS n, sum(quantity) AS units
        FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(invoice_date), INTERVAL '1' HOUR))
        GROUP BY window_start;";
    pipeline.execute(script).await.unwrap();
    pipeline.start().await.unwrap();
    let log = folder.path().join("data/bucket/tables/per_hour");
    let is_compacted = || {
        let files = std::fs::read_dir(&log).map(|entries| entries.flatten().collect::<Vec<_>>());
        files
            .unwrap_or_default()
            .iter()
            .any(|file| file.file_name().to_string_lossy().starts_with("compact-"))
    };
    assert!(pipeline.wait_drained().await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_compacted() {
        assert!(Instant::now() < deadline, "no file was put together");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows = pipeline.execute("SELECT sum(n) AS n FROM per_hour WHERE is_final").await.unwrap();
    let StatementResult::Rows { batches, .. } = &rows[0] else { panic!("no rows") };
    let n = arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap();
    assert_eq!(n, "20000");
    stop_conserved(&pipeline, &[]).await;
}
