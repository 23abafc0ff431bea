//! The large, unchanging pieces of a job's state: each is stored once and named by every state
//! that has it, so that a commit writes what changed and not all there is.
//!
//! Why objects are not parts one by one: a commit should make few objects. New pieces lie behind
//! the rest in the state object of their commit; later states say object, place and checksum.
//!
//! Invariants:
//! - a state refers to objects of its own job only, and its commit names them all, so that nothing
//!   a kept commit needs is removed; what is taken over from another job is stored anew;
//! - an object is referred to only while at least half of it is in use: what lies in the bucket for
//!   one commit is at most twice its state;
//! - no byte of a part is used before its checksum was compared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Error, OutboxFile, Result};
use tidemill_sql::engine::StatePart;

/// Rows from which keys or a chunk of a slice are worth a part.
pub(crate) const PART_ROWS: usize = 8_192;
/// Parts read at once.
const PARALLEL: usize = 4;

/// Where a part lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartPlace {
    /// The object; `None` is the one that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<OutboxFile>,
    /// First byte; in the object that says so, counted from where its parts begin.
    offset: u64,
    /// Size.
    bytes: u64,
    /// CRC32C of the part.
    crc32c: u32,
}

/// The parts that lie in the bucket, by their numbers in the operators.
#[derive(Debug, Default)]
pub(crate) struct KnownParts {
    job: String,
    places: BTreeMap<u64, PartPlace>,
}

/// The parts of one state, on their way to the bucket.
#[derive(Debug, Default)]
pub(crate) struct PlacedParts {
    /// A place for each part, in order.
    pub(crate) places: Vec<PartPlace>,
    /// The new ones, one behind the other.
    pub(crate) bytes: Vec<u8>,
    numbers: Vec<u64>,
}

impl KnownParts {
    /// The parts of a state that was read back: numbers as the operators gave them.
    pub(crate) fn restored(
        job: &str,
        state: &OutboxFile,
        begin: u64,
        numbers: &[Option<u64>],
        places: &[PartPlace],
    ) -> Self {
        let mut known = Self { job: job.to_owned(), places: BTreeMap::new() };
        for (number, place) in numbers.iter().zip(places) {
            if let Some(number) = number {
                known.places.insert(*number, place.clone().within(state, begin));
            }
        }
        known.forget_foreign();
        known
    }

    /// Nothing is in the bucket yet.
    pub(crate) fn none(job: &str) -> Self {
        Self { job: job.to_owned(), places: BTreeMap::new() }
    }

    /// Finds a place for each part: the one it has, or one behind the new state.
    pub(crate) fn place(&self, parts: &[StatePart]) -> Result<PlacedParts> {
        let worth = self.objects_worth_keeping(parts);
        let mut placed = PlacedParts::default();
        for part in parts {
            let known = self.places.get(&part.number);
            let known = known.filter(|place| {
                place.object.as_ref().is_some_and(|object| worth.contains(object.path.as_str()))
            });
            let place = match known {
                Some(place) => place.clone(),
                None => {
                    let offset = placed.bytes.len() as u64;
                    let bytes = part.encode()?;
                    placed.bytes.extend_from_slice(&bytes);
                    PartPlace {
                        object: None,
                        offset,
                        bytes: bytes.len() as u64,
                        crc32c: crc32c::crc32c(&bytes),
                    }
                }
            };
            placed.places.push(place);
            placed.numbers.push(part.number);
        }
        Ok(placed)
    }

    fn objects_worth_keeping(&self, parts: &[StatePart]) -> BTreeSet<&str> {
        let mut in_use: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for place in parts.iter().filter_map(|part| self.places.get(&part.number)) {
            if let Some(object) = &place.object {
                let use_of = in_use.entry(&object.path).or_insert((0, object.bytes));
                use_of.0 += place.bytes;
            }
        }
        let worth = in_use.into_iter().filter(|(_, (used, all))| used.saturating_mul(2) >= *all);
        worth.map(|(object, _)| object).collect()
    }

    /// A state was committed: from now on these parts are known, and no others.
    pub(crate) fn committed(&mut self, state: Option<&OutboxFile>, placed: &PlacedParts) {
        self.places.clear();
        let Some(state) = state else { return };
        let begin = state.bytes.saturating_sub(placed.bytes.len() as u64);
        for (number, place) in placed.numbers.iter().zip(&placed.places) {
            self.places.insert(*number, place.clone().within(state, begin));
        }
    }

    fn forget_foreign(&mut self) {
        let own = format!("state/{}/", self.job);
        self.places.retain(|_, place| {
            place.object.as_ref().is_some_and(|object| object.path.starts_with(&own))
        });
    }
}

impl PlacedParts {
    /// The earlier objects the state refers to.
    pub(crate) fn objects(&self) -> Vec<OutboxFile> {
        let objects = self.places.iter().filter_map(|place| place.object.as_ref());
        let by_path: BTreeMap<&String, &OutboxFile> =
            objects.map(|object| (&object.path, object)).collect();
        by_path.into_values().cloned().collect()
    }

    /// Bytes of all parts, new or not.
    pub(crate) fn total(&self) -> u64 {
        self.places.iter().map(|place| place.bytes).sum()
    }
}

impl PartPlace {
    /// The place as others say it, for one in the object `state`, whose parts begin at `begin`.
    fn within(mut self, state: &OutboxFile, begin: u64) -> Self {
        if self.object.is_none() {
            self.object = Some(state.clone());
            self.offset += begin;
        }
        self
    }
}

/// The places of parts that lie one behind the other in the object that says so.
pub(super) fn laid_out(parts: &[Bytes]) -> Vec<PartPlace> {
    let mut offset = 0;
    let place = |part: &Bytes| {
        let bytes = part.len() as u64;
        offset += bytes;
        PartPlace { object: None, offset: offset - bytes, bytes, crc32c: crc32c::crc32c(part) }
    };
    parts.iter().map(place).collect()
}

/// Reads parts back, in order and checked. `own` is what lies behind the state itself.
///
/// # Errors
/// `TM703` (kind `Corrupt`) naming the object if it is gone or changed, `TM530` if the store does
/// not answer.
pub(crate) async fn read(store: &Store, places: &[PartPlace], own: &Bytes) -> Result<Vec<Bytes>> {
    stream::iter(places.to_vec())
        .map(|place| {
            let (store, own) = (Store::clone(store), own.clone());
            // A task of its own: checksums are computed side by side.
            let task = tokio::spawn(async move { read_part(&store, &place, &own).await });
            async move {
                task.await.map_err(|e| Error::internal(format!("reading state panicked: {e}")))?
            }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

async fn read_part(store: &Store, place: &PartPlace, own: &Bytes) -> Result<Bytes> {
    let name = place.object.as_ref().map_or("the state itself", |object| object.path.as_str());
    let wrong = |reason: &str| {
        Error::corrupt("TM703", format!("object '{name}' is not what its commit names"))
            .because(reason)
            .help("restore the object from a backup; nothing was changed")
    };
    let end = place.offset.checked_add(place.bytes).ok_or_else(|| wrong("a place lies outside"))?;
    let part = match &place.object {
        None => {
            let within = |at: u64| usize::try_from(at).ok().filter(|at| *at <= own.len());
            within(place.offset).zip(within(end)).map(|(from, to)| own.slice(from..to))
        }
        Some(object) => {
            let path = Path::parse(&object.path).map_err(|error| wrong(&error.to_string()))?;
            store::get_range(store, &path, place.offset..end).await?
        }
    };
    let part = part.ok_or_else(|| wrong("it is gone or too short"))?;
    if crc32c::crc32c(&part) != place.crc32c {
        return Err(wrong("the checksum of a part of it does not fit"));
    }
    Ok(part)
}
