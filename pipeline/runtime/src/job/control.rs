//! What can be asked of a running job.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use tidemill_contract::{Error, Loss, Result};
use tidemill_sql::catalog::RegisteredAlert;
use tokio::sync::oneshot;

use super::{JobConfig, loss::RecoverFrom, stall::Stall, tables::Closed};

/// A message to a job; taken between two batches.
#[derive(Debug)]
pub(crate) enum Control {
    /// Answer with the rows of a view.
    View {
        /// The view.
        view: String,
        /// Bytes the rows of open windows may have.
        limit: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<ViewSnapshot>>,
    },
    /// Answer why the next window of a view is still open.
    Stall {
        /// The view.
        view: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Stall>>,
    },
    /// Watch a view from now on.
    AddAlert(Box<RegisteredAlert>),
    /// Watch no more.
    RemoveAlert(String),
    /// A query was dropped: its results count no more. Answers when no commit names them.
    Mute {
        /// The query.
        query: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Commit and read no further.
    Pause,
    /// Read on.
    Resume,
    /// Log data is lost: go on all the same, from here. Answers when that is committed.
    Recover(Recovery),
    /// Commit and end.
    Stop,
}

/// An operator's choice after a loss of log data.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// From where to go on.
    pub(crate) from: RecoverFrom,
    /// Where the answer goes: what was accepted.
    pub(crate) reply: oneshot::Sender<Result<Vec<Loss>>>,
}

impl Recovery {
    /// Answers; whoever asked may have given up.
    pub(super) fn answer(self, outcome: Result<Vec<Loss>>) {
        let _gone = self.reply.send(outcome).is_err();
    }

    /// Answers a job that has lost nothing.
    pub(super) fn refuse(self, job: &str) {
        let what = format!("job '{job}' is not stopped by a loss of log data");
        let error =
            Error::invalid("TM521", what).help("SHOW JOBS and SHOW LOSSES say what is lost");
        self.answer(Err(error));
    }
}

/// What a message changed for good: it holds for later incarnations of the job too.
#[derive(Debug, Clone)]
pub(super) enum Change {
    AddAlert(Box<RegisteredAlert>),
    RemoveAlert(String),
    Mute(String),
    SetPaused(bool),
}

impl Change {
    pub(super) fn apply(self, config: &mut JobConfig) {
        match self {
            Self::AddAlert(alert) => config.alerts.push(*alert),
            Self::RemoveAlert(name) => config.alerts.retain(|alert| alert.spec.name != name),
            Self::Mute(query) => {
                config.outputs.remove(&query);
            }
            Self::SetPaused(paused) => config.paused = paused,
        }
    }
}

/// All rows of a view at one moment: no row is missing and none is there twice.
#[derive(Debug)]
pub(crate) struct ViewSnapshot {
    /// The view's columns.
    pub(crate) schema: SchemaRef,
    /// Parquet files with closed rows, as paths in the bucket.
    pub(crate) files: Vec<String>,
    /// Closed rows that are not in a file yet.
    pub(crate) closed: Closed,
    /// Rows of open windows as they stand.
    pub(crate) live: Vec<RecordBatch>,
}
