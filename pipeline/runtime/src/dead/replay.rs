//! `REPLAY DEAD`: page by page through the dead rows of a source; what fits is submitted.

use std::collections::HashSet;

use bytes::Bytes;
use tidemill_connectors::{log::kafka::KafkaLog, store::Store};
use tidemill_contract::{RawRecord, Result, RowFault, SourceSpec};
use tidemill_sql::parse::ReplayDead;

use super::{
    Book,
    book::{Submission, encode},
    check::Checker,
    original::{self, Original},
    pages::Pages,
    row::DeadRow,
    select, topic,
};
use crate::writer::WriterSlot;

/// Submit, or only say what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Submit.
    Submit,
    /// Count only.
    Count,
}

/// What became of the dead rows that were meant.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rows the condition holds for.
    pub(crate) selected: u64,
    /// Submitted.
    pub(crate) replayed: u64,
    /// The source would refuse them again.
    pub(crate) still_bad: u64,
    /// Submitted before.
    pub(crate) skipped: u64,
    /// The expression gave NULL.
    pub(crate) left_out: u64,
    /// Not kept whole, and gone from where they came from.
    pub(crate) not_available: u64,
    /// A reason for people: of the first row that was not submitted.
    pub(crate) example: Option<String>,
}

/// One statement at work.
pub(crate) struct Replay<'a> {
    /// Where the dead rows are.
    pub(crate) log: &'a KafkaLog,
    /// Where the source's topic is.
    pub(crate) source_log: &'a KafkaLog,
    /// What it is written with.
    pub(crate) writer: &'a WriterSlot,
    pub(crate) store: &'a Store,
    pub(crate) spec: &'a SourceSpec,
    pub(crate) is_bounded: bool,
    pub(crate) mode: Mode,
}

/// A dead row on its way back.
struct Candidate {
    row: DeadRow,
    original: Original,
}

impl Replay<'_> {
    /// Runs it to its end.
    pub(crate) async fn run(&self, statement: &ReplayDead) -> Result<Outcome> {
        let mut book = Book::load(self.store, &self.spec.name).await?;
        if self.mode == Mode::Submit {
            book.finish(self.source_log, self.writer).await?;
        }
        let mut checker = Checker::new(self.spec, self.is_bounded)?;
        let dead = topic(&self.spec.name);
        let mut pages = Pages::open(self.log, &dead, &[].into()).await?;
        let mut outcome = Outcome::default();
        let mut seen = HashSet::new();
        while let Some(page) = pages.next().await? {
            let mut rows = Vec::with_capacity(page.len());
            for (_, record) in page {
                let payload = record.payload.unwrap_or_default();
                rows.push(DeadRow::read(&self.spec.name, &payload)?);
            }
            let rows = self.choose(statement, rows, &book, &mut seen, &mut outcome).await?;
            let candidates = self.complete(rows, &mut outcome).await?;
            let candidates = transform(statement, candidates, &mut outcome).await?;
            let mut rows = keep_good(&mut checker, candidates, &mut outcome)?;
            let left = statement.limit.map_or(usize::MAX, |limit| {
                limit.saturating_sub(usize::try_from(outcome.replayed).unwrap_or(usize::MAX))
            });
            rows.truncate(left);
            outcome.replayed += rows.len() as u64;
            if self.mode == Mode::Submit && !rows.is_empty() {
                let rows: Vec<Submission> =
                    rows.into_iter().map(|row| submission(row, &book)).collect();
                book.submit(self.source_log, self.writer, self.spec.topic(), &rows).await?;
            }
            if statement.limit.is_some_and(|limit| outcome.replayed >= limit as u64) {
                break;
            }
        }
        Ok(outcome)
    }

    /// The rows of a page that are meant and were not submitted before.
    async fn choose(
        &self,
        statement: &ReplayDead,
        rows: Vec<DeadRow>,
        book: &Book,
        seen: &mut HashSet<String>,
        outcome: &mut Outcome,
    ) -> Result<Vec<DeadRow>> {
        let chosen: HashSet<usize> = match &statement.condition {
            None => (0..rows.len()).collect(),
            Some(condition) => {
                let kept = rows.iter().map(DeadRow::kept).collect::<Result<Vec<Bytes>>>()?;
                let all: Vec<&DeadRow> = rows.iter().collect();
                select::matching(condition, &all, &kept).await?.into_iter().collect()
            }
        };
        outcome.selected += chosen.len() as u64;
        let mut found = Vec::with_capacity(chosen.len());
        for (index, row) in rows.into_iter().enumerate() {
            if !chosen.contains(&index) {
                continue;
            }
            let was_submitted = book.times(&row.id) > 0 && !statement.force;
            if was_submitted || !seen.insert(row.id.clone()) {
                outcome.skipped += 1;
            } else {
                found.push(row);
            }
        }
        Ok(found)
    }

    /// The whole of each row.
    async fn complete(&self, rows: Vec<DeadRow>, outcome: &mut Outcome) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::with_capacity(rows.len());
        for row in rows {
            let kept = row.kept()?;
            let original = if row.was_cut_at_the_source() {
                Err("it was too long when it was read".to_owned())
            } else if row.is_cut(&kept) {
                original::fetch(&row, self.spec, self.source_log).await
            } else {
                Ok(Original { payload: kept, key: row.key()?, headers: row.headers()? })
            };
            match original {
                Ok(original) => candidates.push(Candidate { row, original }),
                Err(gone) => {
                    outcome.not_available += 1;
                    note(outcome, &row, &gone);
                }
            }
        }
        Ok(candidates)
    }
}

/// The new payloads.
async fn transform(
    statement: &ReplayDead,
    candidates: Vec<Candidate>,
    outcome: &mut Outcome,
) -> Result<Vec<Candidate>> {
    let Some(transform) = &statement.transform else { return Ok(candidates) };
    let rows: Vec<&DeadRow> = candidates.iter().map(|candidate| &candidate.row).collect();
    let raw: Vec<Bytes> =
        candidates.iter().map(|candidate| candidate.original.payload.clone()).collect();
    let payloads = select::payloads(transform, &rows, &raw).await?;
    let mut changed = Vec::with_capacity(candidates.len());
    for (mut candidate, payload) in candidates.into_iter().zip(payloads) {
        match payload {
            Some(payload) => {
                candidate.original.payload = payload;
                changed.push(candidate);
            }
            None => outcome.left_out += 1,
        }
    }
    Ok(changed)
}

/// Those the source will take.
fn keep_good(
    checker: &mut Checker,
    candidates: Vec<Candidate>,
    outcome: &mut Outcome,
) -> Result<Vec<Candidate>> {
    let records = candidates.iter().zip(0_i64..).map(|(candidate, offset)| RawRecord {
        offset,
        timestamp_ms: candidate.row.timestamp_ms.unwrap_or(-1),
        key: candidate.original.key.clone(),
        payload: Some(candidate.original.payload.clone()),
        headers: candidate.original.headers.clone(),
    });
    let faults: Vec<(usize, RowFault)> = checker.faults(&records.collect::<Vec<_>>())?;
    let bad: HashSet<usize> = faults.iter().map(|(index, _)| *index).collect();
    outcome.still_bad += bad.len() as u64;
    if let Some((index, fault)) = faults.first()
        && let Some(candidate) = candidates.get(*index)
    {
        note(outcome, &candidate.row, &format!("{}: {}", fault.class, fault.reason));
    }
    let good = candidates.into_iter().enumerate().filter(|(index, _)| !bad.contains(index));
    Ok(good.map(|(_, candidate)| candidate).collect())
}

fn submission(candidate: Candidate, book: &Book) -> Submission {
    let Candidate { row, original } = candidate;
    let headers = original.headers.iter().map(|(name, value)| (name.clone(), encode(value)));
    Submission {
        replay_of: row.replay_of.clone().unwrap_or_else(|| row.id.clone()),
        attempt: row.attempt.saturating_add(book.times(&row.id)).saturating_add(1),
        partition: row.partition,
        key: original.key.as_deref().map(encode),
        headers: headers.collect(),
        timestamp_ms: row.timestamp_ms,
        payload: encode(&original.payload),
        dead_id: row.id,
    }
}

fn note(outcome: &mut Outcome, row: &DeadRow, reason: &str) {
    if outcome.example.is_none() {
        outcome.example = Some(format!("{}: {reason}", row.place_text()));
    }
}
