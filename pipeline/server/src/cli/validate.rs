//! `tidemill validate FILE.sql`: all that can be said about a script without running it.
//!
//! It parses, plans every view and checks connector options; it touches no broker and no bucket.

use std::io::{self, Write as _};
use std::path::PathBuf;

use serde_json::json;
use tidemill_contract::Error;
use tidemill_sql::catalog::Catalog;
use tidemill_sql::parse::{Parsed, Statement, parse_script};

use super::Failure;
use super::script::Script;
use crate::diagnostic::Diagnostic;

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill validate sales.sql
    tidemill validate --json sales.sql | jq '.diagnostics[].message'";

/// Check a script without running it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The script; `-` reads stdin.
    #[arg(value_name = "FILE.sql")]
    file: PathBuf,
    /// Print the diagnostics as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let script = Script::read(&args.file)?;
    let (statements, errors) = match parse_script(&script.text) {
        Ok(statements) => (statements.len(), check(&statements)),
        Err(error) => (0, vec![error]),
    };
    if args.json {
        let diagnostics: Vec<Diagnostic> =
            errors.iter().map(|error| Diagnostic::new(error, &script.text)).collect();
        let valid = errors.is_empty();
        let report = json!({"valid": valid, "statements": statements, "diagnostics": diagnostics});
        writeln!(io::stdout(), "{report:#}")?;
    }
    if errors.is_empty() {
        if !args.json {
            writeln!(io::stdout(), "{}: {statements} statements, no errors", script.name)?;
        }
        return Ok(());
    }
    if args.json {
        // The report is on stdout; stderr would only repeat it.
        return Err(Failure::silent());
    }
    Err(Failure::in_script(&errors, &script.name, &script.text))
}

/// Applies the statements to an empty catalog and collects what is wrong. A statement that fails
/// is left out, so that one mistake is not reported once more by everything built on it.
fn check(statements: &[Parsed]) -> Vec<Error> {
    let mut catalog = Catalog::new();
    let mut errors = Vec::new();
    for parsed in statements {
        let options = match &parsed.statement {
            Statement::CreateSource(create) => tidemill_connectors::sources::validate(&create.spec),
            Statement::CreateSink(create) => tidemill_connectors::sinks::validate(&create.spec),
            Statement::Show(_)
            | Statement::ShowDead(_)
            | Statement::ReplayDead(_)
            | Statement::Describe(_)
            | Statement::Explain(_)
            | Statement::ExplainStall(_)
            | Statement::Select(_) => continue,
            _ => Ok(()),
        };
        if let Err(error) = options.and_then(|()| catalog.apply(parsed).map(drop)) {
            errors.push(error);
        }
    }
    errors
}
