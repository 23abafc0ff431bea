//! `tidemill serve` as a child process: started, asked, killed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Longest wait for the program to be ready or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of the program that wait to be read.
const LINES: usize = 1024;

/// A running service.
#[derive(Debug)]
pub struct Service {
    child: Child,
    http: String,
    brokers: String,
}

impl Service {
    /// Starts the program on a data folder and waits until it says that it is ready. The broker
    /// keeps its port, so that clients find it again after a restart.
    ///
    /// # Errors
    /// If the program is not built, or does not become ready.
    pub fn start(folder: &Path, broker_port: u16) -> Result<Self> {
        let mut command = Command::new(program()?);
        command.arg("serve").arg("--listen").arg("127.0.0.1:0").arg("--data-dir").arg(folder);
        command.env("TIDEMILL__KAFKA__LISTEN", format!("127.0.0.1:{broker_port}"));
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (told, heard) = std::sync::mpsc::sync_channel(LINES);
        // It reads to the end, or the program would block on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Whoever listened may have all it wants, or be gone.
                told.try_send(line).ok();
            }
        });
        let mut service = Self { child, http: String::new(), brokers: String::new() };
        let began = Instant::now();
        let mut lines = Vec::new();
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let Ok(line) = heard.recv_timeout(left) else {
                bail!("the service is not ready: {}", lines.join("\n"));
            };
            if let Some((_, rest)) = line.split_once("listening on http://")
                && let [http, broker, ..] = rest.split("; ").collect::<Vec<_>>().as_slice()
            {
                service.http = (*http).to_owned();
                service.brokers = broker.trim_start_matches("broker ").to_owned();
            }
            if line.trim_end().ends_with("ready") && !service.http.is_empty() {
                return Ok(service);
            }
            lines.push(line);
        }
    }

    /// Its brokers.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// If it is refused, or no answer comes.
    pub fn execute(&self, sql: &str) -> Result<Value> {
        let body = json!({ "sql": sql }).to_string();
        let (status, answer) = self.exchange("POST", "/api/v1/statements", &body)?;
        if status != 200 {
            bail!("{sql}: {status} {answer}");
        }
        Ok(serde_json::from_str(&answer)?)
    }

    /// The one number that a SELECT gives; none if there is no row, or it is null.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub fn number(&self, sql: &str) -> Result<Option<i64>> {
        let answer = self.execute(sql)?;
        let cell = answer.pointer("/rows/0/0").context("no rows in the answer")?;
        Ok(cell.as_i64().or_else(|| cell.as_str().and_then(|text| text.parse().ok())))
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// If the service does not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, page) = self.exchange("GET", "/metrics", "")?;
        let lines = page.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.http,
            body.len(),
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Kills it without warning (SIGKILL).
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program: `TIDEMILL_BENCH_PROGRAM`, else the one built beside this benchmark.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).map(|folder| folder.join("tidemill"));
    let named = std::env::var_os("TIDEMILL_BENCH_PROGRAM").map(PathBuf::from);
    match named.or(built).filter(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no program: run `cargo build --release --bin tidemill` first"),
    }
}

/// A port that was free a moment ago.
///
/// # Errors
/// If none is.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
