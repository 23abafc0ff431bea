//! What happens to a log behind a broker's back: the tail of a file gone, and compaction, which
//! takes records out of batches and leaves the offsets of the others as they were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bytes of a record batch before its first record.
const HEADER: usize = 61;

fn segment(broker: &Path, partition: i32) -> PathBuf {
    broker.join(format!("events-{partition}")).join(format!("{:020}.log", 0))
}

/// The batches of a file: base offset, last offset, place.
fn batches(bytes: &[u8]) -> Vec<(i64, i64, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        let base = i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let length = i32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        let delta = i32::from_be_bytes(bytes[at + 23..at + 27].try_into().unwrap());
        let end = at + 12 + usize::try_from(length).unwrap();
        found.push((base, base + i64::from(delta), at..end));
        at = end;
    }
    found
}

/// Takes the last batches away, so that the log ends at or before `end`; gives its new end.
pub(super) fn cut(broker: &Path, partition: i32, end: i64) -> i64 {
    let path = segment(broker, partition);
    let mut bytes = std::fs::read(&path).unwrap();
    let kept = batches(&bytes).into_iter().take_while(|(_, last, _)| *last < end).last();
    let (kept_end, length) = kept.map_or((0, 0), |(_, last, place)| (last + 1, place.end));
    bytes.truncate(length);
    std::fs::write(&path, &bytes).unwrap();
    kept_end
}

/// Takes the records with these offsets out, as Kafka's log cleaner does.
pub(super) fn compact(broker: &Path, partition: i32, gone: &BTreeSet<i64>) {
    let path = segment(broker, partition);
    let bytes = std::fs::read(&path).unwrap();
    let mut compacted = Vec::new();
    for (base, _, place) in batches(&bytes) {
        let batch = &bytes[place];
        let mut records = Vec::new();
        let mut count = 0_i32;
        let mut at = HEADER;
        while at < batch.len() {
            let start = at;
            let length = varint(batch, &mut at);
            let end = at + usize::try_from(length).unwrap();
            at += 1; // attributes
            varint(batch, &mut at); // time
            let delta = varint(batch, &mut at);
            if !gone.contains(&(base + delta)) {
                records.extend_from_slice(&batch[start..end]);
                count += 1;
            }
            at = end;
        }
        let mut head = batch[..HEADER].to_vec();
        let length = i32::try_from(HEADER - 12 + records.len()).unwrap();
        head[8..12].copy_from_slice(&length.to_be_bytes());
        head[57..61].copy_from_slice(&count.to_be_bytes());
        head.extend_from_slice(&records);
        let crc = crc32c(&head[21..]);
        head[17..21].copy_from_slice(&crc.to_be_bytes());
        compacted.extend_from_slice(&head);
    }
    std::fs::write(&path, &compacted).unwrap();
}

/// A zigzag number of variable length.
fn varint(bytes: &[u8], at: &mut usize) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let half = i64::try_from(value >> 1).unwrap();
            return if value & 1 == 1 { -half - 1 } else { half };
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}
