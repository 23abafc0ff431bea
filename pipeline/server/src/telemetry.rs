//! Logs to stderr and metrics for `/metrics`: set up once, at the start of a verb.
//!
//! It never writes to stdout, which belongs to results, and never logs payload values.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidemill_contract::metric::{self, Metric};
use tracing_subscriber::EnvFilter;

/// Bounds of the histogram buckets in seconds: a commit takes milliseconds on a local disk and
/// seconds on a slow object store.
const SECONDS_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// How often histograms are drained, so that their memory stays bounded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Sends logs to stderr: `RUST_LOG`, else `default_level`. librdkafka and the SQL engine stay quiet
/// below `warn` unless asked for by name; the Delta kernel is silent, for what it reports as errors
/// are its answers to "is there a table?", and real ones come back to the caller.
pub fn init_logs(default_level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let quiet = "datafusion=warn,rdkafka=error,librdkafka=error,hyper=warn,object_store=warn,\
                     delta_kernel=off,buoyant_kernel=off";
        EnvFilter::new(format!("{default_level},{quiet}"))
    });
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_target(false)
        .with_writer(std::io::stderr)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging was set up before");
    }
}

/// Installs the process-wide metrics recorder and describes every metric of the contract.
///
/// # Errors
/// If another recorder is installed already.
pub fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?
        .install_recorder()?;
    for metric in metric::ALL {
        describe(metric);
    }
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

fn describe(metric: &Metric) {
    match metric.kind {
        "counter" => metrics::describe_counter!(metric.name, metric.help),
        "histogram" => metrics::describe_histogram!(metric.name, metric.help),
        _ => metrics::describe_gauge!(metric.name, metric.help),
    }
}
