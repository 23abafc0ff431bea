//! A job: reads one source's topic, runs the queries registered on it, commits what they give.
//!
//! One dedicated thread a job, because decoding and operators are work for a processor and not
//! for an executor; it blocks on the executor only to commit and to publish. Whatever fails in a
//! job stays in it: a panic is caught at the thread's edge, queries at fault leave for a job of
//! their own, what fails is tried again from the last commit, and what cannot go on is parked with
//! its reason (see `thread`).
//!
//! Invariants:
//! - nothing a job does can be seen before its commit record says so;
//! - a job that lost its place in memory (error, panic) starts again from its last commit;
//! - a stopped job has committed all it read.

mod blame;
mod clean;
mod commit;
mod compact;
mod control;
mod count;
mod emit;
mod ingest;
mod isolate;
mod loss;
mod marks;
mod memory;
mod open;
mod parts;
mod position;
mod receipts;
mod reconnect;
mod repeats;
mod revise;
mod run;
mod serve;
mod sink;
pub(crate) mod skew;
mod stall;
pub(crate) mod state;
mod step;
mod tables;
mod thread;
mod topic;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use tidemill_connectors::{log::kafka::KafkaLog, sources, store::Store};
use tidemill_contract::{Error, Loss, Result, SourceSpec};
use tidemill_sql::catalog::{Catalog, RegisteredAlert};
use tokio::sync::{Notify, oneshot, watch};

use crate::{
    clean::CleanSettings, delivery::Place, feed::FeedEnd, memory::Memory, status::Board,
    writer::WriterSlot,
};
pub(crate) use control::{Control, Recovery, ViewSnapshot};
pub(crate) use loss::RecoverFrom;
pub(crate) use position::unattended;
pub(crate) use receipts::{QUERY_NUMBER, receipts_topic};
pub(crate) use revise::revisions_topic;
pub(crate) use stall::{PartitionStall, Stall};
pub(crate) use tables::FlushSettings;

/// Messages a job may have waiting. A full queue makes the sender wait for the job's next turn.
const CONTROL_DEPTH: usize = 64;
/// Stack of a job's thread: expressions of the deepest query allowed run on it.
const STACK_BYTES: usize = 16 << 20;
/// The topic all alert events go to.
pub(crate) const ALERTS_TOPIC: &str = "alerts";

/// What all jobs of a process share.
#[derive(Debug, Clone)]
pub(crate) struct JobEnvironment {
    pub(crate) log: KafkaLog,
    pub(crate) store: Store,
    pub(crate) board: Arc<Board>,
    pub(crate) memory: Arc<Memory>,
    /// Unique to this run of this process.
    pub(crate) writer: String,
    pub(crate) commit_interval: Duration,
    /// Least time between commits made for alerts.
    pub(crate) alert_interval: Duration,
    pub(crate) commit_timeout: Duration,
    pub(crate) flush: FlushSettings,
    pub(crate) clean: CleanSettings,
    /// Wait before the second try of what failed; it doubles from there.
    pub(crate) retry_interval: Duration,
    /// Small files of a table that are worth putting together.
    pub(crate) compact_files: usize,
    /// Told when queries left a job: there is another job to be started.
    pub(crate) parted: Arc<Notify>,
    /// The executor commits and look-ups run on.
    pub(crate) executor: tokio::runtime::Handle,
}

/// Where a job's source ends.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    /// Never.
    Never,
    /// At the log's end as it is when the job first starts.
    AtStart,
    /// Where its feed says.
    Feed(watch::Receiver<Option<FeedEnd>>),
}

impl Bound {
    pub(crate) fn is_bounded(&self) -> bool {
        !matches!(self, Self::Never)
    }
}

/// What one job is to do.
#[derive(Debug, Clone)]
pub(crate) struct JobConfig {
    pub(crate) name: String,
    pub(crate) source: SourceSpec,
    /// Where the source's topic is.
    pub(crate) log: KafkaLog,
    /// The writer of what the job publishes, for all incarnations of the job.
    pub(crate) writer: WriterSlot,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) catalog_version: u64,
    /// Queries the operators are built for, inputs before their readers.
    pub(crate) queries: Vec<String>,
    /// Those of them whose results count, with the number of their `CREATE` statement. The others
    /// only feed them: their results belong to another job.
    pub(crate) outputs: BTreeMap<String, u64>,
    pub(crate) alerts: Vec<RegisteredAlert>,
    pub(crate) bound: Bound,
    /// This job writes the source's bad records to quarantine; of several jobs on one source only
    /// one does.
    pub(crate) quarantines: bool,
    pub(crate) paused: bool,
    /// Places whose owners were dropped: what was still to go there goes nowhere.
    pub(crate) left_out: BTreeSet<Place>,
}

impl JobConfig {
    /// The views among the outputs.
    pub(crate) fn views(&self) -> Vec<String> {
        let is_view = |name: &&String| self.catalog.views().any(|view| view.name == **name);
        self.outputs.keys().filter(is_view).cloned().collect()
    }

    /// The consumer group in which dashboards see how far the job is.
    fn group(&self) -> String {
        format!("tidemill-{}", self.name)
    }

    /// Something else writes the source's topic for us.
    fn is_fed(&self) -> bool {
        !matches!(sources::open(&self.source, BTreeSet::new()), Ok(None))
    }

    /// The queries that read the source itself.
    fn direct(&self) -> Vec<String> {
        let reads_source = |name: &&String| {
            self.catalog.query(name).is_some_and(|query| query.inputs.contains(&self.source.name))
        };
        self.queries.iter().filter(reads_source).cloned().collect()
    }
}

/// A running job.
#[derive(Debug)]
pub(crate) struct JobHandle {
    name: String,
    /// The source it reads.
    pub(crate) source: String,
    pub(crate) outputs: BTreeMap<String, u64>,
    control: SyncSender<Control>,
    done: oneshot::Receiver<()>,
}

impl JobHandle {
    /// Starts a job on its own thread.
    pub(crate) fn spawn(environment: JobEnvironment, config: JobConfig) -> Result<Self> {
        let (control, inbox) = std::sync::mpsc::sync_channel(CONTROL_DEPTH);
        let (finished, done) = oneshot::channel();
        let (name, source) = (config.name.clone(), config.source.name.clone());
        let outputs = config.outputs.clone();
        environment.board.update_job(&name, |status| {
            status.source.clone_from(&source);
            status.queries = outputs.keys().cloned().collect();
            "starting".clone_into(&mut status.state);
        });
        std::thread::Builder::new()
            .name(format!("job-{name}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                thread::run(&environment, config, &inbox);
                // Nobody may be waiting any more.
                drop(finished);
            })
            .map_err(|e| Error::internal(format!("job '{name}' cannot get a thread: {e}")))?;
        Ok(Self { name, source, outputs, control, done })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a message to the job.
    pub(crate) async fn send(&self, message: Control) -> Result<()> {
        self.probe().send(message).await
    }

    /// Asks without holding the handle.
    pub(crate) fn probe(&self) -> JobProbe {
        JobProbe { name: self.name.clone(), control: self.control.clone() }
    }

    /// Drops the results of a query; after this no commit names them.
    pub(crate) async fn mute(&self, query: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::Mute { query: query.to_owned(), reply }).await?;
        answer.await.map_err(|_| ended(&self.name))?
    }

    /// Accepts a loss of log data; answers when the choice is committed.
    pub(crate) async fn recover(&self, from: RecoverFrom) -> Result<Vec<Loss>> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::Recover(Recovery { from, reply })).await?;
        answer.await.map_err(|_| ended(&self.name))?
    }

    /// Stops the job after a last commit and waits for it.
    pub(crate) async fn stop(self) {
        // A job that has ended needs no message.
        let _ended = self.send(Control::Stop).await.is_err();
        // The sender is dropped when the thread ends, however it ends.
        let _closed = self.done.await.is_err();
    }
}

/// Reaches a running job.
#[derive(Debug, Clone)]
pub(crate) struct JobProbe {
    name: String,
    control: SyncSender<Control>,
}

impl JobProbe {
    /// The closed and live rows of a view, as of one moment; the live rows may have `limit` bytes.
    pub(crate) async fn view(&self, view: &str, limit: usize) -> Result<ViewSnapshot> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::View { view: view.to_owned(), limit, reply }).await?;
        answer.await.map_err(|_| ended(&self.name))?
    }

    /// Why the next window of a view is still open.
    pub(crate) async fn stall(&self, view: &str) -> Result<Stall> {
        let (reply, answer) = oneshot::channel();
        self.send(Control::Stall { view: view.to_owned(), reply }).await?;
        answer.await.map_err(|_| ended(&self.name))?
    }

    async fn send(&self, message: Control) -> Result<()> {
        let control = self.control.clone();
        let sent = tokio::task::spawn_blocking(move || control.send(message).is_ok()).await;
        if sent.is_ok_and(|sent| sent) { Ok(()) } else { Err(ended(&self.name)) }
    }
}

fn ended(job: &str) -> Error {
    Error::internal(format!("job '{job}' has ended"))
}
