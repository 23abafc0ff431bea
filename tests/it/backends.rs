//! The demo's SQL with nothing embedded: on real Apache Kafka, and on a real S3 server.
//!
//! Both come from the project's own scripts. Where Java and Maven or the S3 server are not there,
//! the test says that it was left out and passes; `TIDEMILL_REQUIRE_KAFKA` and
//! `TIDEMILL_REQUIRE_S3` make that a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cli::{Outcome, finish, tidemill};

/// The statements of the demo, as shipped.
const DEMO: &str = include_str!("../../pipeline/server/demo.sql");
/// Asked at the end of the script, over the registered views.
const TOTALS: &str = "
SELECT sum(lines) AS rows_in, round(sum(net), 2) AS net FROM lines_per_day;
SELECT round(sum(revenue), 2) AS gross FROM sales_per_minute;
SELECT round(sum(revenue), 2) AS gross FROM sales_per_hour;
SELECT count(DISTINCT invoice) AS orders FROM orders_per_minute;
SELECT country, round(sum(revenue), 2) AS gross FROM sales_per_hour GROUP BY country
ORDER BY 2 DESC LIMIT 5;
";
/// What independent tools compute from the same file.
const EXPECTED: &[&str] = &[
    "541909,9747747.93",
    "10666684.54",
    "19960",
    "United Kingdom,9025222.08",
    "Netherlands,285446.34",
    "EIRE,283453.96",
    "Germany,228867.14",
    "France,209715.11",
];

/// A server of one of the project's scripts, stopped when it goes out of scope.
pub(crate) struct Server {
    script: PathBuf,
    folder: TempDir,
    port: String,
    /// What `start` printed.
    pub(crate) printed: String,
}

impl Server {
    /// `None`, with a printed line, where the server cannot be had and need not be.
    pub(crate) fn start(script: &str, port: u16, require: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(script);
        let folder = TempDir::new().unwrap();
        let port = port.to_string();
        let output =
            Command::new(&script).arg("start").arg(folder.path()).arg(&port).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(std::env::var_os(require).is_none(), "{}: {why}", script.display());
            println!("left out: {} does not start here: {why}", script.display());
            return None;
        }
        Some(Self { script, folder, port, printed })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped =
            Command::new(&self.script).arg("stop").arg(self.folder.path()).arg(&self.port).output();
        if let Err(error) = stopped {
            println!("{} did not stop: {error}", self.script.display());
        }
    }
}

/// A port nobody listens on, with `more` free ports after it as far as one can tell. Tests that run
/// at the same time look in different ranges.
pub(crate) fn free_port(from: u16, more: u16) -> u16 {
    for base in (from..from + 9_000).step_by(97) {
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..=base + more).all(free) {
            return base;
        }
    }
    panic!("no free ports");
}

fn check(run: &Outcome) {
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    for line in EXPECTED {
        assert!(run.stdout.lines().any(|found| found == *line), "{line}:\n{}", run.stdout);
    }
}

fn script(folder: &Path) {
    std::fs::write(folder.join("demo.sql"), format!("{DEMO}\n{TOTALS}")).unwrap();
}

#[test]
fn the_demo_gives_the_same_totals_on_apache_kafka() {
    let Some(kafka) = Server::start("kafka.sh", free_port(21_000, 1), "TIDEMILL_REQUIRE_KAFKA")
    else {
        return;
    };
    let folder = TempDir::new().unwrap();
    script(folder.path());
    let brokers = kafka.printed.trim();
    let run = finish(tidemill(
        folder.path(),
        &["run", "demo.sql", "--data-dir", "data", "--kafka-brokers", brokers, "--format", "csv"],
    ));
    check(&run);
    let alerts = finish(tidemill(
        folder.path(),
        &["tail", "alerts", "--from-beginning", "-n", "6", "--kafka-brokers", brokers],
    ));
    for invoice in ["541431", "581483", "556444"] {
        assert!(alerts.stdout.contains(invoice), "{invoice}: {}", alerts.stdout);
    }
    assert!(!folder.path().join("data/broker").exists(), "no broker of our own was started");
}

#[test]
fn the_demo_gives_the_same_totals_on_s3() {
    let Some(s3) = Server::start("seaweedfs.sh", free_port(31_000, 9), "TIDEMILL_REQUIRE_S3")
    else {
        return;
    };
    let folder = TempDir::new().unwrap();
    script(folder.path());
    let mut command = tidemill(
        folder.path(),
        &[
            "run",
            "demo.sql",
            "--data-dir",
            "data",
            "--bucket",
            "s3://tidemill/shop",
            "--format",
            "csv",
        ],
    );
    for line in s3.printed.lines() {
        let Some((name, value)) = line.trim_start_matches("export ").split_once('=') else {
            continue;
        };
        if name.starts_with("AWS_") {
            command.env(name, value.trim_matches(['\'', '"']));
        }
    }
    check(&finish(command));
    assert!(!folder.path().join("data/bucket").exists(), "nothing went to a local bucket");
}
