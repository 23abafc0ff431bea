//! A script of SQL statements: read, cut into statements, run with errors that point into it.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::Path;

use tidemill_contract::{Error, Span};
use tidemill_runtime::{Pipeline, StatementResult};
use tidemill_sql::parse::{Parsed, parse_script};

use super::Failure;
use crate::output::{Format, Rows};

/// A script and its name in errors.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) text: String,
}

impl Script {
    /// Reads a file; `-` is stdin.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        if name == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            return Ok(Self { name: "<stdin>".into(), text });
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::invalid("TM821", format!("cannot read {name}")).because(error.to_string())
        })?;
        Ok(Self { name, text })
    }

    /// The statements.
    pub(super) fn parse(&self) -> Result<Vec<Parsed>, Failure> {
        parse_script(&self.text).map_err(|error| self.failure(error))
    }

    /// An error in this script.
    pub(super) fn failure(&self, error: Error) -> Failure {
        Failure::in_script(&[error], &self.name, &self.text)
    }

    /// Runs a part of the script.
    pub(super) async fn execute(
        &self,
        pipeline: &Pipeline,
        part: Range<usize>,
    ) -> Result<Vec<StatementResult>, Failure> {
        let offset = part.start;
        let text = self.text.get(part).unwrap_or_default();
        pipeline.execute(text).await.map_err(|mut error| {
            error.span =
                error.span.map(|span| Span { start: span.start + offset, end: span.end + offset });
            self.failure(error)
        })
    }
}

/// Prints results: rows to stdout in a format, messages to stderr.
pub(super) fn print(results: Vec<StatementResult>, format: Format) -> Result<(), Failure> {
    for result in results {
        match result {
            StatementResult::Done { message } => writeln!(io::stderr(), "{message}")?,
            StatementResult::Rows { schema, batches } => {
                let rows = Rows::from_batches(&schema, &batches)?;
                rows.write(&mut io::stdout().lock(), format)?;
            }
        }
    }
    Ok(())
}
