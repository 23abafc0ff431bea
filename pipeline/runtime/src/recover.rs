//! Taking a job over: find its newest commit, finish its publication, read its state.
//!
//! Why one function: a start after a crash, after a stop and after a fence are the same thing. It
//! may itself be interrupted anywhere and begun again; crashing twice is like crashing once. It
//! never repairs: what is damaged is named, and nothing is written.

use bytes::Bytes;
use tidemill_connectors::failpoint;
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store::Store;
use tidemill_contract::{Commit, Error, Result};

use crate::delivery::Delivery;
use crate::ledger::Ledger;
use crate::publish::read_staged;

/// A job as its newest commit left it, published.
#[derive(Debug)]
pub struct Recovered {
    /// Open for the next epoch.
    pub ledger: Ledger,
    /// The newest commit, `None` for a job that never made one.
    pub commit: Option<Commit>,
    /// The operators' state in that commit, checked; `None` if it was empty.
    pub state: Option<Bytes>,
}

/// Takes over `job`. `writer` is unique to this run of this process; `views` are those whose
/// tables the job fills.
///
/// # Errors
/// Kind `Unavailable` if trying again may help. Kind `Corrupt` naming the object if a commit, its
/// state or its outbox is damaged, or (`TM706`) if a table is ahead of the commits.
pub async fn recover(
    store: &Store,
    job: &str,
    writer: String,
    views: &[String],
    delivery: &mut Delivery,
) -> Result<Recovered> {
    let (mut ledger, commit) = Ledger::open(Store::clone(store), job, writer).await?;
    failpoint::reached("recover.opened")?;
    let newest = commit.as_ref().map_or(0, |commit| commit.epoch);
    check_tables(store, job, views, newest).await?;
    let Some(commit) = commit else {
        return Ok(Recovered { ledger, commit: None, state: None });
    };
    // State first: a job that cannot go on should not show more than it did.
    let state = match &commit.state {
        Some(object) => Some(read_staged(store, object).await?),
        None => None,
    };
    failpoint::reached("recover.state_read")?;
    delivery.roll_forward(&commit).await?;
    failpoint::reached("recover.rolled_forward")?;
    ledger.mark_published(commit.epoch);
    Ok(Recovered { ledger, commit: Some(commit), state })
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
