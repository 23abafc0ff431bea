//! Takes away data files nobody needs: files of tries that never became true, and files a compaction
//! or a rewrite replaced long ago.
//!
//! Why it is safe though it deletes: for every file there is a proof that no commit can name it any
//! more, and only the last resort of the proof is a clock.
//!
//! | the file is | it goes when |
//! |---|---|
//! | named by the table, or by a kept commit of this job | never |
//! | out of the table since a Delta commit | that was longer ago than `file_retention` |
//! | staged by this job for epoch N | N is published: the slot of N is taken, and not by this file |
//! | staged by another job | it is older than `orphan_age`, and that job's newest commit does not name it |
//! | written by a compaction or a rewrite | it is older than `orphan_age`: neither runs that long |
//! | not of our naming | never |
//!
//! It never touches commit records, state or outbox objects (`ledger` prunes those), and what it
//! cannot read a proof for stays.

use std::{collections::BTreeSet, time::Duration};

use object_store::path::Path;
use tidemill_connectors::{
    sinks::delta::{self, DataFileName, FileOrigin, Unreferenced},
    store::{self, Store},
};
use tidemill_contract::{Micros, Result};

use crate::ledger;

/// When data files are looked at, and how long they stay.
#[derive(Debug, Clone, Copy)]
pub struct CleanSettings {
    /// Time between two looks of a job at its tables.
    pub interval: Duration,
    /// How long files stay whose end only a clock can tell.
    pub orphan_age: Duration,
    /// How long files stay that were taken out of a table: readers of an older version need them.
    pub file_retention: Duration,
}

impl Default for CleanSettings {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self { interval: HOUR, orphan_age: 24 * HOUR, file_retention: 7 * 24 * HOUR }
    }
}

/// What the decision about one file rests on.
struct Proof<'a> {
    job: &'a str,
    /// Newest published epoch of the job.
    published: u64,
    /// Files the kept commits of all jobs concerned name.
    named: &'a BTreeSet<String>,
    settings: CleanSettings,
    now: Micros,
}

impl Proof<'_> {
    fn allows(&self, file: &Unreferenced) -> bool {
        let Some(name) = DataFileName::of(&file.path) else { return false };
        if self.named.contains(file.path.as_ref()) {
            return false;
        }
        if let Some(removed_at) = file.removed_at {
            return self.is_past(removed_at, self.settings.file_retention);
        }
        match name.origin {
            FileOrigin::Staged { job, epoch } if job == self.job => epoch <= self.published,
            FileOrigin::Staged { .. } | FileOrigin::Compacted => {
                self.is_past(file.written_at, self.settings.orphan_age)
            }
        }
    }

    fn is_past(&self, since: Micros, age: Duration) -> bool {
        let age = Micros::try_from(age.as_micros()).unwrap_or(Micros::MAX);
        self.now.saturating_sub(since) >= age
    }
}

/// Deletes what may go from the tables of `views`, which `job` fills; `published` is the newest
/// epoch of the job that is published, `now` the wall clock. Returns the files deleted.
///
/// # Errors
/// `TM530` or `TM564` if the store does not answer, `TM701` if a commit cannot be read: what was
/// not deleted by then stays.
pub async fn clean_tables(
    store: &Store,
    job: &str,
    views: &[String],
    published: u64,
    settings: CleanSettings,
    now: Micros,
) -> Result<Vec<Path>> {
    let mut candidates = Vec::new();
    for view in views {
        candidates.extend(Box::pin(delta::unreferenced(store, view)).await?);
    }
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let named = named_files(store, job, published, &candidates).await?;
    let proof = Proof { job, published, named: &named, settings, now };
    let mut deleted = Vec::new();
    for file in candidates {
        if proof.allows(&file) {
            store::delete(store, &file.path).await?;
            deleted.push(file.path);
        }
    }
    Ok(deleted)
}

/// The files named by the kept commits of `job`, and by the newest commits of other jobs that
/// staged some of the candidates.
async fn named_files(
    store: &Store,
    job: &str,
    published: u64,
    candidates: &[Unreferenced],
) -> Result<BTreeSet<String>> {
    // Another process may have gone on since: its commits count as well.
    let newest = ledger::newest_commit(store, job).await?.map_or(0, |commit| commit.epoch);
    let mut commits = ledger::kept_commits(store, job, newest.max(published)).await?;
    let mut others = BTreeSet::new();
    for file in candidates {
        if let Some(DataFileName { origin: FileOrigin::Staged { job: other, .. }, .. }) =
            DataFileName::of(&file.path)
            && other != job
            && others.insert(other.clone())
        {
            commits.extend(ledger::newest_commit(store, &other).await?);
        }
    }
    let files = commits.into_iter().flat_map(|commit| commit.files);
    Ok(files.map(|file| file.path).collect())
}
