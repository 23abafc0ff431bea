//! Revisions on their way to the table and to the record of what was changed.
//!
//! A revision replaces all rows of a closed window. What differs, key by key, goes through the
//! outbox to the topic `<view>.revisions`, which reads as the relation `<view>$revisions`.

use std::collections::{BTreeMap, HashSet};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch},
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Int64Type, TimeUnit},
    error::ArrowError,
};
use bytes::Bytes;
use serde_json::json;
use tidemill_connectors::format::json;
use tidemill_contract::{Emission, EmissionKind, Error, Result, WindowBounds};
use tidemill_sql::{catalog::RegisteredQuery, parse::Late};

use super::{receipts::QUERY_NUMBER, run::Run};
use crate::{
    outbox::{OutboxRecord, OutboxTarget, sequence_id},
    quarantine::rfc3339,
};

/// The topic of what late rows changed in a view.
pub(crate) fn revisions_topic(view: &str) -> String {
    format!("{view}.revisions")
}

/// Where the rows of a view tell their window: index and name.
#[derive(Debug, Clone)]
pub(crate) struct WindowColumns {
    pub(crate) start: (usize, String),
    pub(crate) end: (usize, String),
}

impl WindowColumns {
    /// Those of a view that may be revised.
    pub(crate) fn of(query: &RegisteredQuery) -> Option<Self> {
        let (start, end) = match query.late {
            Late::Revise(_) => query.plan.window_columns?,
            _ => return None,
        };
        let column = |index: usize| (index, query.schema.field(index).name().clone());
        Some(Self { start: column(start), end: column(end) })
    }
}

/// The new rows of a closed window.
#[derive(Debug, Clone)]
pub(crate) struct RevisedWindow {
    pub(crate) window: WindowBounds,
    /// How many rows it had.
    pub(crate) before: u64,
    pub(crate) rows: RecordBatch,
}

impl RevisedWindow {
    /// Of a revision.
    pub(crate) fn of(emission: Emission) -> Result<Self> {
        match (emission.window, emission.kind) {
            (Some(window), EmissionKind::Revision { before, .. }) => {
                Ok(Self { window, before: before.num_rows() as u64, rows: emission.rows })
            }
            _ => Err(Error::internal("final rows are no revision")),
        }
    }
}

/// The rows that are not of the windows; counts the others by window.
pub(crate) fn take_windows(
    batch: &RecordBatch,
    columns: &WindowColumns,
    windows: &HashSet<WindowBounds>,
    taken: &mut BTreeMap<WindowBounds, u64>,
) -> Result<RecordBatch> {
    let fail = |error: ArrowError| Error::internal(format!("rows do not tell a window: {error}"));
    let starts = micros(batch.column(columns.start.0)).map_err(fail)?;
    let ends = micros(batch.column(columns.end.0)).map_err(fail)?;
    let (starts, ends) = (starts.as_primitive::<Int64Type>(), ends.as_primitive::<Int64Type>());
    let mut keep = Vec::with_capacity(batch.num_rows());
    for (start, end) in starts.values().iter().zip(ends.values()) {
        let window = WindowBounds { start: *start, end: *end };
        let stays = !windows.contains(&window);
        if !stays {
            *taken.entry(window).or_default() += 1;
        }
        keep.push(stays);
    }
    if keep.iter().all(|stays| *stays) {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, &BooleanArray::from(keep)).map_err(fail)
}

fn micros(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    cast(&cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone))?, &DataType::Int64)
}

impl Run<'_> {
    /// Writes down what a revision changed.
    pub(super) fn keep_revision(&mut self, emission: &Emission) -> Result<()> {
        let (Some(window), EmissionKind::Revision { before, late_rows }) =
            (emission.window, &emission.kind)
        else {
            return Ok(());
        };
        let view = &emission.query;
        let query = self.config.catalog.query(view);
        let keys = query.map(|query| query.plan.key_columns.as_slice()).unwrap_or_default();
        let target = OutboxTarget::Topic { name: revisions_topic(view) };
        let epoch = self.ledger.next_epoch();
        for (key, before, after) in changes(before, &emission.rows, keys)? {
            let record = json!({
                "view": view,
                QUERY_NUMBER: self.config.outputs.get(view),
                "window_start": rfc3339(window.start),
                "window_end": rfc3339(window.end),
                "key": key,
                "before": before,
                "after": after,
                "epoch": epoch,
                "late_rows": late_rows,
            });
            let record = OutboxRecord {
                id: sequence_id(&self.config.name, epoch, self.outbox.len()),
                key: Some(Bytes::from(key)),
                payload: Some(Bytes::from(record.to_string())),
                headers: Vec::new(),
                timestamp_ms: None,
            };
            self.outbox.push(&target, record)?;
        }
        Ok(())
    }
}

/// A key with its row before and after, as JSON.
type Change = (String, Option<String>, Option<String>);

/// The rows that differ, in order of their keys.
fn changes(before: &RecordBatch, after: &RecordBatch, keys: &[usize]) -> Result<Vec<Change>> {
    let mut rows: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (batch, is_after) in [(before, false), (after, true)] {
        let projected = batch
            .project(keys)
            .map_err(|e| Error::internal(format!("key columns cannot be taken: {e}")))?;
        let names = if keys.is_empty() { Vec::new() } else { json::encode(&projected)? };
        for (index, row) in json::encode(batch)?.iter().enumerate() {
            let key = names.get(index).map_or_else(|| "{}".to_owned(), text);
            let entry = rows.entry(key).or_default();
            if is_after { entry.1.push(text(row)) } else { entry.0.push(text(row)) }
        }
    }
    let mut changes = Vec::new();
    for (key, (old, new)) in rows {
        let (old, new) = (only_in(&old, &new), only_in(&new, &old));
        for index in 0..old.len().max(new.len()) {
            changes.push((key.clone(), old.get(index).cloned(), new.get(index).cloned()));
        }
    }
    Ok(changes)
}

/// What is in one list and not in the other, as often as it is, sorted.
fn only_in(these: &[String], others: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for other in others {
        *counts.entry(other).or_default() += 1;
    }
    let mut left = Vec::new();
    for this in these {
        match counts.get_mut(this) {
            Some(count) if *count > 0 => *count -= 1,
            _ => left.push(this.clone()),
        }
    }
    left.sort();
    left
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
