//! Rows of a feed that are in the topic twice.
//!
//! A feed names each row by its unit and number. One that was stopped half way may append rows that
//! the next one appended too; here they are recognised among the last [`REMEMBERED`] records of
//! their partition, and counted. They are never dropped: what is in the log is what happened.
//! Whether a record is a repeat depends on the log alone: after a restart the records before the
//! job's place are read again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{RawBatch, Result};

use crate::feed::row_identity;

/// Records of a partition among which a repeat is recognised.
const REMEMBERED: usize = 8192;

/// The names of the newest rows of each partition.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    partitions: BTreeMap<i32, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// By age; `None` for a record without a name.
    order: VecDeque<Option<u64>>,
    times: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
}

/// Names are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }
}

/// 64 bits for a row, all of them depending on unit and number: FNV-1a over the unit, then the
/// finisher of SplitMix64.
fn hash_of(unit: &str, row: u64) -> u64 {
    let offset_basis = 0xcbf2_9ce4_8422_2325_u64;
    let unit = unit.bytes().fold(offset_basis, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = unit.wrapping_add(row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Repeats {
    /// Reads what lies before the job's place, if a feed fills the topic.
    pub(super) async fn open(
        log: &KafkaLog,
        topic: &str,
        next_offsets: &BTreeMap<i32, i64>,
    ) -> Result<Self> {
        let marks = log.watermarks(topic).await?;
        let remembered = i64::try_from(REMEMBERED).unwrap_or(i64::MAX);
        let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
        for (partition, (low, high)) in marks {
            let next = next_offsets.get(&partition).copied().unwrap_or(low).min(high);
            from.insert(partition, low.max(next - remembered));
            to.insert(partition, next);
        }
        let mut repeats = Self::default();
        for (partition, record) in log.read_range(topic, &from, &to).await? {
            let recent = repeats.partitions.entry(partition).or_default();
            recent.is_repeat(row_identity(|name| record.header(name)));
        }
        Ok(repeats)
    }

    /// Takes the next records of a partition; gives how many of them are repeats.
    pub(super) fn note(&mut self, batch: &RawBatch) -> u64 {
        let recent = self.partitions.entry(batch.partition.0).or_default();
        let mut repeats = 0;
        for record in batch.iter() {
            let headers = record.headers();
            let header = |name: &str| headers.iter().find(|(own, _)| own == name);
            let identity = row_identity(|name| header(name).map(|(_, value)| *value));
            repeats += u64::from(recent.is_repeat(identity));
        }
        repeats
    }
}

impl Recent {
    /// `identity` is that of the next record, `None` for one that no feed wrote.
    fn is_repeat(&mut self, identity: Option<(&str, u64)>) -> bool {
        let name = identity.map(|(unit, row)| hash_of(unit, row));
        if self.order.len() == REMEMBERED
            && let Some(Some(oldest)) = self.order.pop_front()
            && let Some(times) = self.times.get_mut(&oldest)
        {
            *times -= 1;
            if *times == 0 {
                self.times.remove(&oldest);
            }
        }
        self.order.push_back(name);
        let Some(name) = name else { return false };
        let times = self.times.entry(name).or_default();
        *times += 1;
        *times > 1
    }
}
