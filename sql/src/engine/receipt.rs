//! Receipts: for each window, which records it was computed from.
//!
//! Each slice notes how many rows it has, how many of them came behind the watermark, and the
//! lowest and highest offset of each partition they came from; a window's receipt is the sum over
//! its slices. A view over a view counts the rows it was given, and has the offsets of the windows
//! below that gave them.
//!
//! **Invariant.** A receipt depends only on the rows, their order and the watermarks, as the result
//! does; it survives a snapshot with its slice. It is never used to compute a result.

use std::collections::BTreeMap;

use datafusion::arrow::array::UInt32Array;
use serde::{Deserialize, Serialize};
use tidemill_contract::{EventBatch, Micros, WindowBounds};

use super::group::Group;

/// Where rows came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Rows, after the query's `WHERE`.
    pub rows: u64,
    /// Those among them whose time was behind the watermark when they came.
    pub behind: u64,
    /// First and last offset of their records, by partition.
    pub offsets: BTreeMap<i32, (i64, i64)>,
}

impl Provenance {
    fn add_offsets(&mut self, partition: i32, (first, last): (i64, i64)) {
        let range = self.offsets.entry(partition).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
    }

    /// Adds that of other rows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.behind += other.behind;
        for (partition, range) in &other.offsets {
            self.add_offsets(*partition, *range);
        }
    }
}

/// What is known of a window that has just been said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The query.
    pub query: String,
    /// The window.
    pub window: WindowBounds,
    /// Rows of the result.
    pub rows: u64,
    /// What it was computed from.
    pub from: Provenance,
    /// It was said before, and late rows changed it.
    pub is_revision: bool,
}

/// Where the rows of one push came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// Each from a record.
    Records(&'a EventBatch),
    /// Row `i` from row `1[i]` of another push.
    Through(&'a Origin<'a>, &'a UInt32Array),
    /// All from one window.
    Window(&'a Provenance),
}

impl Origin<'_> {
    /// Adds the offsets of the rows from `first` to `last`.
    pub(crate) fn note(&self, first: u32, last: u32, into: &mut Provenance) {
        match self {
            Self::Records(batch) => {
                let offset = |row: u32| {
                    let record = batch.record_index.get(row as usize)?;
                    batch.offsets.get(*record as usize).copied()
                };
                if let (Some(first), Some(last)) = (offset(first), offset(last)) {
                    into.add_offsets(batch.partition.0, (first, last));
                }
            }
            Self::Through(inner, rows) => {
                inner.note(rows.value(first as usize), rows.value(last as usize), into);
            }
            Self::Window(from) => {
                for (partition, range) in &from.offsets {
                    into.add_offsets(*partition, *range);
                }
            }
        }
    }
}

impl Group {
    /// Where the rows of a window came from.
    pub(super) fn provenance(&self, window: WindowBounds) -> Provenance {
        let mut from = Provenance::default();
        for (_, slice) in self.store.slices.range(window.start..window.end) {
            from.merge(&slice.from);
        }
        from
    }

    /// Writes the receipt of a window that has just been said; gives where its rows came from.
    pub(super) fn write_receipt(
        &mut self,
        client: usize,
        window: WindowBounds,
        rows: usize,
        is_revision: bool,
    ) -> Provenance {
        let from = self.provenance(window);
        let receipt = Receipt {
            query: self.clients[client].query.clone(),
            window,
            rows: rows as u64,
            from: from.clone(),
            is_revision,
        };
        self.receipts.push(receipt);
        from
    }
}

/// How many of the times lie behind the watermark.
pub(super) fn behind(times: impl Iterator<Item = Micros>, watermark: Micros) -> u64 {
    times.filter(|time| *time < watermark).count() as u64
}
