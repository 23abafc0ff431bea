//! The command line: one file a verb, one line each in `Command`.
//!
//! Results go to stdout, everything else to stderr. Exit codes are part of the interface and
//! stand in `--help`; `failure` maps errors to them.

mod config;
mod demo;
mod failure;
mod fsck;
mod run;
mod script;
mod serve;
mod signal;
mod sql;
mod tail;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::Failure;
use tidemill_runtime::Status;

use crate::allocator;

/// Stack of the runtime's threads: planning a deeply nested expression recurses.
const STACK_BYTES: usize = 8 << 20;

const EXIT_CODES: &str = "\
EXIT CODES:
    0  done
    1  failed while running
    2  wrong usage of the command line
   69  a broker, bucket or server does not answer
   70  a bug in tidemill
   78  wrong SQL or configuration
  130  a second signal cut the graceful stop short

EXAMPLES:
    tidemill demo --once                   a real shop's year, start to end, in one process
    tidemill run sales.sql                 run a script until its sources are drained
    tidemill serve                         run the registered catalog until SIGTERM
    tidemill sql -c 'SHOW VIEWS'           ask a running service";

/// A streaming pipeline for online shops: sources into Kafka topics, windowed SQL over them,
/// Delta Lake tables and alerts out of them.
#[derive(Debug, Parser)]
#[command(name = "tidemill", bin_name = "tidemill", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Serve(serve::Args),
    Sql(sql::Args),
    Run(run::Args),
    Validate(validate::Args),
    Tail(tail::Args),
    Config(config::Args),
    Fsck(fsck::Args),
}

/// The program: reads the process's arguments, runs the verb, says how it went.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run_with(std::env::args_os()))
}

/// Runs the command line `arguments` (the first is the program's name) and returns the exit code.
pub fn run_with(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    allocator::give_back_soon();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal is no reason to fail.
            error.print().ok();
            return u8::try_from(error.exit_code()).unwrap_or(failure::USAGE);
        }
    };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| {
            // On a worker thread, whose stack is ours to size.
            let task = runtime.spawn(dispatch(cli.command));
            let outcome = runtime.block_on(task);
            // Blocking leftovers (a reader of stdin) must not hold the process.
            runtime.shutdown_background();
            outcome.unwrap_or_else(|error| Err(Failure::bug(&error)))
        });
    match outcome {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Serve(args) => Box::pin(serve::run(args)).await,
        Command::Sql(args) => Box::pin(sql::run(args)).await,
        Command::Run(args) => Box::pin(run::run(args)).await,
        Command::Validate(args) => validate::run(&args),
        Command::Tail(args) => Box::pin(tail::run(args)).await,
        Command::Config(args) => config::run(args),
        Command::Fsck(args) => Box::pin(fsck::run(args)).await,
    }
}

/// What the first job says, if none is left that goes on by itself.
fn failed_job(status: &Status) -> Option<String> {
    let job = status.jobs.first().filter(|_| status.is_given_up())?;
    let reason = job.error.as_deref().unwrap_or("no reason given");
    Some(format!("job {} {}: {reason}", job.name, job.state))
}
