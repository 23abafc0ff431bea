//! The numbered objects `feeds/<source>/<seq:020>.json`: what a feed has finished.
//!
//! Each is created once and never changed; the set of done units is the union of all. The next
//! number is probed, never taken from a listing alone, because a listing may be behind. A rival
//! that took the number first fences this feed.

use std::collections::{BTreeMap, BTreeSet};

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tidemill_connectors::{
    failpoint,
    store::{self, PutOutcome, Store},
};
use tidemill_contract::{Error, ErrorKind, Result};

use crate::ledger::seal;

/// Version of the record's form.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    format: u32,
    /// Unique per written entry: tells my own earlier try from a rival's.
    writer: String,
    /// Units finished with this entry.
    units: Vec<String>,
    /// Topic → partition → end offset when it was written.
    offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Topic → its id, if the cluster gives one.
    #[serde(default)]
    topic_ids: BTreeMap<String, String>,
    /// Rows in the topic from all finished units.
    rows: u64,
    /// Rows in quarantine from all finished units.
    dead: u64,
}

/// All entries of one source.
#[derive(Debug)]
pub(super) struct Book {
    store: Store,
    source: String,
    next: u64,
    done: BTreeSet<String>,
    floor: BTreeMap<String, BTreeMap<i32, i64>>,
    topic_ids: BTreeMap<String, String>,
    rows: u64,
    dead: u64,
}

impl Book {
    /// Reads all entries.
    pub(super) async fn load(store: &Store, source: &str) -> Result<Self> {
        let mut book = Self {
            store: Store::clone(store),
            source: source.to_owned(),
            next: 0,
            done: BTreeSet::new(),
            floor: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            rows: 0,
            dead: 0,
        };
        while let Some(bytes) = store::get(store, &book.path()).await? {
            book.take(read_entry(&book.path(), &bytes)?);
        }
        Ok(book)
    }

    fn take(&mut self, entry: Entry) {
        self.done.extend(entry.units);
        self.floor = entry.offsets;
        self.topic_ids = entry.topic_ids;
        self.rows = entry.rows;
        self.dead = entry.dead;
        self.next += 1;
    }

    /// Nothing was ever written.
    pub(super) fn is_new(&self) -> bool {
        self.next == 0
    }

    /// Units that are wholly in the topics.
    pub(super) fn done(&self) -> &BTreeSet<String> {
        &self.done
    }

    /// Where the topics ended at the last entry.
    pub(super) fn floor(&self) -> &BTreeMap<String, BTreeMap<i32, i64>> {
        &self.floor
    }

    /// Ids of the topics at the last entry.
    pub(super) fn topic_ids(&self) -> &BTreeMap<String, String> {
        &self.topic_ids
    }

    /// Rows and quarantined rows of all finished units.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.rows, self.dead)
    }

    /// Writes the next entry.
    pub(super) async fn write(
        &mut self,
        units: &[String],
        offsets: BTreeMap<String, BTreeMap<i32, i64>>,
        topic_ids: BTreeMap<String, String>,
        (rows, dead): (u64, u64),
    ) -> Result<()> {
        let writer = uuid::Uuid::new_v4().to_string();
        let units = units.to_vec();
        let entry = Entry { format: FORMAT, writer, units, offsets, topic_ids, rows, dead };
        let path = self.path();
        failpoint::reached("feed.before_book")?;
        let outcome = store::put_new(&self.store, &path, seal::seal(&entry)?).await?;
        failpoint::reached("feed.after_book")?;
        match outcome {
            PutOutcome::Created => {
                self.take(entry);
                Ok(())
            }
            PutOutcome::Exists => Err(Error::new(
                ErrorKind::Fenced,
                "TM506",
                format!("another process feeds source '{}'", self.source),
            )
            .because(format!("'{path}' was written by someone else"))),
        }
    }

    fn path(&self) -> Path {
        Path::from(format!("feeds/{}/{:020}.json", self.source, self.next))
    }
}

fn read_entry(path: &Path, bytes: &[u8]) -> Result<Entry> {
    let malformed = |reason: String| {
        Error::corrupt("TM505", format!("feed record '{path}' cannot be read"))
            .because(reason)
            .help("restore the object from a backup; nothing was changed")
    };
    let entry: Entry = seal::unseal(bytes).map_err(malformed)?;
    if entry.format != FORMAT {
        return Err(malformed(format!("it has the unknown format {}", entry.format))
            .help("use the version of tidemill that wrote it, or a newer one"));
    }
    Ok(entry)
}

/// Whether a feed record's bytes are those that were written.
///
/// # Errors
/// `TM505` (kind `Corrupt`) naming the object.
pub(crate) fn check_entry(path: &Path, bytes: &[u8]) -> Result<()> {
    read_entry(path, bytes).map(drop)
}
