//! Batches on their way from the log to the operators.

use arrow_array::{Int64Array, RecordBatch};
use bytes::Bytes;

use crate::PartitionId;

/// One log record as read.
#[derive(Debug, Clone)]
pub struct RawRecord {
    /// Offset in the partition.
    pub offset: i64,
    /// Record timestamp, milliseconds since the epoch; -1 if the log has none.
    pub timestamp_ms: i64,
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
}

/// Consecutive records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// The partition all records are of.
    pub partition: PartitionId,
    /// The records.
    pub records: Vec<RawRecord>,
    /// Next offset to read after this batch (may exceed the last record's offset + 1 where the log
    /// has compaction gaps or control records).
    pub next_offset: i64,
}

/// Decoded rows of one partition, ready for the operators.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// The partition all rows are of.
    pub partition: PartitionId,
    /// All declared columns of the source, in declared order (computed and metadata included).
    pub rows: RecordBatch,
    /// Event time of each row in microseconds; `None` if the source declares no watermark.
    pub event_time: Option<Int64Array>,
    /// For each row the index of its record in the raw batch it came from.
    pub record_index: Vec<u32>,
    /// The offset of each record of that raw batch; empty if it is not known.
    pub offsets: Vec<i64>,
}
