//! The commits of each job: dense from the oldest kept one, sealed, and all they name is there.

use std::collections::BTreeSet;

use object_store::{ObjectStoreExt, path::Path};
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Commit, Error, OutboxFile, Result};

use super::{Depth, Report, Severity};
use crate::{
    ledger::{self, MILESTONE_STRIDE},
    publish::read_staged,
};

const NEWEST: &str = "the job does not start: its newest commit, or what it needs, is not whole";
const OLDER: &str = "nothing needs it to go on; the job's history has a gap";

pub(super) async fn check(store: &Store, depth: Depth, report: &mut Report) -> Result<()> {
    let folder = Path::from("commits");
    let listed = store::list(store, &folder).await?;
    let jobs: BTreeSet<Path> = listed
        .iter()
        .filter_map(|path| path.parts().nth(1))
        .map(|job| Path::from_iter([folder.parts().next(), Some(job)].into_iter().flatten()))
        .collect();
    for job in jobs {
        check_job(store, &job, depth, report).await?;
    }
    Ok(())
}

async fn check_job(store: &Store, folder: &Path, depth: Depth, report: &mut Report) -> Result<()> {
    report.count("jobs");
    let epochs = ledger::listed_epochs(store, folder).await?;
    let Some(newest) = epochs.last().copied() else { return Ok(()) };
    let first = ledger::first_kept(newest);
    let listed: BTreeSet<u64> = epochs.iter().copied().collect();
    for epoch in expected(first, newest) {
        let path = ledger::slot(folder, epoch);
        let severity = if epoch == newest { Severity::Damage } else { Severity::Warning };
        let meaning = if epoch == newest { NEWEST } else { OLDER };
        report.count("commits");
        match ledger::read_record(store, &path).await {
            Ok(Some(commit)) => {
                check_named(store, &path, &commit, epoch == newest, depth, report).await?;
            }
            // It was pruned while this looked, if newer commits came; a hole otherwise.
            Ok(None) if !listed.contains(&epoch) => {
                let error = Error::corrupt("TM701", format!("commit '{path}' is missing"))
                    .because("later commits are there");
                report.take(&path, Severity::Damage, error, "the job does not start")?;
            }
            Ok(None) => {}
            Err(error) => report.take(&path, severity, error, meaning)?,
        }
    }
    Ok(())
}

/// The epochs whose records must be there: the kept ones, and the milestones before them.
fn expected(first_kept: u64, newest: u64) -> Vec<u64> {
    let milestones = (1..first_kept).filter(|epoch| epoch.is_multiple_of(MILESTONE_STRIDE));
    milestones.chain(first_kept..=newest).collect()
}

/// What a commit names: state and outbox.
async fn check_named(
    store: &Store,
    record: &Path,
    commit: &Commit,
    is_newest: bool,
    depth: Depth,
    report: &mut Report,
) -> Result<()> {
    let milestone = commit.epoch.is_multiple_of(MILESTONE_STRIDE);
    for object in commit.objects() {
        let path = Path::parse(&object.path).unwrap_or_else(|_| Path::from(object.path.as_str()));
        report.count("state and outbox objects");
        let read_bytes = is_newest || depth == Depth::Full;
        let found = if read_bytes {
            read_staged(store, object).await.map(|bytes| report.bytes += bytes.len() as u64)
        } else {
            check_size(store, &path, object).await
        };
        let Err(error) = found else { continue };
        // Milestones outlive what they name, and pruning goes on while this looks.
        let is_gone = store::get(store, record).await?.is_none();
        if !is_newest && (milestone || is_gone) {
            continue;
        }
        let (severity, meaning) =
            if is_newest { (Severity::Damage, NEWEST) } else { (Severity::Warning, OLDER) };
        report.take(&path, severity, error, meaning)?;
    }
    Ok(())
}

async fn check_size(store: &Store, path: &Path, object: &OutboxFile) -> Result<()> {
    let wrong = |reason: String| {
        Error::corrupt("TM703", format!("object '{path}' is not what its commit names"))
            .because(reason)
            .help("restore the object from a backup; nothing was changed")
    };
    match store.head(path).await {
        Ok(meta) if meta.size == object.bytes => Ok(()),
        Ok(meta) => Err(wrong(format!("it has {} bytes, not {}", meta.size, object.bytes))),
        Err(object_store::Error::NotFound { .. }) => Err(wrong("it is not there".to_owned())),
        Err(error) => {
            Err(Error::unavailable("TM530", format!("cannot look at '{path}' in the bucket"))
                .because(error.to_string()))
        }
    }
}
