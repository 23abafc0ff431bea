//! `tidemill run FILE.sql`: one script, start to end, in one process.
//!
//! Statements first, then the pipeline runs; SELECTs at the end of the script wait until all
//! sources are drained (or a signal came) and print their rows.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_runtime::Pipeline;
use tidemill_sql::parse::{Parsed, Statement};

use super::Failure;
use super::script::{self, Script};
use super::serve::Place;
use super::signal::{Stop, stage};
use crate::output::Format;
use crate::{config, telemetry};

/// Time between looks at the jobs of an unbounded run.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill run sales.sql                            data in ./tidemill-data
    tidemill run sales.sql --data-dir /tmp/try --format csv > rows.csv
    tidemill run sales.sql --kafka-brokers kafka:9092 --bucket s3://shop/lake

A run goes on where the last one in the same folder stopped. It exits 0 when all sources are
bounded and drained, else it runs until SIGTERM.";

/// Run the statements of a file; SELECTs at its end print rows when the sources are drained.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The script; `-` reads stdin.
    #[arg(value_name = "FILE.sql")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
    /// Configuration file [default: ./tidemill.toml if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,
    /// How to print rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    telemetry::init_logs("warn");
    let script = Script::read(&args.file)?;
    let statements = script.parse()?;
    let settings = config::load(args.config.as_deref(), &args.place.flags())?.settings()?;
    let mut stop = Stop::listen()?;
    let pipeline = Pipeline::open(settings).await?;
    let outcome = run_script(&pipeline, &script, &statements, args.format, &mut stop).await;
    let stopped = pipeline.stop().await;
    outcome?;
    Ok(stopped?)
}

async fn run_script(
    pipeline: &Pipeline,
    script: &Script,
    statements: &[Parsed],
    format: Format,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let (head, tail) = statements.split_at(trailing_selects(statements));
    let cut = tail.first().map_or(script.text.len(), |select| select.offset);
    if !head.is_empty() {
        script::print(script.execute(pipeline, 0..cut).await?, format)?;
    }
    pipeline.start().await?;
    tokio::select! {
        outcome = ended(pipeline) => outcome?,
        () = stop.requested() => stage("stopping: final commit"),
    }
    for select in tail {
        let part = select.offset..select.offset + select.text.len();
        script::print(script.execute(pipeline, part).await?, format)?;
    }
    Ok(())
}

/// Completes when all sources are drained; with an unbounded one only when no job goes on.
async fn ended(pipeline: &Pipeline) -> Result<(), Failure> {
    if pipeline.wait_drained().await? {
        return Ok(());
    }
    stage("running until SIGTERM: a source is unbounded");
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tick.tick().await;
        if let Some(failed) = super::failed_job(&pipeline.status()) {
            return Err(std::io::Error::other(failed).into());
        }
    }
}

/// Index of the first of the SELECTs that end the script.
fn trailing_selects(statements: &[Parsed]) -> usize {
    let trailing = statements
        .iter()
        .rev()
        .take_while(|parsed| {
            matches!(parsed.statement, Statement::Select(_) | Statement::ShowDead(_))
        })
        .count();
    statements.len() - trailing
}
