//! Lost log data: what marks a record that was read, and what is reported of records that a job
//! can no longer read. Ranges of offsets are half-open.

use serde::{Deserialize, Serialize};

use crate::Micros;

/// A record that was read, known well enough to notice another one in its place. In JSON:
/// `[offset, timestamp, crc]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64, u32)", into = "(i64, i64, u32)")]
pub struct RecordMark {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds, -1 if the log has none.
    pub timestamp_ms: i64,
    /// CRC32C of key and payload.
    pub crc32c: u32,
}

impl From<(i64, i64, u32)> for RecordMark {
    fn from((offset, timestamp_ms, crc32c): (i64, i64, u32)) -> Self {
        Self { offset, timestamp_ms, crc32c }
    }
}

impl From<RecordMark> for (i64, i64, u32) {
    fn from(mark: RecordMark) -> Self {
        (mark.offset, mark.timestamp_ms, mark.crc32c)
    }
}

/// What happened to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Records were deleted before they were read: retention, or an administrator.
    Expired,
    /// The log was cut: what it holds in the range now, if anything, is not what was read there.
    Cut,
    /// The topic was deleted and made anew: the range is of the old one.
    Remade,
    /// The topic or the partition is not there.
    Gone,
    /// The operator chose to go on behind them.
    Skipped,
}

impl std::fmt::Display for LossKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "deleted before they were read",
            Self::Cut => "the log was cut",
            Self::Remade => "the topic was deleted and made anew",
            Self::Gone => "the partition is gone",
            Self::Skipped => "skipped by choice",
        })
    }
}

/// One range of offsets of one partition that does not continue what a job has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// One past the last offset. Of a log that is gone: as far as it was known to reach.
    pub to: i64,
    /// What happened.
    pub kind: LossKind,
    /// Offsets in the range that were never read: at most so many records are lost.
    pub lost: u64,
    /// Where reading went on, `None` until the operator has chosen.
    pub resumed_at: Option<i64>,
    /// When the loss was accepted (wall clock, for people only).
    pub accepted_at: Option<Micros>,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition, from, to, kind, .. } = self;
        write!(f, "partition {partition}: records [{from}, {to}): {kind}")
    }
}
