//! F11: the program under a small memory budget, with views whose keys explode, hostile queries
//! and views that do their work all the same.
//!
//! The process must never die nor hold more than the budget and a quarter; what does not fit must
//! stop with a reason that names the limit; the results of the others must be exact.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_contract::{LogWriter, ProduceRecord};

use crate::cli::tidemill;

/// The figures of one form.
struct Form {
    budget_mib: u64,
    keys: u64,
    patience: Duration,
}

const SHORT: Form = Form { budget_mib: 512, keys: 1_000_000, patience: Duration::from_secs(240) };
const LONG: Form = Form { budget_mib: 512, keys: 20_000_000, patience: Duration::from_secs(3600) };
/// Rows of the source nobody attacks.
const GOOD_ROWS: u64 = 100_000;
/// 2024-01-01T00:00:00Z.
const START_MS: u64 = 1_704_067_200_000;
const MINUTE_MS: u64 = 60_000;

const SOURCES: [&str; 2] = ["good", "bad"];

fn source(name: &str) -> String {
    format!(
        "CREATE SOURCE {name} (
           id BIGINT, name TEXT, at BIGINT, ts AS to_timestamp_millis(at),
           WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
         ) WITH ('connector'='kafka', 'topic'='{name}', 'format'='json',
                 'topic.partitions'='2', 'scan.bounded.mode'='latest-offset')"
    )
}

/// A view over all of a source's day, or per minute.
fn view(name: &str, of: &str, size: &str, keys: &str, values: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {name} AS
         SELECT window_start, window_end, {keys} {values}
         FROM TABLE(TUMBLE(TABLE {of}, DESCRIPTOR(ts), INTERVAL {size}))
         GROUP BY window_start, window_end {}",
        if keys.is_empty() { String::new() } else { format!(", {}", keys.trim_end_matches(',')) }
    )
}

/// Views whose state alone does not fit, whatever the others have; each reads the source for itself.
fn exploding() -> Vec<(&'static str, String)> {
    let day = "'1' DAY";
    vec![
        ("keys", view("keys", "bad", day, "id, name,", "count(*) AS n, min(at) AS first")),
        ("names", view("names", "bad", day, "name,", "sum(id) AS total, max(name) AS most")),
        ("agg", view("agg", "bad", day, "", "array_agg(repeat(name, 10)) AS all_names")),
        ("texts", view("texts", "bad", day, "", "string_agg(repeat(name, 20), ',') AS joined")),
    ]
}

/// Statements that are refused or stopped, with the codes they may get.
fn hostile() -> Vec<(String, &'static [&'static str])> {
    let hop = "CREATE MATERIALIZED VIEW tiny AS SELECT window_start, window_end, count(*) AS n
        FROM TABLE(HOP(TABLE bad, DESCRIPTOR(ts), INTERVAL '0.001' SECOND, INTERVAL '1' DAY))
        GROUP BY window_start, window_end";
    let stopped: &[&str] = &["TM602", "TM603", "TM608", "TM609"];
    vec![
        ("SELECT * FROM per_minute a, per_minute b, per_minute c, per_minute d".into(), stopped),
        (
            "SELECT * FROM per_minute a, per_minute b, per_minute c ORDER BY a.n, b.n, c.id".into(),
            stopped,
        ),
        (
            "SELECT a.id, b.id, c.id, d.id, count(*) FROM per_minute a, per_minute b, per_minute c,
          per_minute d GROUP BY a.id, b.id, c.id, d.id, a.n, b.n, c.n, d.n"
                .into(),
            stopped,
        ),
        (
            "SELECT array_agg(a.id) FROM per_minute a, per_minute b, per_minute c, per_minute d"
                .into(),
            stopped,
        ),
        ("SELECT repeat('x', 1000000000) FROM per_minute".into(), &["TM228", "TM609"][..]),
        (format!("SELECT 1{}", " + 1".repeat(4_000)), &["TM100"][..]),
        (format!("SELECT {}1{}", "(".repeat(4_000), ")".repeat(4_000)), &["TM100"][..]),
        (
            format!("SELECT * FROM per_minute WHERE id IN (1{})", ", 1".repeat(40_000)),
            &["TM100"][..],
        ),
        (hop.into(), &["TM212"][..]),
    ]
}

/// A running program.
struct Service {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait()).is_err();
    }
}

impl Service {
    #[allow(clippy::zombie_processes, reason = "dropping it waits for it")]
    fn start(folder: &Path, form: &Form, broker: &str) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
        let mut child = tidemill(folder, &arguments)
            .env("TIDEMILL__MEMORY__BUDGET", format!("{} MiB", form.budget_mib))
            .env("TIDEMILL__QUERY__TIMEOUT", "20s")
            .env("TIDEMILL__KAFKA__LISTEN", broker)
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut url = String::new();
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "serve ended early:\n{seen}");
            seen.push_str(&line);
            if let Some(rest) = line.split("listening on ").nth(1) {
                url = rest.split(';').next().unwrap().trim().to_owned();
            }
            if line.trim_end() == "tidemill: ready" {
                break;
            }
        }
        // What it says must not fill the pipe; the end is worth knowing.
        std::thread::spawn(move || {
            let mut rest = String::new();
            let _broken = stderr.read_to_string(&mut rest).is_err();
            if super::is_long() {
                eprintln!("{rest}");
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, url, client }
    }

    /// The answer to a statement: rows, or code and text of the error.
    async fn ask(&self, sql: &str) -> Result<Vec<Vec<Value>>, (String, String)> {
        let url = format!("{}/api/v1/statements", self.url);
        let response = self.client.post(url).body(sql.to_owned()).send().await.unwrap();
        let succeeded = response.status().is_success();
        let body: Value = response.json().await.unwrap();
        if !succeeded {
            let code = body["diagnostics"][0]["code"].as_str().or(body["code"].as_str());
            return Err((code.unwrap_or_default().to_owned(), body.to_string()));
        }
        let rows = body["rows"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().map(|row| row.as_array().cloned().unwrap_or_default()).collect())
    }

    /// Peak and present size of the process in MiB.
    fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("the process lives");
        let mib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
        };
        (mib("VmHWM:"), mib("VmRSS:"))
    }

    /// State and error of the job that runs a query.
    async fn job_of(&self, query: &str) -> (String, String) {
        let jobs = self.ask("SHOW JOBS").await.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = jobs.iter().find(|job| text(&job[2]).split(", ").any(|name| name == query));
        let job = found.unwrap_or_else(|| panic!("no job runs {query}: {jobs:?}"));
        (text(&job[3]), job.iter().map(text).collect::<Vec<_>>().join(" "))
    }

    async fn until(&self, form: &Form, query: &str, holds: impl Fn(&str, &str) -> bool) {
        let deadline = Instant::now() + form.patience;
        loop {
            let (state, error) = self.job_of(query).await;
            if holds(&state, &error) {
                return;
            }
            assert!(Instant::now() < deadline, "{query}: {state} {error}");
            self.assert_within(form);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn assert_within(&self, form: &Form) {
        let (peak, _) = self.memory();
        let most = form.budget_mib * 5 / 4;
        assert!(peak <= most, "{peak} MiB at the peak, more than {most}");
    }
}

async fn fill(log: &KafkaLog, topic: &str, rows: u64, row: impl Fn(u64) -> String) {
    let writer = log.writer().unwrap();
    for id in 0..rows {
        let record = ProduceRecord {
            partition: None,
            key: None,
            payload: Some(Bytes::from(row(id))),
            timestamp_ms: None,
            headers: Vec::new(),
        };
        writer.append(topic, record).await.unwrap();
    }
    writer.flush().await.unwrap();
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The option of the allocator is known by its number only, which may change with the library.
#[test]
fn freed_memory_is_given_back_soon() {
    use tidemill::allocator::{give_back_soon, purge_delay_ms};
    // What no other option has by default.
    assert_eq!(purge_delay_ms(), 1000);
    give_back_soon();
    assert!(purge_delay_ms() < 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_stays_within_its_budget_and_good_views_are_exact() {
    let mut form = if super::is_long() { LONG } else { SHORT };
    // Another budget can be tried, in MiB.
    if let Ok(budget) = std::env::var("TIDEMILL_F11_BUDGET") {
        form.budget_mib = budget.parse().unwrap();
    }
    let form = &form;
    let folder = TempDir::new().unwrap();
    let brokers = free_address();
    let service = Service::start(folder.path(), form, &brokers);
    let (_, idle) = service.memory();
    let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
    for topic in SOURCES {
        log.ensure_topic(topic, 2, &[]).await.unwrap();
    }
    // Event time moves a minute over all rows of each partition: nothing is late.
    let row = |id: u64, shop: u64, at: u64| {
        format!("{{\"id\":{shop},\"name\":\"customer number {id}\",\"at\":{}}}", START_MS + at)
    };
    fill(&log, "bad", form.keys, |id| row(id, id, id * MINUTE_MS / form.keys)).await;
    fill(&log, "good", GOOD_ROWS, |id| row(id, id % 100, id * 10 * MINUTE_MS / GOOD_ROWS)).await;
    let produced = service.memory();

    for name in SOURCES {
        service.ask(&source(name)).await.unwrap();
    }
    let per_minute = view("per_minute", "good", "'1' MINUTE", "id,", "count(*) AS n");
    service.ask(&per_minute).await.unwrap();
    service.until(form, "per_minute", |state, _| state == "drained").await;

    // On the attacked source too somebody works.
    let neighbour = view("neighbour", "bad", "'1' MINUTE", "", "count(*) AS n, sum(id) AS total");
    service.ask(&neighbour).await.unwrap();
    for (name, statement) in exploding() {
        service.ask(&statement).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    for (sql, codes) in hostile() {
        let (code, text) = service.ask(&sql).await.expect_err(&sql);
        assert!(codes.contains(&code.as_str()), "{sql:.80}: {text}");
        service.assert_within(form);
    }
    for (name, _) in exploding() {
        service.until(form, name, |_, error| error.contains("TM342")).await;
        let (_, error) = service.job_of(name).await;
        assert!(error.contains(name) && error.contains("memory.budget"), "{error}");
    }
    service.until(form, "neighbour", |state, _| state == "drained").await;

    let counted = service.ask("SELECT sum(n), sum(total) FROM neighbour").await.unwrap();
    let number = |value: &Value| value.to_string().trim_matches('"').parse::<u64>().unwrap();
    assert_eq!(number(&counted[0][0]), form.keys);
    assert_eq!(number(&counted[0][1]), form.keys * (form.keys - 1) / 2);
    let good = service.ask("SELECT id, n, count(*) FROM per_minute GROUP BY id, n").await.unwrap();
    assert_eq!(good.len(), 100);
    for row in &good {
        assert_eq!((number(&row[1]), number(&row[2])), (GOOD_ROWS / 1000, 10), "{row:?}");
    }
    service.assert_within(form);
    let (peak, now) = service.memory();
    eprintln!(
        "F11: budget {} MiB, {} keys: idle {idle} MiB, after producing {} (peak {}), \
         peak {peak} ({} %), at the end {now}",
        form.budget_mib,
        form.keys,
        produced.1,
        produced.0,
        peak * 100 / form.budget_mib,
    );
}
