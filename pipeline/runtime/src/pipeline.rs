//! One pipeline process: broker or cluster, bucket, catalog, feeds, jobs. What the binary and the
//! tests hold in their hands.
//!
//! Invariants:
//! - one process a data folder: a lock file is held while the pipeline is open;
//! - a statement that answers `Ok` is in the catalog log before it has any effect;
//! - after `stop` everything read is committed, and nothing runs.

mod dead;
mod open;
mod registry;
mod show;
mod stall;
mod statement;

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use tidemill_connectors::{broker::Broker, log::kafka::KafkaLog, store::Store};
use tidemill_contract::{Error, Result};
use tokio::sync::{Mutex, Notify};

use crate::{
    job::JobEnvironment,
    memory::Memory,
    query::{VerifiedFiles, Workers},
    settings::Settings,
    status::{Board, Status},
    supervisor::Supervisor,
    writer::WriterSlot,
};
use registry::CatalogState;

/// What a statement gave.
#[derive(Debug, Clone)]
pub enum StatementResult {
    /// It did something.
    Done {
        /// What, for people.
        message: String,
    },
    /// It gave rows.
    Rows {
        /// The columns.
        schema: SchemaRef,
        /// The rows.
        batches: Vec<RecordBatch>,
    },
}

/// A pipeline, open.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    /// Held until the pipeline is stopped; the system frees it however the process ends.
    lock: std::sync::Mutex<Option<File>>,
    broker: Mutex<Option<Broker>>,
    log: KafkaLog,
    store: Store,
    bucket_url: String,
    /// Data files that queries have found whole.
    verified: Arc<VerifiedFiles>,
    board: Arc<Board>,
    memory: Arc<Memory>,
    /// Where ad-hoc queries run.
    workers: Workers,
    writer: String,
    /// Told when queries left a job.
    parted: Arc<Notify>,
    /// Statements are taken one at a time.
    state: Arc<Mutex<State>>,
    /// Replays are run one at a time: each rests on what the one before has noted. By source and
    /// brokers, the writers they append with.
    replays: Mutex<BTreeMap<(String, String), WriterSlot>>,
}

/// What statements change.
#[derive(Debug)]
struct State {
    catalog: CatalogState,
    /// `None` until the pipeline is started, and after it is stopped.
    supervisor: Option<Supervisor>,
}

impl Pipeline {
    /// Starts the feeds and jobs of the whole catalog. A second call does nothing.
    ///
    /// # Errors
    /// If the broker or the bucket does not answer, or a source's options are wrong.
    pub async fn start(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.supervisor.is_some() {
            return Ok(());
        }
        let mut supervisor = Supervisor::new(self.environment());
        let started = Box::pin(supervisor.start_all(&state.catalog.registry)).await;
        let catalog = Arc::clone(&state.catalog.registry.catalog);
        // What was started before the failure is stopped by `stop`.
        state.supervisor = Some(supervisor);
        tokio::spawn(follow_partings(Arc::downgrade(&self.state), Arc::clone(&self.parted)));
        drop(state);
        started?;
        self.finish_replays(&catalog).await;
        Ok(())
    }

    fn environment(&self) -> JobEnvironment {
        JobEnvironment {
            log: self.log.clone(),
            store: Store::clone(&self.store),
            board: Arc::clone(&self.board),
            memory: Arc::clone(&self.memory),
            writer: self.writer.clone(),
            commit_interval: self.settings.commit_interval,
            alert_interval: self.settings.alert_interval,
            commit_timeout: self.settings.commit_timeout,
            flush: crate::job::FlushSettings {
                rows: self.settings.flush_rows,
                bytes: self.memory.buffer_limit(),
                age: self.settings.flush_interval,
            },
            clean: self.settings.clean,
            retry_interval: self.settings.retry_interval,
            compact_files: self.settings.compact_files.max(2),
            parted: Arc::clone(&self.parted),
            executor: tokio::runtime::Handle::current(),
        }
    }

    /// Waits until every source is drained and everything is committed and published: true. False
    /// at once if some source never ends.
    ///
    /// # Errors
    /// The error of the first job that is parked or feed that failed, when all others are done; with
    /// a source that never ends only if no job goes on.
    pub async fn wait_drained(&self) -> Result<bool> {
        let mut changes = self.board.changes();
        loop {
            changes.borrow_and_update();
            {
                let state = self.state.lock().await;
                let Some(supervisor) = &state.supervisor else {
                    return Err(Error::invalid("TM604", "the pipeline is not running")
                        .help("start it first"));
                };
                if supervisor.is_unbounded() {
                    let given_up = self.board.status().is_given_up();
                    let failure = self.board.failure().filter(|_| given_up);
                    return failure.map_or(Ok(false), Err);
                }
            }
            let status = self.board.status();
            if status.is_settled() && !self.is_parting().await {
                return self.board.failure().map_or(Ok(true), Err);
            }
            if changes.changed().await.is_err() {
                return Err(Error::internal("the status board is gone"));
            }
        }
    }

    /// Queries left a job, and the job they went to is not started yet.
    async fn is_parting(&self) -> bool {
        let state = self.state.lock().await;
        let runs = |name: &String| {
            state.supervisor.as_ref().is_some_and(|supervisor| supervisor.runs(name))
        };
        let known = self.board.status();
        let named = |name: &String| known.jobs.iter().any(|job| job.queries.contains(name));
        let queries = state.catalog.registry.catalog.queries();
        queries.keys().any(|name| runs(name) && !named(name))
    }

    /// Stops gracefully: feeds, a last commit and publication of each job, the broker.
    ///
    /// # Errors
    /// If the broker cannot close its files.
    pub async fn stop(&self) -> Result<()> {
        let supervisor = self.state.lock().await.supervisor.take();
        if let Some(supervisor) = supervisor {
            supervisor.stop().await;
        }
        self.parted.notify_one();
        let stopped = match self.broker.lock().await.take() {
            Some(broker) => broker.stop().await,
            None => Ok(()),
        };
        // From here on another process may have the folder.
        // Unlocked, not only closed: a child process that is just being started may still share
        // the descriptor, and with it the lock.
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = held.map(|file| file.unlock()) {
            tracing::warn!(%error, "the data folder stays locked until this process ends");
        }
        stopped
    }

    /// How everything goes.
    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// Bootstrap servers of the log.
    pub fn brokers(&self) -> String {
        self.log.settings().brokers.clone()
    }

    /// URL of the bucket.
    pub fn bucket_url(&self) -> String {
        self.bucket_url.clone()
    }

    /// The log.
    pub fn log(&self) -> &KafkaLog {
        &self.log
    }

    /// The bucket.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// Wait before another look after one that failed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the jobs that queries went to, until the pipeline is stopped.
async fn follow_partings(state: Weak<Mutex<State>>, parted: Arc<Notify>) {
    loop {
        parted.notified().await;
        loop {
            let Some(state) = state.upgrade() else { return };
            let mut state = state.lock().await;
            let registry = state.catalog.registry.clone();
            let Some(supervisor) = &mut state.supervisor else { return };
            let followed = Box::pin(supervisor.follow_partings(&registry)).await;
            drop(state);
            match followed {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "a job that queries went to cannot be started yet");
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
        }
    }
}
