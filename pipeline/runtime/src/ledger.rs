//! The commit records of one job: `commits/<job>/<epoch:020>.json`, one per epoch, created with a
//! conditional put. Creating one is the only moment at which anything becomes true.
//!
//! Why a ledger and not a pointer to the newest state: the slot of an epoch is the fence. Two
//! writers race for epoch N, one create wins, the other learns that it is a zombie and stops. No
//! lock, lease or clock is involved. It never publishes anything (`delivery`), and never decides
//! by a listing: a list only says where to begin to look.
//!
//! Invariants:
//! - epochs are dense from 1; commit N+1 is written only after N was reported as published, or
//!   carries what N appends to topics and files itself ([`Ledger::take_over`]), so at most the
//!   newest commit of a job is unpublished;
//! - `commit` returns `Ok` only if the slot holds exactly the record given;
//! - after `Fenced` a ledger never writes again;
//! - **a slot is never free again.** Records older than [`KEEP_COMMITS`] are deleted, except every
//!   [`MILESTONE_STRIDE`]-th, the milestones. A zombie that wakes up late may succeed in creating
//!   a slot that was deleted; the milestone above it then exists, which cannot be while the
//!   zombie is right, so it looks there after every create.
//!
//! | slot N after my create | milestone above N | meaning |
//! |---|---|---|
//! | mine | absent | committed: nobody is further than N, or N would not have been free |
//! | mine | present | the slot was pruned: fenced |
//! | another's | – | fenced |
//! | absent (timeout) | – | unknown: `Unavailable`, try the same commit again |

mod prune;
pub(crate) mod seal;

use bytes::Bytes;
use object_store::path::Path;
use tidemill_connectors::store::{self, PutOutcome, Store};
use tidemill_contract::{Commit, Error, ErrorKind, Micros, Result, Watermark};

pub use prune::Pruned;
pub(crate) use prune::{first_kept, kept_commits, listed_epochs};

/// Folder of all commit records.
const FOLDER: &str = "commits";
/// Format of the commit records this version writes and reads.
pub const COMMIT_FORMAT: u32 = 1;
/// Newest commits that are kept with everything they name.
pub const KEEP_COMMITS: u64 = 100;
/// Every how many epochs a record is kept for ever. At most [`KEEP_COMMITS`], so that all epochs
/// above the newest milestone are still there and can be probed one by one.
pub const MILESTONE_STRIDE: u64 = 100;
const _: () = assert!(MILESTONE_STRIDE <= KEEP_COMMITS, "see MILESTONE_STRIDE");

/// The commit records of one job, open for one writer.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    job: String,
    writer: String,
    generation: u64,
    /// Newest committed epoch, 0 if none.
    newest: u64,
    /// Newest epoch known to be published; `newest` or `newest - 1`.
    published: u64,
    fenced: bool,
    /// This writer has made a commit itself.
    has_committed: bool,
    pruner: prune::Pruner,
}

impl Ledger {
    /// Opens the records of `job` and finds the newest. `writer` is unique to this run of this
    /// process. The newest commit found counts as unpublished until [`Self::mark_published`].
    ///
    /// # Errors
    /// `TM701` (kind `Corrupt`) naming the object if the newest record is malformed, `TM530` if
    /// the store does not answer.
    pub async fn open(store: Store, job: &str, writer: String) -> Result<(Self, Option<Commit>)> {
        let latest = newest_commit(&store, job).await?;
        let newest = latest.as_ref().map_or(0, |commit| commit.epoch);
        let ledger = Self {
            store,
            job: job.to_owned(),
            writer,
            generation: latest.as_ref().map_or(0, |commit| commit.generation) + 1,
            newest,
            published: newest.saturating_sub(1),
            fenced: false,
            has_committed: false,
            pruner: prune::Pruner::default(),
        };
        Ok((ledger, latest))
    }

    /// An empty commit for the next epoch with job, epoch, writer and generation filled in.
    pub fn draft(&self) -> Commit {
        Commit {
            format: COMMIT_FORMAT,
            job: self.job.clone(),
            epoch: self.next_epoch(),
            writer: self.writer.clone(),
            generation: self.generation,
            written_at: 0,
            partitions: std::collections::BTreeMap::new(),
            watermark: Watermark::MIN,
            drained: false,
            state: None,
            shared_state: Vec::new(),
            files: Vec::new(),
            revised: Vec::new(),
            outbox: None,
            topic_floor: std::collections::BTreeMap::new(),
            file_sink_bytes: std::collections::BTreeMap::new(),
            counters: std::collections::BTreeMap::new(),
            topic_id: None,
            losses: Vec::new(),
            catalog_version: 0,
            queries: None,
            splits: std::collections::BTreeMap::new(),
            origin: None,
        }
    }

    /// Name of the job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The epoch the next commit has.
    pub fn next_epoch(&self) -> u64 {
        self.newest + 1
    }

    /// Take-over count of this writer: one more than the newest commit had when it was opened.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes an epoch true. Everything the commit names must be uploaded before.
    ///
    /// On `Unavailable` it is unknown whether the commit is there: call again with the **same**
    /// commit. Cancelling the future has the same meaning as `Unavailable`.
    ///
    /// # Errors
    /// `TM702` (kind `Fenced`) if another record has the slot: drop everything and recover.
    /// `TM530` (kind `Unavailable`) if the store gives no clear answer. `TM900` if the commit is
    /// not the successor of the newest, or the newest is not yet published.
    pub async fn commit(&mut self, commit: Commit) -> Result<()> {
        self.check_successor(&commit)?;
        let path = slot(&folder(&self.job), commit.epoch);
        let bytes = seal::seal(&commit)?;
        match self.take_slot(&path, &bytes, commit.epoch).await {
            Err(error) if error.kind == ErrorKind::Fenced => {
                self.fenced = true;
                Err(error)
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.newest = commit.epoch;
                self.has_committed = true;
                Ok(())
            }
        }
    }

    /// Commits the newest epoch once more in this writer's name. From then on whoever had the job
    /// before is fenced, also from what has no fence of its own: it asks [`Self::check_newest`]
    /// before it appends. The tables of `newest` must be published, under its own epoch; what it
    /// appends to topics and files is carried over with the ids and places it has.
    ///
    /// # Errors
    /// As [`Self::commit`]; `Fenced` if another process took the job over at the same moment.
    pub async fn take_over(&mut self, newest: &Commit, written_at: Micros) -> Result<Commit> {
        self.published = self.newest;
        let Commit { format, epoch, writer, generation, .. } = self.draft();
        // The tables have both: a second time the rows of revised windows would go and none come.
        let (files, revised, carried) = (Vec::new(), Vec::new(), newest.clone());
        let own = Commit { format, epoch, writer, generation, written_at, ..carried };
        let commit = Commit { files, revised, ..own };
        self.commit(commit.clone()).await?;
        Ok(commit)
    }

    /// Says that `delivery` has finished the newest commit.
    pub fn mark_published(&mut self, epoch: u64) {
        assert_eq!(epoch, self.newest, "only the newest commit can be unpublished");
        self.published = epoch;
    }

    /// The newest epoch known to be published, once this writer has committed one itself.
    pub(crate) fn own_published(&self) -> Option<u64> {
        (self.has_committed && !self.fenced).then_some(self.published)
    }

    /// Looks whether another writer has gone on from here: one read, before every append to what
    /// has no fence of its own (topics, files). A writer that is stopped between this look and its
    /// append still repeats records when it wakes up, with the ids they have.
    ///
    /// # Errors
    /// `TM702` (kind `Fenced`) if the next slot is taken, `TM530` if the store does not answer.
    pub async fn check_newest(&mut self) -> Result<()> {
        let next = slot(&folder(&self.job), self.next_epoch());
        if store::get(&self.store, &next).await?.is_none() {
            return Ok(());
        }
        self.fenced = true;
        Err(fenced(&self.job, self.next_epoch(), "another writer has gone on"))
    }

    /// Deletes what is superseded: old records, and state and outbox objects no kept commit names.
    /// Works only every so many epochs, so call it after each publication. Failure harms nothing.
    ///
    /// # Errors
    /// `TM530` if the store does not answer, `TM701` if a kept record is malformed.
    pub async fn prune(&mut self) -> Result<Pruned> {
        match self.pruning() {
            Some(work) => work.await,
            None => Ok(Pruned::default()),
        }
    }

    /// The same as work of its own, if it is due: nobody need wait for it.
    pub(crate) fn pruning(
        &mut self,
    ) -> Option<impl Future<Output = Result<Pruned>> + Send + 'static> {
        if self.fenced || !self.pruner.is_due(self.published) {
            return None;
        }
        Some(prune::run(Store::clone(&self.store), self.job.clone(), self.published))
    }

    fn check_successor(&self, commit: &Commit) -> Result<()> {
        if self.fenced {
            return Err(fenced(&self.job, commit.epoch, "this writer was fenced before"));
        }
        let fits = commit.job == self.job
            && commit.epoch == self.next_epoch()
            && commit.writer == self.writer
            && commit.generation == self.generation
            && commit.format == COMMIT_FORMAT;
        if !fits {
            let what =
                format!("commit {} does not follow the ledger of '{}'", commit.epoch, self.job);
            return Err(Error::internal(what));
        }
        if self.published != self.newest {
            let what = format!("job '{}': epoch {} is not published yet", self.job, self.newest);
            return Err(Error::internal(what));
        }
        Ok(())
    }

    async fn take_slot(&self, path: &Path, bytes: &Bytes, epoch: u64) -> Result<()> {
        let outcome = match store::put_new(&self.store, path, bytes.clone()).await {
            Ok(outcome) => outcome,
            // No clear answer: the slot itself knows.
            Err(error) => match store::get(&self.store, path).await? {
                Some(found) if found == *bytes => PutOutcome::Created,
                Some(_) => PutOutcome::Exists,
                None => return Err(error),
            },
        };
        if outcome == PutOutcome::Exists {
            return Err(fenced(&self.job, epoch, "another record has this epoch"));
        }
        let milestone = slot(&folder(&self.job), milestone_above(epoch));
        if store::get(&self.store, &milestone).await?.is_some() {
            // The slot was pruned long ago; take our late record out again.
            store::delete(&self.store, path).await?;
            return Err(fenced(&self.job, epoch, "another writer is far ahead"));
        }
        Ok(())
    }
}

/// Reads the commit of one epoch, `None` if there is none.
///
/// # Errors
/// `TM701` (kind `Corrupt`) naming the object if it is malformed, `TM530` if the store does not
/// answer.
pub async fn read_commit(store: &Store, job: &str, epoch: u64) -> Result<Option<Commit>> {
    read_slot(store, &folder(job), job, epoch).await
}

/// The newest commit of a job.
///
/// # Errors
/// As [`Ledger::open`].
pub(crate) async fn newest_commit(store: &Store, job: &str) -> Result<Option<Commit>> {
    let folder = folder(job);
    let slots = listed_epochs(store, &folder).await?;
    find_latest(store, &folder, job, slots.last().copied().unwrap_or(0)).await
}

/// Finds the newest commit from a hint that may be too small, or too big by a stale listing.
async fn find_latest(store: &Store, folder: &Path, job: &str, hint: u64) -> Result<Option<Commit>> {
    // Milestones are never deleted and everything above the newest of them is still there.
    let mut from = hint.max(newest_milestone(store, folder, hint).await?);
    let mut latest = read_slot(store, folder, job, from).await?;
    if latest.is_none() {
        // The hint speaks of a record that is gone: begin at the milestone below it.
        from = from / MILESTONE_STRIDE * MILESTONE_STRIDE;
        latest = read_slot(store, folder, job, from).await?;
        if latest.is_none() && hint > 0 {
            let what = format!("the commits of job '{job}' have a hole below epoch {hint}");
            return Err(Error::corrupt("TM701", what)
                .because(format!("there is no '{}'", slot(folder, from)))
                .help("restore the object from a backup; nothing was changed"));
        }
    }
    while let Some(next) = read_slot(store, folder, job, from + 1).await? {
        from += 1;
        latest = Some(next);
    }
    Ok(latest)
}

/// The newest milestone at or above the one below `hint`: doubles its steps, then halves them.
async fn newest_milestone(store: &Store, folder: &Path, hint: u64) -> Result<u64> {
    let there = async |index: u64| -> Result<bool> {
        Ok(store::get(store, &slot(folder, index * MILESTONE_STRIDE)).await?.is_some())
    };
    let mut found = hint / MILESTONE_STRIDE;
    let mut step = 1;
    while there(found + step).await? {
        found += step;
        step *= 2;
    }
    while step > 1 {
        step /= 2;
        if there(found + step).await? {
            found += step;
        }
    }
    Ok(found * MILESTONE_STRIDE)
}

/// Reads the record of one slot, whatever job it is of: for who looks from outside.
///
/// # Errors
/// As [`read_commit`].
pub(crate) async fn read_record(store: &Store, path: &Path) -> Result<Option<Commit>> {
    let parse = |bytes: Bytes| {
        let commit: Commit = seal::unseal(&bytes).map_err(|reason| malformed(path, reason))?;
        if commit.format != COMMIT_FORMAT {
            let newer =
                format!("it has format {}, this version knows {COMMIT_FORMAT}", commit.format);
            return Err(
                malformed(path, newer).help("run the version that wrote it, or a newer one")
            );
        }
        Ok(commit)
    };
    store::get_checked(store, path, parse).await
}

fn malformed(path: &Path, reason: String) -> Error {
    Error::corrupt("TM701", format!("commit '{path}' is malformed"))
        .because(reason)
        .help("restore the object from a backup; nothing was changed")
}

async fn read_slot(store: &Store, folder: &Path, job: &str, epoch: u64) -> Result<Option<Commit>> {
    if epoch == 0 {
        return Ok(None);
    }
    let path = slot(folder, epoch);
    let Some(commit) = read_record(store, &path).await? else {
        return Ok(None);
    };
    if commit.job != job || commit.epoch != epoch {
        let other = format!("it says job '{}', epoch {}", commit.job, commit.epoch);
        return Err(malformed(&path, other));
    }
    Ok(Some(commit))
}

fn folder(job: &str) -> Path {
    Path::from(FOLDER).join(job)
}

pub(crate) fn slot(folder: &Path, epoch: u64) -> Path {
    folder.clone().join(format!("{epoch:020}.json"))
}

fn milestone_above(epoch: u64) -> u64 {
    (epoch / MILESTONE_STRIDE + 1) * MILESTONE_STRIDE
}

fn fenced(job: &str, epoch: u64, reason: &str) -> Error {
    let what = format!("job '{job}' may not write epoch {epoch}");
    Error::new(ErrorKind::Fenced, "TM702", what)
        .because(reason)
        .help("stop this process, or let it recover the job from the bucket")
}
