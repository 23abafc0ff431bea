//! Revised windows: their old rows leave the table and their new ones enter it, in one Delta
//! commit with `txn(app, version)`.
//!
//! The files that hold the old rows are found when it is done, by their statistics, and written
//! again without them. Why not earlier: a compaction, or another engine, may move rows between
//! files at any time. For the same reason nothing is committed on top of a version that was not
//! looked at: delta-rs does not see that a compaction removed the same file, and old rows would
//! come back. A try that ends half way leaves files nobody names, no more.

use std::collections::HashSet;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use deltalake_core::DeltaTable;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::kernel::{Action, EagerSnapshot, Remove, Transaction};
use deltalake_core::protocol::DeltaOperation;
use object_store::path::Path;
use tidemill_contract::{Micros, Result, RevisedTable, StagedFile};

use super::compact::{damaged, put_compacted, read};
use super::{TRIES_MAX, add_actions, commit, failure, load_before, location, missing};
use crate::store::Store;

/// Bytes of rewritten files that become one: bounds the memory it needs, and small files of
/// windows that are revised often come together on the way.
const REWRITE_BYTES: i64 = 32 << 20;
/// Statistics in a log may be cut to milliseconds.
const CUT: Micros = 1_000;

/// A file that may hold rows of the windows.
struct Candidate {
    path: Path,
    bytes: i64,
    remove: Remove,
}

/// Replaces the rows of the revised windows by those in `files`. A version that is there already,
/// or an older one, does nothing: false.
///
/// # Errors
/// `TM565` if the table is not there, `TM564` or `TM566` if it cannot be read or changed, `TM567`
/// if a file cannot be read back whole.
pub async fn revise_files(
    store: &Store,
    files: &[StagedFile],
    revised: &RevisedTable,
    app_id: &str,
    version: i64,
) -> Result<bool> {
    let view = revised.view.as_str();
    let mut last = missing(view);
    for _ in 0..TRIES_MAX {
        let Some(table) = load_before(store, view, app_id, version).await? else {
            return Ok(false);
        };
        let mut actions = Box::pin(rewrite(store, &table, revised)).await?;
        actions.extend(add_actions(store, view, files).await?);
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_application_transaction(Transaction::new(app_id, version));
        let operation = DeltaOperation::Update { predicate: None };
        match commit(&table, actions, operation, properties).await {
            Ok(()) => return Ok(true),
            // Whether it went through is for the next look at the log to say.
            Err(error) => last = failure("revise", view, &error),
        }
    }
    Err(last)
}

/// Removes of the files that hold rows of the windows, adds of files with their other rows.
async fn rewrite(store: &Store, table: &DeltaTable, revised: &RevisedTable) -> Result<Vec<Action>> {
    let view = revised.view.as_str();
    let snapshot = table.snapshot().map_err(|error| failure("read", view, &error))?;
    let windows: HashSet<(Micros, Micros)> =
        revised.windows.iter().map(|window| (window.start, window.end)).collect();
    let mut actions = Vec::new();
    let (mut kept, mut bytes, mut removed) = (Vec::new(), 0, 0);
    for candidate in candidates(snapshot.snapshot(), revised) {
        let mut batches = Vec::new();
        read(store, &candidate.path, &mut batches).await?;
        let mut found = 0;
        let mut others = Vec::with_capacity(batches.len());
        for batch in &batches {
            let (rest, taken) = without(batch, revised, &windows)
                .ok_or_else(|| damaged(&candidate.path, "it has no window columns".to_owned()))?;
            found += taken;
            others.push(rest);
        }
        if found == 0 {
            continue;
        }
        removed += found;
        bytes += candidate.bytes;
        kept.append(&mut others);
        actions.push(Action::Remove(candidate.remove));
        if bytes >= REWRITE_BYTES {
            actions.extend(put(store, view, std::mem::take(&mut kept)).await?);
            bytes = 0;
        }
    }
    actions.extend(put(store, view, kept).await?);
    if removed != revised.rows {
        // What counts are the new rows; someone else has changed the old ones.
        tracing::warn!(view, removed, expected = revised.rows, "a table held other rows");
    }
    Ok(actions)
}

/// The files that can hold rows of one of the windows, by name.
fn candidates(snapshot: &EagerSnapshot, revised: &RevisedTable) -> Vec<Candidate> {
    let root = location(&revised.view);
    let mut candidates: Vec<Candidate> = snapshot
        .log_data()
        .iter()
        .filter(|file| {
            let stats = file.stats();
            let stats = stats.and_then(|text| serde_json::from_str(&text).ok());
            stats.is_none_or(|stats| may_hold(&stats, revised))
        })
        .map(|file| Candidate {
            path: root.parts().chain(file.object_store_path().parts()).collect(),
            bytes: file.size(),
            remove: file.remove_action(true),
        })
        .collect();
    candidates.sort_by(|left, right| left.path.cmp(&right.path));
    candidates
}

fn may_hold(stats: &serde_json::Value, revised: &RevisedTable) -> bool {
    let value = |side: &str, column: &str| micros(stats[side][column].as_str()?);
    let bounds = |column: &str| {
        let most = value("maxValues", column).map_or(Micros::MAX, |most| most.saturating_add(CUT));
        value("minValues", column).unwrap_or(Micros::MIN)..=most
    };
    let (starts, ends) = (bounds(&revised.start_column), bounds(&revised.end_column));
    let mut windows = revised.windows.iter();
    windows.any(|window| starts.contains(&window.start) && ends.contains(&window.end))
}

/// A point in time of a log's statistics; `None` if it is written in another way.
fn micros(text: &str) -> Option<Micros> {
    let zoned = chrono::DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_micros());
    let plain = || {
        let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f");
        time.map(|time| time.and_utc().timestamp_micros())
    };
    zoned.or_else(|_| plain()).ok()
}

/// The rows that are not of the windows, and how many are.
fn without(
    batch: &RecordBatch,
    revised: &RevisedTable,
    windows: &HashSet<(Micros, Micros)>,
) -> Option<(RecordBatch, u64)> {
    let times = |column: &str| {
        let column = batch.column_by_name(column)?;
        let zone = match column.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => return None,
        };
        let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone)).ok()?;
        cast(&micros, &DataType::Int64).ok()
    };
    let (starts, ends) = (times(&revised.start_column)?, times(&revised.end_column)?);
    let (starts, ends) = (starts.as_primitive::<Int64Type>(), ends.as_primitive::<Int64Type>());
    let keep: BooleanArray = (0..batch.num_rows())
        .map(|row| {
            let is_window = starts.is_valid(row) && ends.is_valid(row);
            Some(!(is_window && windows.contains(&(starts.value(row), ends.value(row)))))
        })
        .collect();
    let taken = (batch.num_rows() - keep.true_count()) as u64;
    Some((filter_record_batch(batch, &keep).ok()?, taken))
}

/// Uploads rows as one file; nothing for no rows.
async fn put(store: &Store, view: &str, batches: Vec<RecordBatch>) -> Result<Option<Action>> {
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(None);
    }
    let (_path, add) = put_compacted(store, view, batches, true).await?;
    Ok(Some(Action::Add(add)))
}
