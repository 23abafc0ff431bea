//! Takes away what no longer counts: superseded commit records, and state and outbox objects that
//! no kept commit names (superseded ones, and those of tries that never became true).
//!
//! Why it may use listings, which the ledger must not trust: a listing here only says what might
//! be deleted; what is missing from it stays until next time.
//!
//! Invariants: nothing of an epoch at or above the newest published one is touched (a try for
//! the next epoch may be under way); nothing a kept commit names is touched, and if a kept commit
//! cannot be read nothing is; milestones stay for ever (see [`super`]).

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tidemill_connectors::{
    failpoint,
    store::{self, Store},
};
use tidemill_contract::{Commit, Error, Result};

use super::{KEEP_COMMITS, MILESTONE_STRIDE};

/// Epochs between two runs: one listing per so many commits costs nothing.
const INTERVAL: u64 = 50;
/// Requests under way at once.
const PARALLEL: usize = 8;

/// What one run took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Commit records.
    pub commits: usize,
    /// State and outbox objects.
    pub objects: usize,
}

/// Decides when a run is due.
#[derive(Debug, Default)]
pub(super) struct Pruner {
    /// The newest epoch at the last run; `None` before the first.
    last_run: Option<u64>,
}

impl Pruner {
    /// Whether to run now; asked once for a run. `published` is the newest published epoch.
    pub(super) fn is_due(&mut self, published: u64) -> bool {
        let due = self.last_run.is_none_or(|last| published >= last + INTERVAL);
        if !due || published == 0 {
            return false;
        }
        self.last_run = Some(published);
        true
    }
}

/// Deletes what is superseded when `published` is the newest published epoch. Later commits may be
/// made meanwhile: what they name is of their own epochs, or named by the one that is published.
pub(super) async fn run(store: Store, job: String, published: u64) -> Result<Pruned> {
    let first_kept = first_kept(published);
    failpoint::reached("clean.before_commits")?;
    let commits = prune_commits(&store, &job, first_kept).await?;
    failpoint::reached("clean.after_commits")?;
    let objects = prune_objects(&store, &job, first_kept, published).await?;
    failpoint::reached("clean.after_objects")?;
    Ok(Pruned { commits, objects })
}

/// The epochs of the objects listed in a folder, ascending.
pub(crate) async fn listed_epochs(store: &Store, folder: &Path) -> Result<Vec<u64>> {
    let mut epochs: Vec<u64> =
        store::list(store, folder).await?.iter().filter_map(epoch_of).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

async fn prune_commits(store: &Store, job: &str, first_kept: u64) -> Result<usize> {
    let folder = super::folder(job);
    let superseded = listed_epochs(store, &folder)
        .await?
        .into_iter()
        .filter(|epoch| *epoch < first_kept && !epoch.is_multiple_of(MILESTONE_STRIDE));
    let paths = superseded.map(|epoch| super::slot(&folder, epoch)).collect();
    delete_all(store, paths).await
}

async fn prune_objects(store: &Store, job: &str, first_kept: u64, published: u64) -> Result<usize> {
    let mut candidates = Vec::new();
    for folder in ["state", "outbox"] {
        let listed = store::list(store, &Path::from(folder).join(job)).await?;
        candidates.extend(
            listed.into_iter().filter(|path| epoch_of(path).is_some_and(|epoch| epoch < published)),
        );
    }
    if candidates.is_empty() {
        return Ok(0);
    }
    let named = named_objects(store, job, first_kept, published).await?;
    candidates.retain(|path| !named.contains(path.as_ref()));
    failpoint::reached("clean.before_objects")?;
    delete_all(store, candidates).await
}

/// The paths of all state and outbox objects the kept commits name.
async fn named_objects(
    store: &Store,
    job: &str,
    first_kept: u64,
    published: u64,
) -> Result<BTreeSet<String>> {
    let commits = read_commits(store, job, first_kept, published).await?;
    let objects = commits.iter().flat_map(Commit::objects);
    Ok(objects.map(|object| object.path.clone()).collect())
}

/// The commits that are kept with everything they name, when `published` is the newest.
///
/// # Errors
/// `TM701` if one is missing or malformed, `TM530` if the store does not answer.
pub(crate) async fn kept_commits(store: &Store, job: &str, published: u64) -> Result<Vec<Commit>> {
    read_commits(store, job, first_kept(published), published).await
}

async fn read_commits(store: &Store, job: &str, first: u64, last: u64) -> Result<Vec<Commit>> {
    stream::iter(first..=last)
        .map(|epoch| async move {
            super::read_commit(store, job, epoch).await?.ok_or_else(|| {
                let what = format!("commit {epoch} of job '{job}' is missing");
                Error::corrupt("TM701", what).because("it is one of the kept ones")
            })
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

/// The oldest epoch that is kept with everything it names.
pub(crate) fn first_kept(published: u64) -> u64 {
    (published + 1).saturating_sub(KEEP_COMMITS).max(1)
}

async fn delete_all(store: &Store, paths: Vec<Path>) -> Result<usize> {
    let count = paths.len();
    stream::iter(paths)
        .map(|path| async move { store::delete(store, &path).await })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(count)
}

/// The epoch a file name begins with.
fn epoch_of(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    let end = name.find(|c: char| !c.is_ascii_digit())?;
    name.get(..end)?.parse().ok()
}
