//! What is appended to topics and files after a commit: alerts, sink rows, dead and late rows.
//!
//! Why it exists: an append outside the bucket cannot be part of the commit, so the records are
//! staged in the bucket first and every record carries an id that is the same on every try. It
//! never does I/O; the bytes it makes are staged by `publish` and delivered by `delivery`.
//!
//! Invariants:
//! - `decode(encode(outbox)) == outbox`, order included; bytes that are not the result of
//!   `encode` are an error, never a shorter outbox;
//! - the record at index `n` of one epoch is the same record whenever the epoch is delivered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidemill_contract::{Error, ProduceRecord, Result};

/// The header that carries [`OutboxRecord::id`] on a topic.
pub const ID_HEADER: &str = "tm-id";

/// First bytes of an encoded outbox; the digit is the format version.
const MAGIC: &[u8; 4] = b"TMO1";
/// Stands for "no key" or "no payload" where a length is expected.
const ABSENT: u32 = u32::MAX;
const TOPIC_TAG: u8 = 0;
const FILE_TAG: u8 = 1;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutboxTarget {
    /// A Kafka topic.
    Topic {
        /// Its name on the broker.
        name: String,
    },
    /// A local file that a `filesystem` sink appends to. The path travels with the records, so
    /// that they can still be delivered after the sink was dropped from the catalog.
    File {
        /// Name of the sink: the key of `Commit::file_sink_bytes`.
        sink: String,
        /// Path of the file.
        path: String,
    },
}

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRecord {
    /// The same on every try: an alert's id, else [`sequence_id`]. Unique within its topic.
    pub id: String,
    /// Key bytes (topics only); its hash decides the partition.
    pub key: Option<Bytes>,
    /// Value bytes. For a file: the exact bytes to append, line end included.
    pub payload: Option<Bytes>,
    /// Headers in order, without [`ID_HEADER`] (topics only).
    pub headers: Vec<(String, Bytes)>,
    /// Record timestamp, `None` = when delivered (topics only).
    pub timestamp_ms: Option<i64>,
}

impl OutboxRecord {
    /// The record as appended to a topic: with its id as the last header.
    pub fn to_produce(&self) -> ProduceRecord {
        let mut headers = self.headers.clone();
        headers.push((ID_HEADER.to_owned(), Bytes::copy_from_slice(self.id.as_bytes())));
        ProduceRecord {
            partition: None,
            key: self.key.clone(),
            payload: self.payload.clone(),
            timestamp_ms: self.timestamp_ms,
            headers,
        }
    }
}

/// The id of the `index`-th record of an epoch that has no id of its own.
pub fn sequence_id(job: &str, epoch: u64, index: usize) -> String {
    format!("{job}/{epoch}/{index}")
}

fn size_of_record(record: &OutboxRecord) -> usize {
    let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.id.len() + part(&record.key) + part(&record.payload) + headers + 128
}

/// All records of one epoch, in delivery order per target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbox {
    targets: Vec<OutboxTarget>,
    /// Index of the target, record.
    records: Vec<(u16, OutboxRecord)>,
    /// Bytes of the records' keys, payloads and headers.
    bytes: usize,
}

impl Outbox {
    /// Nothing to deliver.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record behind those already there.
    ///
    /// # Errors
    /// `TM900` beyond 65,535 different targets in one epoch.
    pub fn push(&mut self, target: &OutboxTarget, record: OutboxRecord) -> Result<()> {
        // Rows of one target come together: look at the last one first.
        let known = match self.records.last() {
            Some((last, _)) if &self.targets[usize::from(*last)] == target => {
                Some(usize::from(*last))
            }
            _ => self.targets.iter().position(|candidate| candidate == target),
        };
        let index = known.unwrap_or_else(|| {
            self.targets.push(target.clone());
            self.targets.len() - 1
        });
        let index = u16::try_from(index)
            .map_err(|_| Error::internal("more than 65535 targets in one outbox"))?;
        self.bytes += size_of_record(&record);
        self.records.push((index, record));
        Ok(())
    }

    /// Number of records; also the index of the next one (see [`sequence_id`]).
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to deliver.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Records with their targets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&OutboxTarget, &OutboxRecord)> {
        self.records.iter().map(|(index, record)| (&self.targets[usize::from(*index)], record))
    }

    /// The records for some targets only, in order and with their ids.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn only(&self, takes: impl Fn(&OutboxTarget) -> bool) -> Result<Self> {
        let mut some = Self::new();
        for (target, record) in self.iter().filter(|(target, _)| takes(target)) {
            some.push(target, record.clone())?;
        }
        Ok(some)
    }

    /// The topics records go to.
    pub fn topics(&self) -> BTreeSet<&str> {
        let names = self.targets.iter().filter_map(|target| match target {
            OutboxTarget::Topic { name } => Some(name.as_str()),
            OutboxTarget::File { .. } => None,
        });
        names.collect()
    }

    /// Bytes this epoch appends per file sink: add them to the lengths of the epoch before to get
    /// `Commit::file_sink_bytes`.
    pub fn file_bytes(&self) -> BTreeMap<&str, u64> {
        let mut sizes = BTreeMap::new();
        for (target, record) in self.iter() {
            if let OutboxTarget::File { sink, .. } = target {
                let size = record.payload.as_ref().map_or(0, |payload| payload.len() as u64);
                *sizes.entry(sink.as_str()).or_insert(0) += size;
            }
        }
        sizes
    }

    /// The bytes to stage.
    ///
    /// # Errors
    /// `TM900` if a part of a record is 4 GiB or longer.
    pub fn encode(&self) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity(64 * self.records.len() + 1024);
        out.put_slice(MAGIC);
        put_length(&mut out, self.targets.len())?;
        for target in &self.targets {
            match target {
                OutboxTarget::Topic { name } => {
                    out.put_u8(TOPIC_TAG);
                    put_part(&mut out, name.as_bytes())?;
                }
                OutboxTarget::File { sink, path } => {
                    out.put_u8(FILE_TAG);
                    put_part(&mut out, sink.as_bytes())?;
                    put_part(&mut out, path.as_bytes())?;
                }
            }
        }
        put_length(&mut out, self.records.len())?;
        for (target, record) in &self.records {
            out.put_u16_le(*target);
            put_record(&mut out, record)?;
        }
        Ok(out.freeze())
    }

    /// Reads what [`Self::encode`] made.
    ///
    /// # Errors
    /// `TM704` if the bytes are anything else; `object` is named.
    pub fn decode(bytes: Bytes, object: &str) -> Result<Self> {
        let mut reader = Reader { bytes, object };
        if reader.take(MAGIC.len())? != MAGIC[..] {
            return Err(reader.malformed("it is not an outbox of a known format"));
        }
        let mut outbox = Self::new();
        for _ in 0..reader.length()? {
            let target = reader.target()?;
            outbox.targets.push(target);
        }
        for _ in 0..reader.length()? {
            let index = reader.take(2)?.get_u16_le();
            if usize::from(index) >= outbox.targets.len() {
                return Err(reader.malformed("a record names an unknown target"));
            }
            let record = reader.record()?;
            outbox.bytes += size_of_record(&record);
            outbox.records.push((index, record));
        }
        if reader.bytes.has_remaining() {
            return Err(reader.malformed("there are bytes behind the last record"));
        }
        Ok(outbox)
    }
}

fn put_length(out: &mut BytesMut, length: usize) -> Result<()> {
    match u32::try_from(length) {
        Ok(length) if length != ABSENT => {
            out.put_u32_le(length);
            Ok(())
        }
        _ => Err(Error::internal(format!("an outbox part of {length} bytes is too long"))),
    }
}

fn put_part(out: &mut BytesMut, part: &[u8]) -> Result<()> {
    put_length(out, part.len())?;
    out.put_slice(part);
    Ok(())
}

fn put_optional(out: &mut BytesMut, part: Option<&Bytes>) -> Result<()> {
    match part {
        Some(part) => put_part(out, part),
        None => {
            out.put_u32_le(ABSENT);
            Ok(())
        }
    }
}

fn put_record(out: &mut BytesMut, record: &OutboxRecord) -> Result<()> {
    put_part(out, record.id.as_bytes())?;
    put_optional(out, record.key.as_ref())?;
    put_optional(out, record.payload.as_ref())?;
    out.put_u8(u8::from(record.timestamp_ms.is_some()));
    out.put_i64_le(record.timestamp_ms.unwrap_or(0));
    put_length(out, record.headers.len())?;
    for (name, value) in &record.headers {
        put_part(out, name.as_bytes())?;
        put_part(out, value)?;
    }
    Ok(())
}

/// Takes parts off the front; every take is checked against what is left.
struct Reader<'a> {
    bytes: Bytes,
    object: &'a str,
}

impl Reader<'_> {
    fn malformed(&self, reason: &str) -> Error {
        Error::corrupt("TM704", format!("outbox object '{}' is malformed", self.object))
            .because(reason)
    }

    fn take(&mut self, length: usize) -> Result<Bytes> {
        if self.bytes.remaining() < length {
            return Err(self.malformed("it ends too early"));
        }
        Ok(self.bytes.split_to(length))
    }

    fn raw_length(&mut self) -> Result<u32> {
        Ok(self.take(4)?.get_u32_le())
    }

    fn length(&mut self) -> Result<usize> {
        let length = self.raw_length()?;
        usize::try_from(length).map_err(|_| self.malformed("a length does not fit"))
    }

    fn optional(&mut self) -> Result<Option<Bytes>> {
        let length = self.raw_length()?;
        if length == ABSENT {
            return Ok(None);
        }
        let length =
            usize::try_from(length).map_err(|_| self.malformed("a length does not fit"))?;
        self.take(length).map(Some)
    }

    fn part(&mut self) -> Result<Bytes> {
        self.optional()?.ok_or_else(|| self.malformed("a part that must be there is not"))
    }

    fn text(&mut self) -> Result<String> {
        let part = self.part()?;
        String::from_utf8(part.to_vec()).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    fn target(&mut self) -> Result<OutboxTarget> {
        match self.take(1)?.get_u8() {
            TOPIC_TAG => Ok(OutboxTarget::Topic { name: self.text()? }),
            FILE_TAG => Ok(OutboxTarget::File { sink: self.text()?, path: self.text()? }),
            tag => Err(self.malformed(&format!("unknown target kind {tag}"))),
        }
    }

    fn record(&mut self) -> Result<OutboxRecord> {
        let id = self.text()?;
        let key = self.optional()?;
        let payload = self.optional()?;
        let dated = self.take(1)?.get_u8() != 0;
        let timestamp_ms = self.take(8)?.get_i64_le();
        let mut headers = Vec::new();
        for _ in 0..self.length()? {
            headers.push((self.text()?, self.part()?));
        }
        let timestamp_ms = dated.then_some(timestamp_ms);
        Ok(OutboxRecord { id, key, payload, headers, timestamp_ms })
    }
}
