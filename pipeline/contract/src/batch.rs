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

impl RawRecord {
    /// The first header with this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_ref())
    }
}

/// Consecutive records of one partition, in offset order.
///
/// Their bytes lie in one buffer, which is used again for the next batch: a record costs no
/// allocation.
#[derive(Debug, Clone, Default)]
pub struct RawBatch {
    /// The partition all records are of.
    pub partition: PartitionId,
    /// Next offset to read after this batch (may exceed the last record's offset + 1 where the log
    /// has compaction gaps or control records).
    pub next_offset: i64,
    spans: Vec<Span>,
    /// Of each record the key, then the payload, then the values of its headers.
    bytes: Vec<u8>,
    /// Of each header the place of its name in `names`, and how long its value is.
    headers: Vec<(usize, usize)>,
    /// Records of one topic have the same few: kept from batch to batch.
    names: Vec<String>,
}

/// Names of headers that are looked for before one is kept anew.
const NAMES_KEPT: usize = 16;

/// Where a record lies.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: i64,
    timestamp_ms: i64,
    start: usize,
    key: Option<u32>,
    payload: Option<u32>,
    /// Its headers: the first, and how many.
    headers: (usize, usize),
}

/// A record of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    batch: &'a RawBatch,
    span: &'a Span,
}

impl RawBatch {
    /// A batch of these records.
    pub fn of(partition: PartitionId, records: &[RawRecord], next_offset: i64) -> Self {
        let mut batch = Self { partition, next_offset, ..Self::default() };
        for record in records {
            let headers = record.headers.iter();
            batch.push(
                (record.offset, record.timestamp_ms),
                record.key.as_deref(),
                record.payload.as_deref(),
                headers.map(|(name, value)| (name, value.as_ref())),
            );
        }
        batch
    }

    /// Makes it an empty batch of a partition; its memory stays.
    pub fn reset(&mut self, partition: PartitionId) {
        (self.partition, self.next_offset) = (partition, 0);
        self.spans.clear();
        self.bytes.clear();
        self.headers.clear();
        if self.names.len() > NAMES_KEPT {
            self.names.clear();
        }
    }

    /// Adds a record: offset and timestamp, key, payload, headers in order. A key or payload of
    /// more than `u32::MAX` bytes, which no log has, counts as none.
    pub fn push<'h>(
        &mut self,
        (offset, timestamp_ms): (i64, i64),
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: impl IntoIterator<Item = (impl AsRef<str>, &'h [u8])>,
    ) {
        let start = self.bytes.len();
        let key = key.and_then(|bytes| self.put(bytes));
        let payload = payload.and_then(|bytes| self.put(bytes));
        let first = self.headers.len();
        for (name, value) in headers {
            self.bytes.extend_from_slice(value);
            let name = self.name(name.as_ref());
            self.headers.push((name, value.len()));
        }
        let headers = (first, self.headers.len() - first);
        self.spans.push(Span { offset, timestamp_ms, start, key, payload, headers });
    }

    /// Where a name is kept.
    fn name(&mut self, name: &str) -> usize {
        let known = self.names.iter().take(NAMES_KEPT).position(|known| known == name);
        known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Option<u32> {
        let length = u32::try_from(bytes.len()).ok()?;
        self.bytes.extend_from_slice(bytes);
        Some(length)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// There is no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of all records together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// One record.
    pub fn get(&self, index: usize) -> Option<RecordView<'_>> {
        self.spans.get(index).map(|span| RecordView { batch: self, span })
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordView<'_>> {
        self.spans.iter().map(|span| RecordView { batch: self, span })
    }

    /// The payload of a record as bytes of its own; empty for a tombstone.
    pub fn payload(&self, index: u32) -> Bytes {
        let record = self.get(index as usize);
        Bytes::copy_from_slice(record.and_then(RecordView::payload).unwrap_or_default())
    }

    /// Takes out the records from an offset on, and reads on there.
    pub fn cut(&mut self, offset: i64) {
        let kept = self.spans.partition_point(|span| span.offset < offset);
        self.spans.truncate(kept);
        self.next_offset = offset;
    }
}

impl<'a> RecordView<'a> {
    /// Offset in the partition.
    pub fn offset(self) -> i64 {
        self.span.offset
    }

    /// Record timestamp, milliseconds since the epoch; -1 if the log has none.
    pub fn timestamp_ms(self) -> i64 {
        self.span.timestamp_ms
    }

    /// Key bytes.
    pub fn key(self) -> Option<&'a [u8]> {
        self.bytes(0, self.span.key?)
    }

    /// Value bytes; `None` is a tombstone.
    pub fn payload(self) -> Option<&'a [u8]> {
        self.bytes(self.span.key.unwrap_or(0), self.span.payload?)
    }

    fn bytes(self, skipped: u32, length: u32) -> Option<&'a [u8]> {
        let start = self.span.start + skipped as usize;
        self.batch.bytes.get(start..start + length as usize)
    }

    /// Headers in order.
    pub fn headers(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let before = self.span.key.unwrap_or(0) as usize + self.span.payload.unwrap_or(0) as usize;
        let mut at = self.span.start + before;
        let (first, count) = self.span.headers;
        let headers = self.batch.headers.get(first..first + count).unwrap_or_default();
        headers.iter().map(move |(name, length)| {
            let value = self.batch.bytes.get(at..at + length).unwrap_or_default();
            at += length;
            (self.batch.names.get(*name).map_or("", String::as_str), value)
        })
    }

    /// The first header with this name.
    pub fn header(self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The record with bytes of its own.
    pub fn to_record(self) -> RawRecord {
        let own = Bytes::copy_from_slice;
        RawRecord {
            offset: self.offset(),
            timestamp_ms: self.timestamp_ms(),
            key: self.key().map(own),
            payload: self.payload().map(own),
            headers: self.headers().map(|(name, value)| (name.to_owned(), own(value))).collect(),
        }
    }
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
