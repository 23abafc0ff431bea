//! `tidemill fsck`: is everything in the bucket as it was written?
//!
//! It reads the bucket only: no broker, no lock, nothing changed. It may run beside a service.

use std::io::{self, Write as _};
use std::path::PathBuf;

use tidemill_runtime::fsck::{self, Depth, Finding, Report};

use super::Failure;
use super::serve::Place;
use crate::{config, telemetry};

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill fsck                                     the bucket of ./tidemill-data, every byte
    tidemill fsck --quick --bucket s3://shop/lake     records, and that all they name is there
    tidemill fsck --json | jq '.findings[].object'

It exits 0 when nothing is damaged, 1 when something is.";

/// Check the bucket: catalog, commits, state, tables; say what is damaged and what to do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Configuration file [default: ./tidemill.toml if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,
    /// Check records and sizes only, not every byte of every file.
    #[arg(long)]
    quick: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    telemetry::init_logs("warn");
    let settings = config::load(args.config.as_deref(), &args.place.flags())?.settings()?;
    let store = settings.open_bucket()?;
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let report = Box::pin(fsck::check(&store, depth)).await?;
    let mut out = io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::bug(&error))?;
        writeln!(out, "{text}")?;
    } else {
        print(&mut out, &report)?;
    }
    if report.has_damage() { Err(Failure::found()) } else { Ok(()) }
}

fn print(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    for finding in &report.findings {
        let Finding { severity, object, code, problem, meaning, remedy } = finding;
        let severity = format!("{severity:?}").to_lowercase();
        writeln!(out, "{severity}: {object} [{code}]")?;
        writeln!(out, "  what  {problem}")?;
        writeln!(out, "  means {meaning}")?;
        writeln!(out, "  do    {remedy}")?;
    }
    let counts = report.checked.iter().map(|(kind, count)| format!("{count} {kind}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let verdict = if report.has_damage() { "DAMAGED" } else { "no damage" };
    writeln!(out, "{verdict}: {counts}; {} bytes read", report.bytes)
}
