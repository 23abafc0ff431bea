//! The HTTP API on a loopback address: one file a resource, one `.merge` line each.
//!
//! Every answer that is not a success is an RFC 9457 problem. It never answers a browser page of
//! another origin (see `guard`) and never runs more statements at once than a fixed number.

mod guard;
mod health;
mod metrics;
mod problem;
mod statements;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use tidemill_contract::{Error, Result};
use tidemill_runtime::Pipeline;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use problem::Problem;

/// Largest request body: SQL text is small, and what is larger is a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Statements that run at the same time; the next ones are told to come back.
const STATEMENTS_MAX: usize = 16;
/// How long a client may wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long open connections may last once the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the process stands; `/readyz` is 200 in [`Phase::Ready`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The catalog is being started.
    Starting = 0,
    /// Statements are welcome.
    Ready = 1,
    /// On the way out.
    Stopping = 2,
}

/// What the handlers share.
pub struct Service {
    pipeline: Arc<Pipeline>,
    metrics: PrometheusHandle,
    phase: AtomicU8,
    statements: Semaphore,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Service {
    /// A service over a pipeline, in [`Phase::Starting`].
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, metrics: PrometheusHandle) -> Arc<Self> {
        Arc::new(Self {
            pipeline,
            metrics,
            phase: AtomicU8::new(Phase::Starting as u8),
            statements: Semaphore::new(STATEMENTS_MAX),
        })
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }
}

/// Binds the address of the API.
///
/// # Errors
/// `TM810` if the port is taken or the address is not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::unavailable("TM810", format!("cannot listen on {address}"))
            .because(error.to_string())
            .help("stop what listens there, or choose another address with --listen")
    })
}

/// Serves until `shutdown` completes, then gives open connections a moment to finish.
///
/// # Errors
/// If accepting connections fails for good.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (down, mut is_down) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router(service)).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listening means the server is gone already.
        down.send(true).ok();
    });
    let deadline = async move {
        if is_down.wait_for(|down| *down).await.is_ok() {
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = server => outcome.map_err(|error| {
            Error::unavailable("TM810", "the HTTP server stopped").because(error.to_string())
        }),
        () = deadline => Ok(()),
    }
}

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .merge(statements::routes())
        .merge(health::routes())
        .merge(metrics::routes())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "TM812", "no such resource"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "TM812", "method not allowed here")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(guard::contain_panics))
        .layer(axum::middleware::from_fn(guard::same_origin))
        .layer(axum::middleware::from_fn(metrics::count))
        .with_state(service)
}
