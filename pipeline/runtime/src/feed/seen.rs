//! Which rows of unfinished units are in the topics already.
//!
//! One bit a row, so that a hole (a record that was never acknowledged while a later one was) is
//! filled and nothing is appended twice, whatever the number of partitions. The scan is bounded
//! by what arrived since the last finished unit and goes in steps, so that it never holds more
//! than one step of records in memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{RawRecord, Result};

/// Header with the unit's name.
pub(super) const UNIT_HEADER: &str = "tm-unit";
/// Header with the row's number in its unit, u64 big endian.
pub(super) const ROW_HEADER: &str = "tm-row";
/// Offsets of one partition read at once.
const SCAN_STEP: i64 = 20_000;

/// A set of row numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct RowSet {
    words: Vec<u64>,
    len: u64,
}

impl RowSet {
    pub(super) fn insert(&mut self, row: u64) {
        let Ok(word) = usize::try_from(row / 64) else {
            return;
        };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (row % 64);
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.len += 1;
        }
    }

    /// How many rows are in the set.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, row: u64) -> bool {
        let word = usize::try_from(row / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (row % 64)) != 0)
    }
}

/// Rows seen, per unit.
#[derive(Debug, Default)]
pub(super) struct Seen {
    units: BTreeMap<String, RowSet>,
}

impl Seen {
    /// Reads the topics from `floor` to their ends.
    pub(super) async fn scan(
        log: &KafkaLog,
        floor: &BTreeMap<String, BTreeMap<i32, i64>>,
        done: &BTreeSet<String>,
    ) -> Result<Self> {
        let mut seen = Self::default();
        for (topic, from) in floor {
            for (partition, (low, end)) in log.watermarks(topic).await? {
                let mut next = from.get(&partition).copied().unwrap_or(0).max(low);
                while next < end {
                    let step = next.saturating_add(SCAN_STEP).min(end);
                    let (from, to) = ([(partition, next)].into(), [(partition, step)].into());
                    for (_, record) in log.read_range(topic, &from, &to).await? {
                        seen.note(&record, done);
                    }
                    next = step;
                }
            }
        }
        Ok(seen)
    }

    /// The rows seen of a unit; they are forgotten here.
    pub(super) fn take(&mut self, unit: &str) -> RowSet {
        self.units.remove(unit).unwrap_or_default()
    }

    fn note(&mut self, record: &RawRecord, done: &BTreeSet<String>) {
        let Some((unit, row)) = identity(|name| record.header(name)) else {
            return;
        };
        if !done.contains(unit) {
            self.units.entry(unit.to_owned()).or_default().insert(row);
        }
    }
}

/// The headers of a row.
pub(super) fn headers(unit: &Bytes, row: u64) -> Vec<(String, Bytes)> {
    vec![
        (UNIT_HEADER.to_owned(), unit.clone()),
        (ROW_HEADER.to_owned(), Bytes::copy_from_slice(&row.to_be_bytes())),
    ]
}

/// Unit and row of a record some feed wrote, by its headers; `None` for a record of someone else.
pub(crate) fn identity<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<(&'a str, u64)> {
    let unit = std::str::from_utf8(header(UNIT_HEADER)?).ok()?;
    let row = header(ROW_HEADER)?.try_into().ok()?;
    Some((unit, u64::from_be_bytes(row)))
}
