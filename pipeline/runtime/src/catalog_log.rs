//! The catalog as a log of statements: `catalog/<seq:020>.json`, numbered from 1, only appended.
//!
//! Why: who replays the statements in order has the catalog, on any store, with the one primitive
//! the commit protocol rests on. Two servers that register at once cannot both get a number: one
//! is told to look again. It never parses a statement and never rewrites or deletes an entry.
//!
//! Invariants:
//! - numbers are dense: entry N+1 is there only if entry N is; a hole is damage, not an end;
//! - `append` returns `Ok` only if the entry is stored and its writer had seen all before it.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tidemill_connectors::store::{self, PutOutcome, Store};
use tidemill_contract::{Error, ErrorKind, Micros, Result};

use crate::ledger::seal;

const FOLDER: &str = "catalog";
/// Entries read at once.
const PARALLEL: usize = 16;

/// One registered statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1: the catalog version that it makes.
    pub seq: u64,
    /// The statement's text.
    pub statement: String,
    /// When it was registered (wall clock, for people only).
    pub at: Micros,
    /// The process that registered it.
    pub writer: String,
}

/// The log, open for appending.
#[derive(Debug)]
pub struct CatalogLog {
    store: Store,
    writer: String,
    /// Number of the last entry seen.
    last: u64,
}

impl CatalogLog {
    /// Opens the log and reads all of it. `writer` is unique to this run of this process.
    ///
    /// # Errors
    /// `TM707` (kind `Corrupt`) naming the entry that is malformed or missing, `TM530` if the
    /// store does not answer.
    pub async fn open(store: Store, writer: String) -> Result<(Self, Vec<Entry>)> {
        let mut log = Self { store, writer, last: 0 };
        let entries = log.refresh().await?;
        Ok((log, entries))
    }

    /// Number of the last entry seen: the version of the catalog.
    pub fn version(&self) -> u64 {
        self.last
    }

    /// Appends a statement.
    ///
    /// On `Unavailable` it is unknown whether it is there: call again with the same text.
    ///
    /// # Errors
    /// `TM708` (kind `Conflict`) if someone else registered a statement since: call
    /// [`Self::refresh`], apply what it gives, decide anew. `TM530` (kind `Unavailable`) if the
    /// store gives no clear answer.
    pub async fn append(&mut self, statement: &str, at: Micros) -> Result<Entry> {
        let entry = Entry {
            seq: self.last + 1,
            statement: statement.to_owned(),
            at,
            writer: self.writer.clone(),
        };
        let path = slot(entry.seq);
        let outcome = store::put_new(&self.store, &path, seal::seal(&entry)?).await?;
        let stored = match outcome {
            PutOutcome::Created => entry,
            PutOutcome::Exists => self.earlier_try(entry).await?,
        };
        self.last = stored.seq;
        Ok(stored)
    }

    /// Reads the entries added since the last one seen.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn refresh(&mut self) -> Result<Vec<Entry>> {
        let hint = newest_listed(&self.store).await?;
        let store = &self.store;
        let mut entries: Vec<Entry> = stream::iter(self.last + 1..=hint)
            .map(|seq| async move {
                let entry = read(store, seq).await?;
                entry.ok_or_else(|| malformed(seq, "it is missing, and later entries are there"))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        // A listing may be stale: go on until there is none.
        let mut last = self.last.max(hint);
        while let Some(entry) = read(&self.store, last + 1).await? {
            last = entry.seq;
            entries.push(entry);
        }
        self.last = last;
        Ok(entries)
    }

    /// The slot is taken: by our own earlier try whose answer was lost, or by someone else.
    async fn earlier_try(&self, entry: Entry) -> Result<Entry> {
        match read(&self.store, entry.seq).await? {
            Some(found) if found.writer == entry.writer && found.statement == entry.statement => {
                Ok(found)
            }
            _ => Err(Error::new(
                ErrorKind::Conflict,
                "TM708",
                format!("catalog entry {} was registered by someone else", entry.seq),
            )
            .help("send the statement again")),
        }
    }
}

/// The highest number a listing shows; there may be higher ones.
pub(crate) async fn newest_listed(store: &Store) -> Result<u64> {
    let listed = store::list(store, &Path::from(FOLDER)).await?;
    Ok(listed.iter().filter_map(seq_of).max().unwrap_or(0))
}

pub(crate) async fn read(store: &Store, seq: u64) -> Result<Option<Entry>> {
    let bytes: Option<Bytes> = store::get(store, &slot(seq)).await?;
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let entry: Entry = seal::unseal(&bytes).map_err(|reason| malformed(seq, &reason))?;
    if entry.seq != seq {
        return Err(malformed(seq, &format!("it says that it is entry {}", entry.seq)));
    }
    Ok(Some(entry))
}

pub(crate) fn slot(seq: u64) -> Path {
    Path::from_iter([FOLDER.to_owned(), format!("{seq:020}.json")])
}

fn seq_of(path: &Path) -> Option<u64> {
    path.filename()?.strip_suffix(".json")?.parse().ok()
}

/// An entry whose statement was taken once and is not any more.
pub(crate) fn refused(seq: u64, error: &Error) -> Error {
    Error::corrupt("TM707", format!("catalog entry {seq} does not apply any more"))
        .because(error.to_string())
        .help("run the version of tidemill that registered it")
}

pub(crate) fn malformed(seq: u64, reason: &str) -> Error {
    Error::corrupt("TM707", format!("catalog entry '{}' is malformed", slot(seq)))
        .because(reason)
        .help("restore the object from a backup; nothing was changed")
}
