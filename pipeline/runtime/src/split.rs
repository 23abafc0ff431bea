//! Queries leave a job for a job of their own, without losing or repeating a row.
//!
//! The protocol: the leaving job's next commit N+1 is its commit N once more, without those
//! queries and with their names under `splits`. Its slot is the fence as ever, so of two processes
//! only one can part a job, and from this record on the queries are the other job's. That job's
//! commit 1 is made from N+1 and N: the same positions, watermark and state, and of N's files and
//! records those for the queries' places, whether or not they were delivered: files enter a table
//! under the name of the commit they were staged for, and records are looked up by id or length,
//! so nothing is shown twice.
//!
//! | the process dies | who starts finds | and so |
//! |---|---|---|
//! | before N+1 | the job at N with all its queries | they fail again, it parts again |
//! | after N+1 | `splits` and no commit of the other job | makes that commit 1 first |
//! | after commit 1 | two jobs | both go on |
//!
//! Invariants: N is published before N+1 except at the places that leave; commit N+2 is made only
//! after every job of N+1's `splits` has its commit 1.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_connectors::{failpoint, log::kafka::KafkaLog, store::Store};
use tidemill_contract::{
    Clock, Commit, Error, ErrorKind, Origin, PartitionProgress, Result, Split, SystemClock,
};

use crate::{
    delivery::{Delivery, Place},
    job::state::self_contained,
    ledger::{Ledger, read_commit},
    outbox::{Outbox, OutboxTarget},
    publish::{Staged, read_outbox, read_staged},
    recover::{Claimant, lost},
};

/// A parting that is to become true.
#[derive(Debug)]
pub(crate) struct Parting<'a> {
    /// The job that goes on.
    pub(crate) job: &'a str,
    pub(crate) writer: &'a str,
    /// Knows whether another process has taken the job over: then it is not ours to part.
    pub(crate) claimant: &'a Claimant,
    pub(crate) catalog_version: u64,
    /// Where the job began to read, for one without a commit.
    pub(crate) start: BTreeMap<i32, PartitionProgress>,
    /// Its queries from here on.
    pub(crate) staying: &'a BTreeMap<String, u64>,
    /// The others, by their new job.
    pub(crate) splits: &'a BTreeMap<String, Split>,
    /// Places that nobody delivers to any more.
    pub(crate) left_out: &'a BTreeSet<Place>,
}

/// Parts a job: its next commit, then the first commit of each new job.
///
/// # Errors
/// Kind `Fenced` if another process has the job; kind `Unavailable` if trying again may help: it
/// is then unknown whether the job is parted, and trying again finds out.
pub(crate) async fn begin(store: &Store, log: &KafkaLog, parting: Parting<'_>) -> Result<()> {
    let writer = parting.writer.to_owned();
    let (mut ledger, newest) = Ledger::open(Store::clone(store), parting.job, writer).await?;
    if parting.claimant.has_lost(newest.as_ref()) {
        return Err(lost(parting.job, newest.map_or(0, |commit| commit.epoch)));
    }
    if let Some(commit) = &newest {
        // An earlier try may have come this far.
        finish_all(store, parting.writer, commit).await?;
        if commit.splits == *parting.splits {
            return Ok(());
        }
        let mut delivery = Delivery::new(Store::clone(store), log.clone());
        delivery.skip(parting.left_out.iter().cloned());
        delivery.skip(parting.splits.values().flat_map(places));
        let outbox = match &commit.outbox {
            Some(object) => read_outbox(store, object).await?,
            None => Outbox::new(),
        };
        delivery.roll_forward(&mut ledger, commit, &outbox).await?;
        ledger.mark_published(commit.epoch);
    }
    let commit = without(parting, &ledger, newest);
    failpoint::reached("commit.before_split")?;
    ledger.commit(commit.clone()).await?;
    failpoint::reached("commit.after_split")?;
    finish_all(store, &commit.writer, &commit).await
}

/// Makes the first commit of every job that queries went to with this commit, where it is missing.
///
/// # Errors
/// Kind `Unavailable` if trying again may help, `Corrupt` if something the commits name is damaged.
pub(crate) async fn finish_all(store: &Store, writer: &str, commit: &Commit) -> Result<()> {
    for (job, split) in &commit.splits {
        finish(store, writer, commit, job, split).await?;
    }
    Ok(())
}

async fn finish(
    store: &Store,
    writer: &str,
    base: &Commit,
    job: &str,
    split: &Split,
) -> Result<()> {
    let (mut ledger, newest) = Ledger::open(Store::clone(store), job, writer.to_owned()).await?;
    if newest.is_some() {
        return Ok(());
    }
    let before = match base.epoch {
        1 => None,
        epoch => Some(read_commit(store, &base.job, epoch - 1).await?.ok_or_else(|| {
            let what = format!("commit {} of job '{}' is missing", epoch - 1, base.job);
            Error::corrupt("TM701", what).because(format!("job '{job}' goes on from it"))
        })?),
    };
    let commit = first_commit(store, &ledger, base, before, split).await?;
    failpoint::reached("commit.before_part")?;
    match ledger.commit(commit).await {
        // Another process does the same: its record says the same as ours.
        Err(error) if error.kind == ErrorKind::Fenced => {}
        outcome => outcome?,
    }
    failpoint::reached("commit.after_part")
}

/// The job's newest commit again, as one that shows nothing and has fewer queries.
fn without(parting: Parting<'_>, ledger: &Ledger, newest: Option<Commit>) -> Commit {
    let draft = ledger.draft();
    let leaving = parting.splits.values().flat_map(|split| split.queries.keys());
    let leaving: BTreeSet<&String> = leaving.collect();
    let mut commit = match newest {
        Some(newest) => Commit {
            epoch: draft.epoch,
            writer: draft.writer,
            generation: draft.generation,
            files: Vec::new(),
            revised: Vec::new(),
            outbox: None,
            topic_floor: BTreeMap::new(),
            origin: None,
            ..newest
        },
        None => {
            Commit { partitions: parting.start, catalog_version: parting.catalog_version, ..draft }
        }
    };
    commit.written_at = SystemClock.now_micros();
    commit.drained = false;
    commit.queries = Some(parting.staying.clone());
    commit.splits = parting.splits.clone();
    commit.counters.retain(|name, _| {
        name.rsplit_once('.').is_none_or(|(query, _)| !leaving.iter().any(|left| *left == query))
    });
    commit
}

/// Commit 1 of the new job. Everything it names is its own, so that the other job may forget it.
async fn first_commit(
    store: &Store,
    ledger: &Ledger,
    base: &Commit,
    before: Option<Commit>,
    split: &Split,
) -> Result<Commit> {
    let state = match &base.state {
        Some(object) => self_contained(store, &read_staged(store, object).await?).await?,
        None => Vec::new(),
    };
    let mut outbox = Outbox::new();
    let mut commit = ledger.draft();
    if let Some(before) = before {
        if let Some(object) = &before.outbox {
            let takes = |target: &OutboxTarget| match target {
                OutboxTarget::Topic { name } => split.topics.contains(name),
                OutboxTarget::File { sink, .. } => split.file_sinks.contains(sink),
            };
            outbox = read_outbox(store, object).await?.only(takes)?;
        }
        commit.origin = before.origin.or(Some(Origin { job: before.job, epoch: before.epoch }));
        commit.files = before.files;
        commit.files.retain(|file| split.tables.contains(&file.view));
        commit.revised = before.revised;
        commit.revised.retain(|table| split.tables.contains(&table.view));
        commit.topic_floor = before.topic_floor;
        commit.topic_floor.retain(|topic, _| split.topics.contains(topic));
        commit.counters = before.counters;
    }
    let staging = Staged::new(Store::clone(store), ledger.job(), commit.epoch);
    commit.state = staging.stage_state(state).await?;
    commit.outbox = staging.stage_outbox(&outbox).await?;
    commit.written_at = SystemClock.now_micros();
    commit.partitions = base.partitions.clone();
    commit.watermark = base.watermark;
    commit.file_sink_bytes = base.file_sink_bytes.clone();
    commit.file_sink_bytes.retain(|sink, _| split.file_sinks.contains(sink));
    commit.catalog_version = base.catalog_version;
    commit.queries = Some(split.queries.clone());
    Ok(commit)
}

fn places(split: &Split) -> impl Iterator<Item = Place> {
    let tables = split.tables.iter().cloned().map(Place::Table);
    let topics = split.topics.iter().cloned().map(Place::Topic);
    tables.chain(topics).chain(split.file_sinks.iter().cloned().map(Place::File))
}
