//! Marks: a few of the records read from each partition, kept in the commit, by which a log that
//! was cut or made anew is told from the one that was read.
//!
//! The last record is marked, and before it ever fewer ones: retention or compaction may take any
//! of them, and after a cut the newest one that is still the same says from where on the log is
//! another. It never reads the log itself.

use tidemill_contract::{PartitionProgress, RawBatch, RawRecord, RecordMark, RecordView};

/// Each mark may be so many times as far behind the last record as the one after it.
const SPREAD_LOG2: u32 = 2;
/// Marks kept of a partition: they reach 4^9 records back.
const MARKS_MAX: u32 = 10;

/// What a record is remembered by.
pub(super) fn mark(record: &RawRecord) -> RecordMark {
    let mut crc = payload_crc(record);
    if let Some(key) = &record.key {
        crc = crc32c::crc32c_append(crc, b"key");
        crc = crc32c::crc32c_append(crc, key);
    }
    if record.payload.is_none() {
        crc = crc32c::crc32c_append(crc, b"tombstone");
    }
    RecordMark { offset: record.offset, timestamp_ms: record.timestamp_ms, crc32c: crc }
}

fn payload_crc(record: &RawRecord) -> u32 {
    crc32c::crc32c(record.payload.as_deref().unwrap_or_default())
}

/// Takes the records of one batch into the marks of their partition.
pub(super) fn remember(progress: &mut PartitionProgress, batch: &RawBatch) {
    let nth = |index: usize| batch.get(index).map(RecordView::to_record);
    let Some(last) = batch.len().checked_sub(1).and_then(nth) else { return };
    // Read by versions that know no marks.
    progress.fingerprint = Some(payload_crc(&last));
    progress.fingerprint_offset = Some(last.offset);
    let distances = (0..MARKS_MAX).map(|step| 1_usize << (SPREAD_LOG2 * step));
    let fresh = distances.map_while(|distance| batch.len().checked_sub(distance).and_then(nth));
    let mut fresh: Vec<RecordMark> = fresh.map(|record| mark(&record)).collect();
    fresh.reverse();
    progress.marks.append(&mut fresh);
    thin(&mut progress.marks, last.offset + 1);
}

/// Keeps the newest mark at each distance.
fn thin(marks: &mut Vec<RecordMark>, next: i64) {
    let distance = |mark: &RecordMark| (next - mark.offset).max(1).ilog2().div_ceil(SPREAD_LOG2);
    let mut kept: Vec<RecordMark> = Vec::new();
    for mark in marks.drain(..).rev() {
        let step = distance(&mark);
        let newer = kept.last().map(distance);
        if step < MARKS_MAX && newer.is_none_or(|newer| step > newer) {
            kept.push(mark);
        }
    }
    kept.reverse();
    *marks = kept;
}

/// What a record must be like to be the one that was read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// All of it is known.
    Mark(RecordMark),
    /// An old commit: offset and CRC32C of the payload.
    Payload(i64, u32),
}

impl Expected {
    /// What is known of the records read from a partition, by offset.
    pub(super) fn of(progress: &PartitionProgress) -> Vec<Self> {
        if progress.marks.is_empty()
            && let (Some(crc), Some(offset)) = (progress.fingerprint, progress.fingerprint_offset)
        {
            return vec![Self::Payload(offset, crc)];
        }
        progress.marks.iter().copied().map(Self::Mark).collect()
    }

    pub(super) fn offset(&self) -> i64 {
        match self {
            Self::Mark(mark) => mark.offset,
            Self::Payload(offset, _) => *offset,
        }
    }

    pub(super) fn is(&self, record: &RawRecord) -> bool {
        match self {
            Self::Mark(expected) => mark(record) == *expected,
            Self::Payload(offset, crc) => record.offset == *offset && payload_crc(record) == *crc,
        }
    }
}
