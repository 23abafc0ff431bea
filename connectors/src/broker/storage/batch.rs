//! The record batch of the Kafka log format (magic 2): its 61-byte header, its checks, its times.
//!
//! Batches are stored as they arrive: only the base offset and the leader epoch, both outside the
//! checksum, are rewritten. The records of a compressed batch are never looked at.

use bytes::Bytes;
use kafka_protocol::ResponseError;

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch_length` counts.
pub(crate) const PREFIX_BYTES: usize = 12;
/// Bytes that say where in the log a batch lies: base offset, length, leader epoch.
pub(crate) const PLACE_BYTES: usize = 16;
/// Where the part covered by the checksum starts.
const CHECKED_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0x07;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// The fixed fields of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    /// The whole batch, prefix included.
    pub(crate) total_bytes: usize,
    pub(crate) magic: i8,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

impl Header {
    /// Reads a header; `None` if there are too few bytes or the length is impossible.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let length = i32::from_be_bytes(field(bytes, 8)?);
        let length = usize::try_from(length).ok()?;
        if length < HEADER_BYTES - PREFIX_BYTES {
            return None;
        }
        Some(Self {
            base_offset: i64::from_be_bytes(field(bytes, 0)?),
            total_bytes: length + PREFIX_BYTES,
            magic: i8::from_be_bytes(field(bytes, 16)?),
            crc: u32::from_be_bytes(field(bytes, 17)?),
            attributes: i16::from_be_bytes(field(bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)?),
            producer_id: i64::from_be_bytes(field(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)?),
            base_sequence: i32::from_be_bytes(field(bytes, 53)?),
            record_count: i32::from_be_bytes(field(bytes, 57)?),
        })
    }

    /// Offset of the last record.
    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Sequence number of the last record; wraps to 0 after `i32::MAX`.
    pub(crate) fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(last % (i64::from(i32::MAX) + 1)).unwrap_or(0)
    }

    /// Whether an idempotent producer wrote it.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }

    fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION_MASK != 0
    }
}

/// A checked batch on its way into the log.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) header: Header,
    pub(crate) bytes: Bytes,
}

/// Splits the records of a produce request into checked batches, all or none.
pub(crate) fn split(records: &Bytes, bytes_max: u64) -> Result<Vec<Batch>, ResponseError> {
    let mut batches = Vec::with_capacity(1);
    let mut rest = records.clone();
    while !rest.is_empty() {
        // The magic byte sits at the same place in every format version.
        match rest.get(16) {
            None => return Err(ResponseError::CorruptMessage),
            Some(2) => {}
            Some(_) => return Err(ResponseError::UnsupportedForMessageFormat),
        }
        let header = Header::parse(&rest).ok_or(ResponseError::CorruptMessage)?;
        if header.total_bytes > rest.len() {
            return Err(ResponseError::CorruptMessage);
        }
        let bytes = rest.split_to(header.total_bytes);
        check(&header, &bytes, bytes_max)?;
        batches.push(Batch { header, bytes });
    }
    if batches.is_empty() {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(batches)
}

fn check(header: &Header, bytes: &[u8], bytes_max: u64) -> Result<(), ResponseError> {
    if bytes.len() as u64 > bytes_max {
        return Err(ResponseError::MessageTooLarge);
    }
    if !checksum_holds(header, bytes) {
        return Err(ResponseError::CorruptMessage);
    }
    if header.attributes & TRANSACTIONAL != 0 {
        return Err(ResponseError::InvalidTxnState);
    }
    if header.attributes & CONTROL != 0 {
        return Err(ResponseError::InvalidRecord);
    }
    if header.attributes & COMPRESSION_MASK > 4 {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if header.record_count < 1 || header.last_offset_delta != header.record_count - 1 {
        return Err(ResponseError::InvalidRecord);
    }
    if header.is_idempotent() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(ResponseError::InvalidRecord);
    }
    if !header.is_compressed() && count_records(bytes) != Some(header.record_count) {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(())
}

/// Whether the stored checksum is the one of the bytes.
pub(crate) fn checksum_holds(header: &Header, bytes: &[u8]) -> bool {
    bytes.get(CHECKED_FROM..).is_some_and(|checked| crc32c::crc32c(checked) == header.crc)
}

/// The first bytes of a batch with its place in the log written into them.
pub(crate) fn place(batch: &Batch, base_offset: i64) -> [u8; PLACE_BYTES] {
    let mut place = [0; PLACE_BYTES];
    place[..8].copy_from_slice(&base_offset.to_be_bytes());
    // The length stays; the leader epoch after it is 0 on a single node.
    place[8..12].copy_from_slice(&batch.bytes[8..12]);
    place
}

/// The first record of a stored batch whose time is at or after `timestamp`: offset and time.
///
/// Inside a compressed batch the answer is its first record: never later than the exact one.
pub(crate) fn find_time(header: &Header, bytes: &[u8], timestamp: i64) -> Option<(i64, i64)> {
    if header.max_timestamp < timestamp {
        return None;
    }
    if header.is_compressed() || header.base_timestamp >= timestamp {
        return Some((header.base_offset, header.base_timestamp.max(0)));
    }
    let mut rest = bytes.get(HEADER_BYTES..)?;
    for _ in 0..header.record_count {
        let (length, after) = varint(rest)?;
        let length = usize::try_from(length).ok()?;
        let (timestamp_delta, fields) = varint(after.get(1..length)?)?;
        let (offset_delta, _) = varint(fields)?;
        let time = header.base_timestamp + timestamp_delta;
        if time >= timestamp {
            return Some((header.base_offset + offset_delta, time));
        }
        rest = after.get(length..)?;
    }
    None
}

fn count_records(bytes: &[u8]) -> Option<i32> {
    let mut rest = bytes.get(HEADER_BYTES..)?;
    let mut count = 0;
    while !rest.is_empty() {
        let (length, after) = varint(rest)?;
        rest = after.get(usize::try_from(length).ok()?..)?;
        count += 1;
    }
    Some(count)
}

/// One zigzag variable-length integer and what follows it.
fn varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            let magnitude = i64::try_from(value >> 1).ok()?;
            let decoded = if value & 1 == 0 { magnitude } else { -magnitude - 1 };
            return Some((decoded, &bytes[index + 1..]));
        }
    }
    None
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
