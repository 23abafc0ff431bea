//! The command line, run as users run it: a process, its exit code, its output.
//!
//! How: `cargo test` does not build the binary of another package, so the test executable runs
//! itself again with the test [`entry`] alone, which calls the program's real entry point with
//! the arguments found in a variable and exits with its code. No second binary, nothing to build
//! first. What the harness prints before is cut off at a marker line.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::reliability::bucket::assert_conserved;

/// Carries the arguments, as a JSON array, to [`entry`].
const ARGUMENTS: &str = "TIDEMILL_TEST_ARGUMENTS";
/// Stands before the program's own output.
pub(crate) const MARKER: &str = "---- tidemill ----";

/// Not a test by itself: the program, when the variable is set.
#[test]
fn entry() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let arguments: Vec<String> = serde_json::from_str(&arguments).unwrap();
    writeln!(std::io::stdout(), "\n{MARKER}").unwrap();
    let arguments = std::iter::once("tidemill".to_string()).chain(arguments);
    let code = tidemill::cli::run_with(arguments.map(OsString::from));
    std::process::exit(i32::from(code));
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments, in this folder, with no configuration of its surroundings.
pub(crate) fn tidemill(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEMILL") {
            command.env_remove(name);
        }
    }
    command
        .args(["--exact", "cli::entry", "--nocapture", "--test-threads=1"])
        .env(ARGUMENTS, serde_json::to_string(arguments).unwrap())
        .env("TIDEMILL__KAFKA__LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for a command's end.
pub(crate) fn finish(mut command: Command) -> Outcome {
    outcome(command.spawn().unwrap())
}

/// Waits for a process's end.
pub(crate) fn outcome(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stdout = stdout.split_once(&format!("{MARKER}\n")).map_or("", |(_, own)| own).to_string();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { code: output.status.code(), stdout, stderr }
}

fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    finish(tidemill(folder, arguments))
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(child: &Child, signal: &str) {
    let kill = format!("kill {signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
fn every_verb_has_help_with_examples() {
    let folder = TempDir::new().unwrap();
    let top = run(folder.path(), &["--help"]);
    assert_eq!(top.code, Some(0));
    assert!(top.stdout.contains("EXIT CODES"), "{}", top.stdout);
    for verb in ["demo", "serve", "sql", "run", "validate", "tail", "config"] {
        assert!(top.stdout.contains(verb), "{verb} is missing in {}", top.stdout);
        let help = run(folder.path(), &[verb, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(help.stdout.contains("EXAMPLES"), "{verb}: {}", help.stdout);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = TempDir::new().unwrap();
    assert_eq!(run(folder.path(), &["frobnicate"]).code, Some(2));
    assert_eq!(run(folder.path(), &["demo", "--once", "--speed", "5"]).code, Some(2));
}

#[test]
fn validate_points_at_the_mistake() {
    let folder = TempDir::new().unwrap();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/server/demo.sql");
    let good = run(folder.path(), &["validate", demo]);
    assert_eq!(good.code, Some(0), "{}", good.stderr);

    let script = "CREATE SOURCE s (a INT, t TIMESTAMP, WATERMARK FOR t AS t)\n\
                  WITH ('connector'='filesystem', 'path'='x.jsonl', 'format'='json');\n\
                  CREATE MATERIALIZED VIEW v AS SELECT window_start, window_end, sum(amout) AS x\n\
                  FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(t), INTERVAL '1' MINUTE))\n\
                  GROUP BY window_start, window_end;\n";
    std::fs::write(folder.path().join("bad.sql"), script).unwrap();
    let bad = run(folder.path(), &["validate", "bad.sql"]);
    assert_eq!(bad.code, Some(78), "{}", bad.stderr);
    assert!(bad.stderr.contains("bad.sql:3:"), "{}", bad.stderr);
    assert!(bad.stderr.contains("^^^^^"), "{}", bad.stderr);

    let json = run(folder.path(), &["validate", "--json", "bad.sql"]);
    assert_eq!(json.code, Some(78));
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["valid"], false);
    assert_eq!(report["diagnostics"][0]["line"], 3);
}

#[test]
fn configuration_has_four_layers_and_hides_secrets() {
    let folder = TempDir::new().unwrap();
    let file = "[state]\ncommit_interval = \"2s\"\nflush_rows = 7\n\
                [storage.s3]\nsecret_access_key = \"hunter2\"\n\
                [kafka.properties]\n\"sasl.password\" = \"hunter2\"\n";
    std::fs::write(folder.path().join("tidemill.toml"), file).unwrap();
    let mut command = tidemill(folder.path(), &["config", "show", "--origin"]);
    command.env("TIDEMILL__STATE__COMMIT_INTERVAL", "3s");
    let shown = finish(command);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for line in [
        "server.listen = \"127.0.0.1:8080\"  # default",
        "state.flush_rows = \"7\"  # file tidemill.toml",
        "state.commit_interval = \"3s\"  # environment TIDEMILL__STATE__COMMIT_INTERVAL",
        "storage.s3.secret_access_key = \"<redacted>\"",
        "kafka.properties.sasl.password = \"<redacted>\"",
    ] {
        assert!(shown.stdout.contains(line), "{line} is missing in\n{}", shown.stdout);
    }
    assert!(!shown.stdout.contains("hunter2"));
}

#[test]
fn the_example_configuration_knows_every_setting() {
    let folder = TempDir::new().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tidemill.toml");
    let example = std::fs::read_to_string(path).unwrap();
    for key in tidemill::config::KEYS {
        let name = key.path.rsplit('.').next().unwrap();
        let stem = name.trim_end_matches("_env").trim_end_matches("_file");
        assert!(example.contains(stem), "{} is missing in {path}", key.path);
        if let Some(default) = key.default {
            let quoted = example.contains(&format!("#{name} = \"{default}\""));
            let bare = example.contains(&format!("#{name} = {default}\n"));
            assert!(quoted || bare, "{} has another default in {path}", key.path);
        }
    }
    // Settings are commented out as `#key`, prose as `# text`.
    let active: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(folder.path().join("all.toml"), active).unwrap();
    let shown = run(folder.path(), &["config", "show", "--config", "all.toml"]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
}

#[test]
fn wrong_configuration_is_exit_code_78_with_its_place() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("a.toml"), "[server]\nlisten_on = \"127.0.0.1:1\"\n")
        .unwrap();
    let unknown = run(folder.path(), &["config", "show", "--config", "a.toml"]);
    assert_eq!(unknown.code, Some(78));
    assert!(unknown.stderr.contains("a.toml:2:1"), "{}", unknown.stderr);

    let public = run(folder.path(), &["serve", "--listen", "0.0.0.0:8080"]);
    assert_eq!(public.code, Some(78), "{}", public.stderr);
    assert!(public.stderr.contains("help:"), "{}", public.stderr);
}

#[test]
fn a_service_that_is_not_there_is_exit_code_69() {
    let folder = TempDir::new().unwrap();
    let none = run(folder.path(), &["sql", "-c", "SHOW VIEWS", "--url", "http://127.0.0.1:9"]);
    assert_eq!(none.code, Some(69), "{}", none.stderr);
}

/// Six order lines of two minutes.
fn write_lines(folder: &Path) {
    let lines: String =
        [(0, "a", 2), (10, "b", 3), (59, "a", 5), (60, "a", 7), (61, "b", 1), (119, "b", 2)]
            .iter()
            .map(|(second, product, quantity)| {
                let (minute, second) = (second / 60, second % 60);
                let time = format!("2026-01-01 00:{minute:02}:{second:02}");
                format!("{{\"product\":\"{product}\",\"quantity\":{quantity},\"at\":\"{time}\"}}\n")
            })
            .collect();
    std::fs::write(folder.join("lines.jsonl"), lines).unwrap();
}

fn registration(folder: &Path) -> String {
    format!(
        "CREATE SOURCE IF NOT EXISTS lines (product STRING, quantity INT, at TIMESTAMP, \
         WATERMARK FOR at AS at) WITH ('connector'='filesystem', 'path'='{}', 'format'='json');\n\
         CREATE MATERIALIZED VIEW IF NOT EXISTS units AS \
         SELECT window_start, window_end, product, sum(quantity) AS units \
         FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(at), INTERVAL '1' MINUTE)) \
         GROUP BY window_start, window_end, product;\n",
        folder.join("lines.jsonl").display(),
    )
}

#[test]
fn run_drains_a_script_and_prints_its_selects() {
    let folder = TempDir::new().unwrap();
    write_lines(folder.path());
    let script = registration(folder.path())
        + "SELECT window_start, product, units FROM units ORDER BY window_start, product;\n";
    std::fs::write(folder.path().join("units.sql"), script).unwrap();
    let expected = "window_start,product,units\n\
                    2026-01-01T00:00:00,a,7\n2026-01-01T00:00:00,b,3\n\
                    2026-01-01T00:01:00,a,7\n2026-01-01T00:01:00,b,3\n";
    // The second run finds everything done and prints the same.
    for _ in 0..2 {
        let done =
            run(folder.path(), &["run", "units.sql", "--data-dir", "data", "--format", "csv"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(done.stdout, expected, "{}", done.stderr);
    }
}

#[test]
fn run_points_into_the_script_when_a_select_is_wrong() {
    let folder = TempDir::new().unwrap();
    write_lines(folder.path());
    let script = registration(folder.path()) + "SELECT unitz FROM units;\n";
    std::fs::write(folder.path().join("units.sql"), script).unwrap();
    let failed = run(folder.path(), &["run", "units.sql", "--data-dir", "data"]);
    assert_eq!(failed.code, Some(78), "{}", failed.stderr);
    assert!(failed.stderr.contains("units.sql:3:8"), "{}", failed.stderr);
}

/// A child that does not outlive its test, whatever the test does.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("a child process may be left: {error}");
        }
    }
}

/// A running `serve` with the address it listens on.
struct Service {
    child: Reaped,
    url: String,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Service {
    #[allow(clippy::zombie_processes, reason = "`stop` waits for it")]
    fn start(folder: &Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
        let mut child = Reaped(tidemill(folder, &arguments).spawn().unwrap());
        let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
        let mut url = String::new();
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "serve ended early:\n{seen}");
            seen.push_str(&line);
            if let Some(rest) = line.split("listening on ").nth(1) {
                url = rest.split(';').next().unwrap().to_string();
            }
            if line.trim_end() == "tidemill: ready" {
                return Self { child, url, stderr };
            }
        }
    }

    /// SIGTERM; the stages it printed.
    fn stop(mut self) -> String {
        signal(&self.child.0, "-TERM");
        let mut stages = String::new();
        self.stderr.read_to_string(&mut stages).unwrap();
        assert_eq!(self.child.0.wait().unwrap().code(), Some(0), "{stages}");
        stages
    }
}

#[test]
fn serve_registers_answers_and_stops_gracefully() {
    let folder = TempDir::new().unwrap();
    write_lines(folder.path());
    std::fs::write(folder.path().join("units.sql"), registration(folder.path())).unwrap();
    let service = Service::start(folder.path());
    let url = service.url.clone();
    let registered = run(folder.path(), &["sql", "--url", &url, "-f", "units.sql"]);
    assert_eq!(registered.code, Some(0), "{}", registered.stderr);
    let wrong = run(folder.path(), &["sql", "--url", &url, "-c", "SELECT nothing FROM units"]);
    assert_eq!(wrong.code, Some(78), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("<command>:1:8"), "{}", wrong.stderr);
    await_units(folder.path(), &url);
    assert_no_drift(&url);
    let stages = service.stop();
    assert!(assert_conserved(&folder.path().join("data/bucket"), &[]) > 0);
    assert!(stages.contains("final commit") && stages.contains("stopped"), "{stages}");

    // A new process on the same folder knows the catalog and the rows.
    let service = Service::start(folder.path());
    await_units(folder.path(), &service.url.clone());
    service.stop();
}

/// Asks until the bounded source is drained; the harness's patience is the limit.
fn await_units(folder: &Path, url: &str) {
    let query = "SELECT sum(units) AS units FROM units WHERE is_final";
    for _ in 0..600 {
        let answer = run(folder, &["sql", "--url", url, "--format", "json", "-c", query]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        if answer.stdout.contains("20") {
            return;
        }
    }
    panic!("the units never arrived");
}

/// Conservation as operators see it.
fn assert_no_drift(url: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let text = runtime.block_on(async {
        client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap()
    });
    let drifts: Vec<&str> =
        text.lines().filter(|line| line.starts_with("tidemill_conservation_drift{")).collect();
    assert!(!drifts.is_empty() && drifts.iter().all(|line| line.ends_with(" 0")), "{drifts:?}");
}

#[tokio::test]
async fn http_refuses_web_pages_and_describes_problems() {
    let folder = TempDir::new().unwrap();
    let service = Service::start(folder.path());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &str| client.get(format!("{}{path}", service.url));
    assert_eq!(get("/livez").send().await.unwrap().status(), 200);
    assert_eq!(get("/readyz").send().await.unwrap().status(), 200);
    let rebound = get("/readyz").header("host", "shop.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);

    let endpoint = format!("{}/api/v1/statements", service.url);
    let post = |body: &'static str| client.post(&endpoint).body(body);
    let page = post("SHOW VIEWS").header("origin", "https://shop.example").send().await.unwrap();
    assert_eq!(page.status(), 403);
    let two = post("SHOW VIEWS; SHOW VIEWS").send().await.unwrap();
    assert_eq!(two.status(), 400);
    let json = post("{\"sql\": \"SHOW VIEWS\"}").header("content-type", "application/json");
    let shown: serde_json::Value = json.send().await.unwrap().json().await.unwrap();
    assert!(shown["columns"].is_array(), "{shown}");
    let wrong = post("SELEC 1").send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert_eq!(wrong.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = wrong.json().await.unwrap();
    assert!(problem["diagnostics"][0]["message"].is_string(), "{problem}");

    let metrics = get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tidemill_http_requests_total{"), "{metrics}");
    service.stop();
}

#[test]
fn tail_of_an_unknown_topic_says_so() {
    let folder = TempDir::new().unwrap();
    let service = Service::start(folder.path());
    service.stop();
    let gone = run(folder.path(), &["tail", "alerts", "--kafka-brokers", "127.0.0.1:9"]);
    assert_eq!(gone.code, Some(69), "{}", gone.stderr);
}
