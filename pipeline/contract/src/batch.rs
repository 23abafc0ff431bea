//! Batches on their way from the log to the operators.

use std::borrow::Cow;
use std::fmt;

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

/// Where the records of a batch lie. Whoever read them lends them: a record is not copied on its
/// way to the decoder, and what nobody asks for (most headers) is never looked at.
pub trait Records: Send {
    /// How many records there are.
    fn len(&self) -> usize;
    /// There is no record.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Offset in the partition; ascending.
    fn offset(&self, index: usize) -> i64;
    /// Milliseconds since the epoch; -1 if the log has none.
    fn timestamp_ms(&self, index: usize) -> i64;
    /// Key bytes.
    fn key(&self, index: usize) -> Option<&[u8]>;
    /// Value bytes; `None` is a tombstone.
    fn payload(&self, index: usize) -> Option<&[u8]>;
    /// Headers in order.
    fn headers(&self, index: usize) -> Vec<(Cow<'_, str>, &[u8])>;
}

impl Records for Vec<RawRecord> {
    fn len(&self) -> usize {
        Self::len(self)
    }
    fn offset(&self, index: usize) -> i64 {
        self[index].offset
    }
    fn timestamp_ms(&self, index: usize) -> i64 {
        self[index].timestamp_ms
    }
    fn key(&self, index: usize) -> Option<&[u8]> {
        self[index].key.as_deref()
    }
    fn payload(&self, index: usize) -> Option<&[u8]> {
        self[index].payload.as_deref()
    }
    fn headers(&self, index: usize) -> Vec<(Cow<'_, str>, &[u8])> {
        let headers = self[index].headers.iter();
        headers.map(|(name, value)| (Cow::from(name.as_str()), value.as_ref())).collect()
    }
}

/// Consecutive records of one partition, in offset order.
pub struct RawBatch {
    /// The partition all records are of.
    pub partition: PartitionId,
    /// Next offset to read after this batch (may exceed the last record's offset + 1 where the log
    /// has compaction gaps or control records).
    pub next_offset: i64,
    records: Box<dyn Records>,
    /// How many of them count: those after a cut do not.
    length: usize,
}

impl fmt::Debug for RawBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (partition, next) = (self.partition.0, self.next_offset);
        write!(f, "{} records of partition {partition} before offset {next}", self.length)
    }
}

/// A record of a batch.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    records: &'a dyn Records,
    index: usize,
}

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_record().fmt(f)
    }
}

impl RawBatch {
    /// A batch of these records.
    pub fn new(partition: PartitionId, records: Box<dyn Records>, next_offset: i64) -> Self {
        let length = records.len();
        Self { partition, next_offset, records, length }
    }

    /// A batch of copies of these records.
    pub fn of(partition: PartitionId, records: &[RawRecord], next_offset: i64) -> Self {
        Self::new(partition, Box::new(records.to_vec()), next_offset)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// There is no record.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// One record.
    pub fn get(&self, index: usize) -> Option<RecordView<'_>> {
        let view = RecordView { records: &*self.records, index };
        (index < self.length).then_some(view)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordView<'_>> {
        (0..self.length).map(|index| RecordView { records: &*self.records, index })
    }

    /// The payload of a record as bytes of its own; empty for a tombstone.
    pub fn payload(&self, index: u32) -> Bytes {
        let record = self.get(index as usize);
        Bytes::copy_from_slice(record.and_then(RecordView::payload).unwrap_or_default())
    }

    /// Takes out the records from an offset on, and reads on there.
    pub fn cut(&mut self, offset: i64) {
        while self.length > 0 && self.records.offset(self.length - 1) >= offset {
            self.length -= 1;
        }
        self.next_offset = offset;
    }
}

impl<'a> RecordView<'a> {
    /// Offset in the partition.
    pub fn offset(self) -> i64 {
        self.records.offset(self.index)
    }

    /// Record timestamp, milliseconds since the epoch; -1 if the log has none.
    pub fn timestamp_ms(self) -> i64 {
        self.records.timestamp_ms(self.index)
    }

    /// Key bytes.
    pub fn key(self) -> Option<&'a [u8]> {
        self.records.key(self.index)
    }

    /// Value bytes; `None` is a tombstone.
    pub fn payload(self) -> Option<&'a [u8]> {
        self.records.payload(self.index)
    }

    /// Headers in order.
    pub fn headers(self) -> Vec<(Cow<'a, str>, &'a [u8])> {
        self.records.headers(self.index)
    }

    /// The record with bytes of its own.
    pub fn to_record(self) -> RawRecord {
        let own = Bytes::copy_from_slice;
        let headers = self.headers().into_iter();
        RawRecord {
            offset: self.offset(),
            timestamp_ms: self.timestamp_ms(),
            key: self.key().map(own),
            payload: self.payload().map(own),
            headers: headers.map(|(name, value)| (name.into_owned(), own(value))).collect(),
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
