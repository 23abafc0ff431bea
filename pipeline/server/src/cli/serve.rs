//! `tidemill serve`: runs the registered catalog and the HTTP API until SIGTERM.
//!
//! Order of a stop: readiness off, sources and jobs to their final commit, publication, HTTP last.

use std::path::PathBuf;

use tidemill_runtime::Pipeline;
use tokio::sync::oneshot;

use super::Failure;
use super::signal::{Stop, stage};
use crate::{config, routes, telemetry};

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill serve                                    everything inside, data in ./tidemill-data
    tidemill serve --config /etc/tidemill.toml
    tidemill serve --kafka-brokers kafka:9092 --bucket s3://shop/lake";

/// Run the registered catalog and the HTTP API until SIGTERM or SIGINT.
///
/// Statements come by `POST /api/v1/statements` (see `tidemill sql`); `/livez`, `/readyz` and
/// `/metrics` are for operators. On a signal it commits, publishes and exits 0.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Configuration file [default: ./tidemill.toml if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,
    /// Address of the HTTP API; loopback only [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Where the log and the bucket are; shared by the verbs that run a pipeline.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Folder of the embedded broker and of the default bucket [default: ./tidemill-data].
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Bootstrap servers of a Kafka cluster instead of the embedded broker.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub(super) kafka_brokers: Option<String>,
    /// Bucket URL, file:///… or s3://bucket/prefix [default: <data-dir>/bucket].
    #[arg(long, value_name = "URL")]
    pub(super) bucket: Option<String>,
}

impl Place {
    /// The flags as the configuration's last layer.
    pub(super) fn flags(&self) -> Vec<(&'static str, Option<String>, &'static str)> {
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        vec![
            ("state.data_dir", data_dir, "--data-dir"),
            ("kafka.brokers", self.kafka_brokers.clone(), "--kafka-brokers"),
            ("storage.bucket", self.bucket.clone(), "--bucket"),
        ]
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    telemetry::init_logs("info");
    let mut flags = args.place.flags();
    flags.push(("server.listen", args.listen, "--listen"));
    let config = config::load(args.config.as_deref(), &flags)?;
    let (listen, settings) = (config.listen()?, config.settings()?);
    let mut stop = Stop::listen()?;
    let metrics = telemetry::init_metrics()?;

    // The port first: a second instance must fail before it touches any data.
    let listener = routes::bind(listen).await?;
    let address = listener.local_addr()?;
    let pipeline = Pipeline::open(settings).await?;
    let service = routes::Service::new(std::sync::Arc::clone(&pipeline), metrics);
    let (close, closed) = oneshot::channel::<()>();
    let server = tokio::spawn(routes::serve(listener, std::sync::Arc::clone(&service), async {
        // Also when the sender is dropped: the verb is over.
        closed.await.ok();
    }));
    stage(&format!(
        "listening on http://{address}; broker {}; bucket {}",
        pipeline.brokers(),
        pipeline.bucket_url()
    ));

    let started = tokio::select! {
        outcome = pipeline.start() => Some(outcome),
        () = stop.requested() => None,
    };
    if let Some(Ok(())) = started {
        service.enter(routes::Phase::Ready);
        stage("ready");
        stop.requested().await;
    }
    service.enter(routes::Phase::Stopping);
    stage("stopping: not ready any more, reading ends, final commit");
    let stopped = pipeline.stop().await;
    stage("committed and published");
    close.send(()).ok();
    match server.await {
        Ok(outcome) => outcome?,
        Err(error) => return Err(Failure::bug(&error)),
    }
    stage("stopped");
    started.unwrap_or(Ok(()))?;
    Ok(stopped?)
}
