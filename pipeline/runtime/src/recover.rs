//! Taking a job over: find its newest commit, fence who had the job, finish its publication, read
//! its state.
//!
//! Why one function: a start after a crash, after a stop and after a fence are the same thing. It
//! may itself be interrupted anywhere and begun again; crashing twice is like crashing once. It
//! never repairs: what is damaged is named, and nothing is written.
//!
//! Why the fence comes before the appends: topics and files cannot refuse a writer. A process that
//! was stopped and continued looks at the commits before it appends, so it must find there that
//! another one has the job before that one reads back what is missing.
//!
//! Invariant: a process takes a job over once, when it starts on it. If another one has committed
//! since, it never takes it back: it is fenced, however it lost its place.

use std::cell::Cell;

use bytes::Bytes;
use tidemill_connectors::failpoint;
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store::Store;
use tidemill_contract::{Clock, Commit, Error, ErrorKind, Result, SystemClock};

use crate::delivery::Delivery;
use crate::ledger::Ledger;
use crate::outbox::Outbox;
use crate::publish::{read_outbox, read_staged};
use crate::split;

/// Tries to take a job over from a process that goes on committing.
const TRIES_MAX: u32 = 20;

/// A job as its newest commit left it, published.
#[derive(Debug)]
pub struct Recovered {
    /// Open for the next epoch.
    pub ledger: Ledger,
    /// The newest commit, now in this writer's name; `None` for a job that never made one.
    pub commit: Option<Commit>,
    /// The operators' state in that commit, checked; `None` if it was empty.
    pub state: Option<Bytes>,
}

/// Who wants a job: one of these for a process and job, for as long as it tries.
#[derive(Debug)]
pub struct Claimant {
    writer: String,
    /// The newest generation when this process first looked.
    first_seen: Cell<Option<u64>>,
}

impl Claimant {
    /// `writer` is unique to this run of this process.
    pub fn new(writer: String) -> Self {
        Self { writer, first_seen: Cell::new(None) }
    }

    /// Whether another process has taken the job over since this one first looked. The process that
    /// had it then may well have committed since.
    pub(crate) fn has_lost(&self, newest: Option<&Commit>) -> bool {
        let generation = newest.map_or(0, |commit| commit.generation);
        let first_seen = self.first_seen.get().unwrap_or(generation);
        self.first_seen.set(Some(first_seen));
        generation > first_seen && newest.is_some_and(|newest| newest.writer != self.writer)
    }
}

/// Takes over `job`. `claimant` is who wants it; `views` are those whose tables the job fills.
///
/// # Errors
/// Kind `Unavailable` if trying again may help. Kind `Corrupt` naming the object if a commit, its
/// state or its outbox is damaged, or (`TM706`) if a table is ahead of the commits. Kind `Fenced`
/// if another process has the job.
pub async fn recover(
    store: &Store,
    job: &str,
    claimant: &Claimant,
    views: &[String],
    delivery: &mut Delivery,
) -> Result<Recovered> {
    for _ in 0..TRIES_MAX {
        let tried = Box::pin(take_over(store, job, claimant, views, delivery)).await?;
        if let Some(recovered) = tried {
            return Ok(recovered);
        }
    }
    let what = format!("job '{job}' is still at work in another process");
    Err(Error::new(ErrorKind::Fenced, "TM702", what)
        .because(format!("it committed each of the {TRIES_MAX} times this one tried to take over"))
        .help("stop the other process first"))
}

/// One try; `None` if the process that has the job has gone on meanwhile.
async fn take_over(
    store: &Store,
    job: &str,
    claimant: &Claimant,
    views: &[String],
    delivery: &mut Delivery,
) -> Result<Option<Recovered>> {
    let writer = claimant.writer.clone();
    let (mut ledger, commit) = Ledger::open(Store::clone(store), job, writer).await?;
    failpoint::reached("recover.opened")?;
    let newest = commit.as_ref().map_or(0, |commit| commit.epoch);
    if claimant.has_lost(commit.as_ref()) {
        return Err(lost(job, newest));
    }
    let tables = check_tables(store, job, views, newest).await;
    if tables.is_err() && is_fenced(ledger.check_newest().await)? {
        return Ok(None);
    }
    tables?;
    let Some(commit) = commit else {
        return Ok(Some(Recovered { ledger, commit: None, state: None }));
    };
    // Whoever left with this commit has a job before anything else is committed.
    split::finish_all(store, &claimant.writer, &commit).await?;
    // State first: a job that cannot go on should not show more than it did.
    let state = match &commit.state {
        Some(object) => Some(read_staged(store, object).await?),
        None => None,
    };
    let outbox = match &commit.outbox {
        Some(object) => read_outbox(store, object).await?,
        None => Outbox::new(),
    };
    failpoint::reached("recover.state_read")?;
    delivery.publish_tables(&commit).await?;
    failpoint::reached("recover.before_take_over")?;
    let taken = ledger.take_over(&commit, SystemClock.now_micros()).await;
    let commit = match taken {
        Err(error) if error.kind == ErrorKind::Fenced => return Ok(None),
        taken => taken?,
    };
    failpoint::reached("recover.taken_over")?;
    delivery.roll_forward(&mut ledger, &commit, &outbox).await?;
    failpoint::reached("recover.rolled_forward")?;
    ledger.mark_published(commit.epoch);
    Ok(Some(Recovered { ledger, commit: Some(commit), state }))
}

fn is_fenced(checked: Result<()>) -> Result<bool> {
    match checked {
        Ok(()) => Ok(false),
        Err(error) if error.kind == ErrorKind::Fenced => Ok(true),
        Err(error) => Err(error),
    }
}

pub(crate) fn lost(job: &str, newest: u64) -> Error {
    let what = format!("job '{job}' may not go on after epoch {newest}");
    Error::new(ErrorKind::Fenced, "TM702", what)
        .because("another process has taken the job over")
        .help("stop this process, or restart it to take the job back")
}

/// A table that has later epochs than the commits know would silently refuse ours.
async fn check_tables(store: &Store, job: &str, views: &[String], newest: u64) -> Result<()> {
    for view in views {
        let version = Box::pin(delta::committed_version(store, view, job)).await?;
        let epoch = version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0);
        if epoch > newest {
            let what = format!("table '{view}' has epoch {epoch} of job '{job}'");
            return Err(Error::corrupt("TM706", what)
                .because(format!("the newest commit of the job is {newest}"))
                .help("restore the bucket's folder 'commits', or remove the table to begin anew"));
        }
    }
    Ok(())
}
