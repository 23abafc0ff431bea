//! `tidemill sql`: the client of a running service.
//!
//! It cuts a script into statements and posts them one by one; the first error ends it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use serde::Deserialize;
use tidemill_contract::Error;
use tidemill_sql::parse::parse_script;

use super::Failure;
use super::script::Script;
use crate::output::{Format, Rows};
use crate::routes::Problem;

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill sql -c 'SHOW VIEWS'
    tidemill sql -f views.sql
    tidemill sql --format csv -c 'SELECT * FROM sales_per_hour WHERE is_final' > sales.csv
    echo 'SHOW JOBS' | tidemill sql

Without -c and -f statements are read from stdin; on a terminal each ends with a semicolon.";

/// Run SQL on a running service and print its rows.
///
/// A SELECT reads views: closed windows and live ones, told apart by the column `is_final`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Statements to run.
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// A file of statements; `-` reads stdin.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to print rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Address of the service.
    #[arg(long, env = "TIDEMILL_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// What the service answers with.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Rows(Rows),
    Done { message: String },
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let client = Client {
        http: reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| Failure::bug(&error))?,
        endpoint: format!("{}/api/v1/statements", args.url.trim_end_matches('/')),
        format: args.format,
    };
    let script = match (args.command, args.file) {
        (Some(text), _) => Script { name: "<command>".into(), text },
        (None, Some(path)) => Script::read(&path)?,
        (None, None) if io::stdin().is_terminal() => return client.converse().await,
        (None, None) => Script::read("-".as_ref())?,
    };
    client.run(&script).await
}

struct Client {
    http: reqwest::Client,
    endpoint: String,
    format: Format,
}

impl Client {
    async fn run(&self, script: &Script) -> Result<(), Failure> {
        for parsed in script.parse()? {
            // Spaces in place of what came before keep the server's places right for the script.
            let before = script.text.get(..parsed.offset).unwrap_or_default();
            let blank: String =
                before.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
            self.post(&script.name, format!("{blank}{}", parsed.text), &script.text).await?;
        }
        Ok(())
    }

    async fn post(&self, name: &str, sql: String, script: &str) -> Result<(), Failure> {
        let unreachable = |error: reqwest::Error| {
            Error::unavailable("TM822", format!("no answer from {}", self.endpoint))
                .because(root_cause(&error))
                .help("start it with `tidemill serve`, or name it with --url")
        };
        let request = self.http.post(&self.endpoint).header("content-type", "text/plain").body(sql);
        let response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            let status = response.status();
            let problem = response.json::<Problem>().await.map_err(|_| {
                Error::unavailable("TM822", format!("{} answered {status}", self.endpoint))
                    .help("is it a tidemill service?")
            })?;
            return Err(Failure::remote(problem, name, script));
        }
        match response.json::<Answer>().await.map_err(unreachable)? {
            Answer::Rows(rows) => rows.write(&mut io::stdout().lock(), self.format)?,
            Answer::Done { message } => writeln!(io::stderr(), "{message}")?,
        }
        Ok(())
    }

    /// Reads statements from a terminal until its end; errors are shown and do not end it.
    async fn converse(&self) -> Result<(), Failure> {
        let mut text = String::new();
        loop {
            let prompt = if text.trim().is_empty() { "tidemill> " } else { "      ... " };
            write!(io::stderr(), "{prompt}")?;
            let line = tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                io::stdin().lock().read_line(&mut line).map(|_| line)
            });
            let line = line.await.map_err(|error| Failure::bug(&error))??;
            let ended = line.is_empty();
            text.push_str(&line);
            if !ended && !text.trim_end().ends_with(';') {
                continue;
            }
            let script = Script { name: "<terminal>".into(), text: std::mem::take(&mut text) };
            if !script.text.trim().is_empty()
                && parse_script(&script.text).is_ok_and(|s| s.is_empty())
            {
                continue;
            }
            if let Err(failure) = self.run(&script).await {
                // Shown already; the code only matters to the last command of a shell.
                let _code = failure.report();
            }
            if ended {
                return Ok(());
            }
        }
    }
}

/// The innermost message of an error: "connection refused" rather than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
