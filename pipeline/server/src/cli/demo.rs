//! `tidemill demo`: the real shop's year, with nothing else installed.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_contract::{Error, ErrorKind};
use tidemill_runtime::Pipeline;
use tokio::net::TcpListener;
use tokio::time::interval;

use super::Failure;
use super::script::Script;
use super::signal::{Stop, stage};
use crate::demo::{self, BrokerPort, Fresh};
use crate::{allocator, routes, telemetry};

/// Where the live demo's HTTP API tries to listen: this port and the next ones.
const FIRST_PORT: u16 = 8080;
const PORTS: u16 = 20;

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill demo --once                   the whole year as fast as it goes, then the totals
    tidemill demo                          watch it: two hours of the shop in a second
    tidemill demo --speed 36000            ten hours in a second
    tidemill demo --data-dir /tmp/shop --keep    go on where the last demo stopped";

/// Replay a real shop's year through broker, SQL, tables and alerts, in one process.
///
/// The data is UCI Online Retail: 541,909 order lines of a UK gift wholesaler. The broker is
/// inside, a folder is the bucket. The script is `pipeline/server/demo.sql`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Replay as fast as possible, print the totals, the alerts and the tables, and exit.
    #[arg(long)]
    once: bool,
    /// Folder for broker and bucket; what an earlier demo left there is removed.
    #[arg(long, value_name = "DIR", default_value = "./tidemill-data/demo")]
    data_dir: PathBuf,
    /// Keep what an earlier demo left and go on from it, at the speed it had.
    #[arg(long)]
    keep: bool,
    /// How many times faster than the clock the shop's time runs (without --once).
    #[arg(long, value_name = "FACTOR", default_value_t = 7200,
          value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "once")]
    speed: u32,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    telemetry::init_logs("warn");
    let mut stop = Stop::listen()?;
    let fresh = if args.keep { Fresh::Keep } else { Fresh::Wipe };
    if demo::prepare(&args.data_dir, fresh)? {
        stage(&format!("removed the last demo's data in {}", args.data_dir.display()));
    }
    if args.once {
        allocator::keep_freed();
    }
    let port = if args.once { BrokerPort::Any } else { BrokerPort::Usual };
    let began = Instant::now();
    let pipeline = demo::open(&args.data_dir, port).await?;
    let text = if args.once { demo::SCRIPT.to_string() } else { demo::script_at_speed(args.speed) };
    let script = Script { name: "demo.sql".into(), text };
    let work = async {
        script.execute(&pipeline, 0..script.text.len()).await?;
        pipeline.start().await?;
        if args.once { once(&pipeline, began).await } else { live(&pipeline, &args.data_dir).await }
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map(|()| true),
        () = stop.requested() => Ok(false),
    };
    let interrupted = matches!(outcome, Ok(false));
    if interrupted {
        stage("stopping: final commit; `tidemill demo --keep` goes on from here");
    }
    let stopped = pipeline.stop().await;
    outcome?;
    stopped?;
    if interrupted && args.once {
        return Err(io::Error::other("interrupted before the year was over").into());
    }
    Ok(())
}

async fn once(pipeline: &Pipeline, began: Instant) -> Result<(), Failure> {
    writeln!(
        io::stdout(),
        "Tidemill demo: UCI Online Retail, a UK gift wholesaler's year, through the broker at {}\n",
        pipeline.brokers(),
    )?;
    if !pipeline.wait_drained().await? {
        return Err(Failure::bug(&"the demo's source is not bounded"));
    }
    let elapsed = began.elapsed();
    // Gathered first, printed whole: SELECTs await, and stdout is not held meanwhile.
    let mut text = Vec::new();
    demo::report(pipeline, elapsed, &mut text).await?;
    io::stdout().write_all(&text)?;
    Ok(())
}

async fn live(pipeline: &Arc<Pipeline>, data_dir: &Path) -> Result<(), Failure> {
    let listener = bind_any().await?;
    let address = listener.local_addr()?;
    let service = routes::Service::new(Arc::clone(pipeline), telemetry::init_metrics()?);
    service.enter(routes::Phase::Ready);
    let server = tokio::spawn(routes::serve(listener, service, std::future::pending()));
    let url = format!("http://{address}");
    let footer = next_commands(&url, &pipeline.brokers(), data_dir);
    let outcome = tokio::select! {
        outcome = demo::watch(pipeline, &footer) => outcome.map_err(Failure::from),
        failed = job_failure(pipeline) => Err(io::Error::other(failed).into()),
    };
    server.abort();
    outcome?;
    writeln!(io::stdout(), "the year is over; `tidemill demo --once` prints its totals")?;
    Ok(())
}

/// Completes when a job failed: the picture would stand still without a word.
async fn job_failure(pipeline: &Pipeline) -> String {
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        if let Some(failed) = super::failed_job(&pipeline.status()) {
            return failed;
        }
    }
}

async fn bind_any() -> Result<TcpListener, Error> {
    let mut last = Error::new(ErrorKind::Unavailable, "TM810", "no port is free");
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        match routes::bind(SocketAddr::from(([127, 0, 0, 1], port))).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn next_commands(url: &str, brokers: &str, data_dir: &Path) -> Vec<String> {
    let url = if url.ends_with(":8080") { String::new() } else { format!(" --url {url}") };
    vec![
        "next, in another terminal (Ctrl-C here ends the demo):".into(),
        format!("  tidemill sql{url} -c 'SELECT * FROM top_products LIMIT 10'"),
        format!("  tidemill tail alerts --from-beginning --kafka-brokers {brokers}"),
        format!("  ls {}", data_dir.join("bucket/tables").display()),
    ]
}
