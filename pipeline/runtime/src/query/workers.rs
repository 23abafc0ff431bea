//! Threads of their own for ad-hoc queries.
//!
//! Why: a query that computes for long without a pause keeps its thread. Here it holds up other
//! queries only, never the commits of jobs, the HTTP API or the clock that ends it. It never runs
//! anything else.

use tidemill_contract::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// Cores queries may use: the jobs need some too.
const THREADS: usize = 2;
/// Expressions of the deepest query allowed are computed here.
const STACK_BYTES: usize = 16 << 20;

/// The threads; gone with it, without a wait for what still runs.
#[derive(Debug)]
pub(crate) struct Workers {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|e| Error::internal(format!("queries cannot get threads: {e}")))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Where to run a query.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
