//! F11, the text side: statements made to exhaust a planner, a stack, memory or time. Each must
//! give a clear error in time; the pipeline and its view go on as if nothing had been said.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_contract::{Error, LogWriter, ProduceRecord};
use tidemill_runtime::{Pipeline, Settings, StatementResult};

/// Time a query may take here; a statement must be answered a second later.
const TIMEOUT: Duration = Duration::from_secs(3);
/// That, and what a step of a query may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Other tests run in the same process and count.
const BUDGET: usize = 1 << 30;
const EVENTS: i64 = 20_000;

const SCRIPT: &str = "
    CREATE SOURCE s (
      id BIGINT, name TEXT, tags ARRAY<TEXT>, at BIGINT, ts AS to_timestamp_millis(at),
      WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH ('connector'='kafka', 'topic'='events', 'format'='json',
            'scan.bounded.mode'='latest-offset');
    CREATE MATERIALIZED VIEW v AS
      SELECT window_start, window_end, id, max(name) AS name, count(*) AS n
      FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
      GROUP BY window_start, window_end, id;";

async fn open(folder: &Path) -> Arc<Pipeline> {
    let settings = Settings {
        data_dir: folder.to_path_buf(),
        memory_budget: BUDGET,
        query_timeout: TIMEOUT,
        ..Settings::default()
    };
    let pipeline = Pipeline::open(settings).await.unwrap();
    pipeline.log().ensure_topic("events", 1, &[]).await.unwrap();
    let writer = pipeline.log().writer().unwrap();
    for id in 0..EVENTS {
        let payload =
            format!("{{\"id\":{id},\"name\":\"name {id}\",\"tags\":[\"a\"],\"at\":{id}}}");
        let record = ProduceRecord {
            partition: None,
            key: None,
            payload: Some(Bytes::from(payload)),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append("events", record).await.unwrap();
    }
    writer.flush().await.unwrap();
    pipeline.execute(SCRIPT).await.unwrap();
    pipeline.start().await.unwrap();
    assert!(pipeline.wait_drained().await.unwrap());
    pipeline
}

fn nest(open: &str, inner: &str, close: &str, times: usize) -> String {
    format!("{}{inner}{}", open.repeat(times), close.repeat(times))
}

/// `WITH t0 AS (first), t1 AS (each over t0), …`: `%` in `each` is the one before.
fn chain(first: &str, each: &str, last: &str, times: usize) -> String {
    let mut text = format!("WITH t0 AS ({first})");
    for level in 1..=times {
        let before = format!("t{}", level - 1);
        text.push_str(&format!(", t{level} AS ({})", each.replace('%', &before)));
    }
    format!("{text} {}", last.replace('%', &format!("t{times}")))
}

fn view(select: &str) -> String {
    format!("CREATE MATERIALIZED VIEW x AS {select}")
}

fn windowed(call: &str) -> String {
    view(&format!(
        "SELECT window_start, window_end, count(*) AS n FROM TABLE({call})
         GROUP BY window_start, window_end"
    ))
}

/// Statements that are refused before anything is planned: `TM1xx` and `TM2xx`.
#[expect(clippy::too_many_lines, reason = "a table of statements")]
fn refused() -> Vec<String> {
    let numbers = |count: usize| vec!["1"; count].join(", ");
    let columns = |count: usize| (0..count).map(|n| format!("id AS c{n}")).collect::<Vec<_>>();
    vec![
        format!("SELECT '{}'", "x".repeat(300_000)),
        format!("SELECT {}", nest("(", "1", ")", 100)),
        format!("SELECT {}", nest("(", "1", ")", 30_000)),
        format!("SELECT {}", nest("NOT ", "true", "", 9_000)),
        format!("SELECT {}1", "- ".repeat(9_000)),
        format!("SELECT 1{}", " + 1".repeat(2_000)),
        format!("SELECT 1{}", " + 1".repeat(60_000)),
        format!("SELECT true{}", " OR true".repeat(4_900)),
        format!("SELECT * FROM v WHERE {}", vec!["id = 1"; 20_000].join(" OR ")),
        format!("SELECT 'a'{}", " || 'a'".repeat(3_000)),
        format!("SELECT {}", nest("CASE WHEN true THEN ", "1", " END", 200)),
        format!("SELECT {}", nest("abs(", "1", ")", 500)),
        format!("SELECT * FROM v WHERE id IN ({})", numbers(6_000)),
        format!("SELECT * FROM v WHERE id IN ({})", numbers(50_000)),
        format!("SELECT greatest({})", numbers(6_000)),
        format!("SELECT [{}]", numbers(6_000)),
        format!("VALUES {}", vec!["(1)"; 5_500].join(", ")),
        format!("SELECT {} FROM v", columns(600).join(", ")),
        format!("SELECT count(*) FROM v GROUP BY {}", vec!["id"; 600].join(", ")),
        format!("SELECT id FROM v ORDER BY {}", vec!["id"; 600].join(", ")),
        "SELECT count(*) FROM v GROUP BY CUBE(id, n, id + 1, id + 2, id + 3, id + 4, id + 5)"
            .into(),
        format!("SELECT count(*) FROM v GROUP BY {}", ["ROLLUP(id, n)"; 5].join(", ")),
        format!("SELECT count(*) FROM v GROUP BY GROUPING SETS ({})", vec!["(id)"; 65].join(", ")),
        format!("SELECT * FROM {}", vec!["v"; 200].join(", ")),
        format!("SELECT * FROM v {}", "JOIN v USING (id) ".repeat(70)),
        format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(100)),
        chain("SELECT id FROM v", "SELECT a.id FROM % a, % b", "SELECT * FROM %", 10),
        chain("SELECT id FROM v", "SELECT a.id FROM % a, % b", "SELECT * FROM %", 60),
        chain("SELECT id FROM v", "SELECT * FROM %", "SELECT * FROM %", 200),
        chain("SELECT id a FROM v", "SELECT struct(a, a) a FROM %", "SELECT a FROM %", 40),
        chain("SELECT id a FROM v", "SELECT [a, a] a FROM %", "SELECT a FROM %", 40),
        nest("SELECT * FROM (", "SELECT 1", ") AS t", 60),
        nest("SELECT * FROM (", "SELECT 1", ") AS t", 3_000),
        format!(
            "SELECT * FROM v WHERE id IN {}",
            nest("(SELECT id FROM v WHERE id IN ", "(1)", ")", 80)
        ),
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r".into(),
        windowed("HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '1' DAY)"),
        windowed("HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '0.000001' SECOND, INTERVAL '1' HOUR)"),
        windowed("CUMULATE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '1' DAY)"),
        windowed("TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '200' YEAR)"),
        windowed("TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '900000000' YEAR)"),
        windowed("TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '0' SECOND)"),
        view(
            "SELECT * FROM TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '1' HOUR))",
        ),
        view("SELECT id, random() AS r FROM s"),
        view("SELECT id, version() AS r FROM s"),
        view("SELECT a.id FROM s a, s b"),
        view("SELECT id, generate_series(1, 1000000000) AS r FROM s"),
        view("SELECT array_repeat(name, 1000000000) AS r FROM s"),
        view("SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)') AS r FROM s"),
        format!(
            "CREATE SOURCE y ({}) WITH ('connector'='kafka')",
            (0..1_200).map(|n| format!("c{n} INT")).collect::<Vec<_>>().join(", ")
        ),
        format!(
            "CREATE SOURCE y (a {}) WITH ('connector'='kafka')",
            nest("ARRAY<", "INT", ">", 200)
        ),
        format!(
            "CREATE SOURCE y (a {}) WITH ('connector'='kafka')",
            nest("ROW<a ", "INT", ">", 5_000)
        ),
        format!("CREATE ALERT y ON v WHEN {} > 1", nest("(", "n", ")", 100)),
        format!("CREATE ALERT y ON v WHEN n > 1{}", " OR n > 1".repeat(1_000)),
        "COPY v TO '/tmp/x.csv'".into(),
        "CREATE EXTERNAL TABLE y STORED AS CSV LOCATION '/etc/passwd'".into(),
        "SET datafusion.runtime.memory_limit = '100G'".into(),
        "EXPLAIN ANALYZE SELECT * FROM v".into(),
        "INSERT INTO v SELECT * FROM v".into(),
        "CREATE FUNCTION f() RETURNS INT RETURN 1".into(),
        "SHOW ALL".into(),
        "BEGIN".into(),
    ]
}

/// Queries that are refused when they are planned or stopped while they run.
fn stopped() -> Vec<String> {
    let texts = |expr: &str| format!("SELECT {expr} AS x FROM v");
    vec![
        "SELECT * FROM '/etc/passwd'".into(),
        "SELECT * FROM \"file:///etc/passwd\"".into(),
        "SELECT * FROM \"s3://bucket/x.parquet\"".into(),
        "SELECT * FROM information_schema.tables".into(),
        "SELECT * FROM s".into(),
        "SELECT * FROM generate_series(1, 1000000000000)".into(),
        "SELECT * FROM range(1, 1000000000000)".into(),
        texts("generate_series(1, 1000000000)"),
        texts("array_repeat(name, 1000000)"),
        texts("array_resize([1], 1000000000)"),
        texts("arrow_cast(1, 'FixedSizeBinary(2000000000)')"),
        texts("repeat('x', 1000000000)"),
        texts("repeat(name, 1000000)"),
        texts("repeat(repeat(name, 1000), 1000)"),
        texts("lpad(name, 2000000000, 'x')"),
        texts("rpad(name, CAST(id * 100000 AS INT), 'x')"),
        texts("replace(repeat(name, 1000), 'a', repeat('b', 10000))"),
        texts("regexp_replace(repeat(name, 1000), '', repeat('b', 10000), 'g')"),
        texts("array_to_string(string_to_array(repeat(name, 1000), ''), repeat('b', 10000))"),
        texts("concat(repeat(name, 1000), repeat(name, 1000), repeat(name, 1000))"),
        texts("repeat(name, 1000) || repeat(name, 1000) || repeat(name, 1000)"),
        chain("SELECT name a FROM v", "SELECT a || a AS a FROM %", "SELECT a FROM %", 50),
        chain("SELECT name a FROM v", "SELECT concat(a, a) AS a FROM %", "SELECT a FROM %", 50),
        chain(
            "SELECT string_to_array(name, '') a FROM v",
            "SELECT array_concat(a, a) AS a FROM %",
            "SELECT a FROM %",
            50,
        ),
        "SELECT 9223372036854775807 + id FROM v WHERE id > 0".into(),
        "SELECT 9223372036854775807 * 2".into(),
        "SELECT -(id - 9223372036854775807 - 2) FROM v".into(),
        "SELECT 1 / 0".into(),
        "SELECT CAST(id * 1000000 AS SMALLINT) FROM v".into(),
        "SELECT ts FROM (SELECT window_start + INTERVAL '2000000000' YEAR AS ts FROM v)".into(),
        "SELECT regexp_like(name, '((a{1,100}){1,100}){1,100}') FROM v".into(),
        "SELECT regexp_like(name, repeat('(', 5000)) FROM v".into(),
        "SELECT count(DISTINCT a.id + b.id + c.id) FROM v a, v b, v c".into(),
        "SELECT a.name, b.name FROM v a, v b".into(),
        "SELECT a.name, b.name FROM v a, v b ORDER BY 1, 2".into(),
        "SELECT a.id, b.id, count(*) FROM v a, v b GROUP BY a.id, b.id".into(),
        "SELECT array_agg(a.name), array_agg(b.name) FROM v a, v b".into(),
        "SELECT string_agg(a.name, ',') FROM v a, v b".into(),
        "SELECT count(DISTINCT a.name || b.name) FROM v a, v b".into(),
        "SELECT sum(a.n) OVER (ORDER BY a.name, b.name) FROM v a, v b".into(),
        "SELECT * FROM v a JOIN v b ON a.id > b.id JOIN v c ON b.id > c.id WHERE c.n > 5".into(),
    ]
}

/// The error of a statement, and that it came in time.
async fn error_of(pipeline: &Pipeline, sql: &str) -> Error {
    let shown: String = sql.chars().take(120).collect();
    let started = Instant::now();
    let answered = tokio::time::timeout(TIMEOUT * 10, pipeline.execute(sql)).await;
    let took = started.elapsed();
    let outcome = answered.unwrap_or_else(|_| panic!("no answer: {shown}"));
    let Err(error) = outcome else { panic!("not refused: {shown}") };
    assert!(took < SOON, "{took:?}: {shown}: {error}");
    assert!(!error.code.starts_with("TM9"), "{shown}: {error}");
    let long = error.to_string().len();
    assert!(long < 2_000, "an error of {long} bytes: {shown}");
    error
}

async fn rows_of_the_view(pipeline: &Pipeline) -> usize {
    let started = Instant::now();
    loop {
        let results = pipeline.execute("SELECT id, n FROM v").await;
        // A step of a query that was stopped may still have a core.
        if results.as_ref().is_err_and(|error| error.code == "TM602" && started.elapsed() < SOON) {
            continue;
        }
        let results = results.unwrap();
        let StatementResult::Rows { batches, .. } = &results[0] else { panic!("no rows") };
        return batches.iter().map(|batch| batch.num_rows()).sum();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hostile_statement_gets_a_clear_error_in_time() {
    let folder = TempDir::new().unwrap();
    let pipeline = open(folder.path()).await;
    let (refused, stopped) = (refused(), stopped());
    assert!(refused.len() + stopped.len() >= 100);
    for sql in &refused {
        let error = error_of(&pipeline, sql).await;
        let early = error.code.starts_with("TM1") || error.code.starts_with("TM2");
        assert!(early || error.code == "TM301" || error.code == "TM303", "{sql:.120}: {error}");
    }
    let mut codes = BTreeMap::new();
    for sql in &stopped {
        let error = error_of(&pipeline, sql).await;
        assert_ne!(error.code, "TM609", "{sql:.120}: {error}");
        *codes.entry(error.code).or_insert(0) += 1;
        if super::is_long() {
            eprintln!("{sql:.70}\n    {error:.200}");
        }
    }
    eprintln!("F11: {} statements refused, {} stopped: {codes:?}", refused.len(), stopped.len());
    assert_eq!(rows_of_the_view(&pipeline).await, usize::try_from(EVENTS).unwrap());
    pipeline.stop().await.unwrap();
}
