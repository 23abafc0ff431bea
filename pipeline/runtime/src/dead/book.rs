//! The replay book of a source: `replays/<source>/<seq:020>.json`, what was submitted again.
//!
//! An entry is one page of rows, made true by one conditional put, as a commit is: the rows lie in
//! the bucket before it, and the topic gets them after it. A process that dies in between leaves an
//! entry without its mark `<seq>.done`; whoever comes next reads the topic from where it ended when
//! the entry was written, and appends what is missing. So each row is in the topic once.
//!
//! It is never shortened: what was submitted stays known, also when the source is dropped.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tidemill_connectors::{
    log::kafka::{KafkaLog, KafkaWriter},
    store::{self, PutOutcome, Store},
};
use tidemill_contract::{
    Clock, Error, ErrorKind, LogWriter, Micros, OutboxFile, PartitionId, ProduceRecord, Result,
    SystemClock,
};

use super::{pages::Pages, row::decode};
use crate::{
    outbox::ID_HEADER,
    quarantine::{ATTEMPT_HEADER, REPLAY_OF_HEADER},
    writer::WriterSlot,
};

/// Version of the entry's form.
const FORMAT: u32 = 1;

/// A row to append to the source's topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Submission {
    /// Id of the dead row.
    pub(super) dead_id: String,
    /// Id of the dead row it first was.
    pub(super) replay_of: String,
    /// Which try it is, from 1.
    pub(super) attempt: u32,
    /// Where a row without a key goes.
    pub(super) partition: Option<i32>,
    pub(super) key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) payload: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    format: u32,
    /// Unique per entry: tells my own earlier try from a rival's.
    writer: String,
    /// When it was written (for people).
    written_at: Micros,
    topic: String,
    /// Where the topic ended before anything of this entry was in it.
    floor: BTreeMap<i32, i64>,
    /// The rows, JSON.
    rows: OutboxFile,
    /// Ids of the dead rows.
    ids: Vec<String>,
}

/// All entries of one source.
#[derive(Debug)]
pub(crate) struct Book {
    store: Store,
    source: String,
    next: u64,
    last: Option<Entry>,
    /// How often each dead row was submitted.
    times: HashMap<String, u32>,
}

impl Book {
    /// Reads all entries.
    pub(crate) async fn load(store: &Store, source: &str) -> Result<Self> {
        let mut book = Self {
            store: Store::clone(store),
            source: source.to_owned(),
            next: 0,
            last: None,
            times: HashMap::new(),
        };
        while let Some(bytes) = store::get(store, &book.path(book.next, "json")).await? {
            let entry = read_entry(&book.path(book.next, "json"), &bytes)?;
            book.take(entry);
        }
        Ok(book)
    }

    /// How often a dead row was submitted.
    pub(crate) fn times(&self, id: &str) -> u32 {
        self.times.get(id).copied().unwrap_or(0)
    }

    /// Completes what a process that died may have left half done; true if there was something.
    pub(crate) async fn finish(&self, log: &KafkaLog, writer: &WriterSlot) -> Result<bool> {
        let Some(entry) = &self.last else { return Ok(false) };
        let sequence = self.next - 1;
        if store::get(&self.store, &self.path(sequence, "done")).await?.is_some() {
            return Ok(false);
        }
        let rows = self.read_rows(sequence, entry).await?;
        // What an earlier try of this process has under way must be there before anyone looks.
        writer.settle().await?;
        let mut present = HashSet::new();
        let mut pages = Pages::open(log, &entry.topic, &entry.floor).await?;
        while let Some(page) = pages.next().await? {
            let headers = page.into_iter().flat_map(|(_, record)| record.headers);
            present.extend(headers.filter(|(name, _)| name == ID_HEADER).map(|(_, id)| id));
        }
        self.append(&*writer.writer(log)?, sequence, entry, &rows, &present).await?;
        Ok(true)
    }

    /// Makes it true that these rows are submitted, and appends them.
    pub(super) async fn submit(
        &mut self,
        log: &KafkaLog,
        writer: &WriterSlot,
        topic: &str,
        rows: &[Submission],
    ) -> Result<()> {
        let marks = log.watermarks(topic).await?;
        let sequence = self.next;
        let name = uuid::Uuid::new_v4().to_string();
        let body = serde_json::to_vec(rows)
            .map_err(|e| Error::internal(format!("replayed rows have no JSON form: {e}")))?;
        let path = self.path(sequence, &format!("{name}.rows"));
        let staged = OutboxFile {
            path: path.to_string(),
            bytes: body.len() as u64,
            records: rows.len() as u64,
            crc32c: crc32c::crc32c(&body),
        };
        store::put(&self.store, &path, Bytes::from(body)).await?;
        let entry = Entry {
            format: FORMAT,
            writer: name,
            written_at: SystemClock.now_micros(),
            topic: topic.to_owned(),
            floor: marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect(),
            rows: staged,
            ids: rows.iter().map(|row| row.dead_id.clone()).collect(),
        };
        let bytes = serde_json::to_vec(&entry)
            .map_err(|e| Error::internal(format!("a replay entry has no JSON form: {e}")))?;
        let path = self.path(sequence, "json");
        if store::put_new(&self.store, &path, Bytes::from(bytes)).await? == PutOutcome::Exists {
            return Err(Error::new(
                ErrorKind::Conflict,
                "TM742",
                format!("another process replays rows of source '{}'", self.source),
            )
            .because(format!("'{path}' was written by someone else"))
            .help("send the statement again when the other one is done"));
        }
        self.take(entry.clone());
        self.append(&*writer.writer(log)?, sequence, &entry, rows, &HashSet::new()).await
    }

    async fn append(
        &self,
        writer: &KafkaWriter,
        sequence: u64,
        entry: &Entry,
        rows: &[Submission],
        present: &HashSet<Bytes>,
    ) -> Result<()> {
        for row in rows {
            let id = format!("replay/{}/{sequence}/{}", self.source, row.dead_id);
            if !present.contains(id.as_bytes()) {
                writer.append(&entry.topic, record(row, &id, &entry.floor)?).await?;
            }
        }
        writer.flush().await?;
        store::put(&self.store, &self.path(sequence, "done"), Bytes::new()).await
    }

    async fn read_rows(&self, sequence: u64, entry: &Entry) -> Result<Vec<Submission>> {
        read_rows(&self.store, &self.path(sequence, "json"), entry).await
    }

    fn take(&mut self, entry: Entry) {
        for id in &entry.ids {
            *self.times.entry(id.clone()).or_default() += 1;
        }
        self.last = Some(entry);
        self.next += 1;
    }

    fn path(&self, sequence: u64, ending: &str) -> Path {
        Path::from(format!("replays/{}/{sequence:020}.{ending}", self.source))
    }
}

/// Whether an entry and its rows can be read, for a look at the whole bucket. Only objects that end
/// in `.json` are entries.
pub(crate) async fn check_entry(store: &Store, path: &Path, bytes: &[u8]) -> Result<()> {
    let entry = read_entry(path, bytes)?;
    read_rows(store, path, &entry).await.map(drop)
}

fn read_entry(path: &Path, bytes: &[u8]) -> Result<Entry> {
    let entry: Entry =
        serde_json::from_slice(bytes).map_err(|e| unreadable(path, &e.to_string()))?;
    if entry.format == FORMAT {
        return Ok(entry);
    }
    Err(unreadable(path, &format!("unknown format {}", entry.format)))
}

async fn read_rows(store: &Store, entry_path: &Path, entry: &Entry) -> Result<Vec<Submission>> {
    let Some(bytes) = store::get(store, &Path::from(entry.rows.path.as_str())).await? else {
        return Err(unreadable(entry_path, "its rows are gone"));
    };
    if crc32c::crc32c(&bytes) != entry.rows.crc32c {
        return Err(unreadable(entry_path, "its rows are not those that were written"));
    }
    serde_json::from_slice(&bytes).map_err(|e| unreadable(entry_path, &e.to_string()))
}

fn unreadable(path: &Path, reason: &str) -> Error {
    Error::corrupt("TM741", format!("replay record '{path}' cannot be read")).because(reason)
}

fn record(row: &Submission, id: &str, floor: &BTreeMap<i32, i64>) -> Result<ProduceRecord> {
    let mut headers = Vec::with_capacity(row.headers.len() + 3);
    for (name, value) in &row.headers {
        headers.push((name.clone(), decode(value)?));
    }
    headers.push((REPLAY_OF_HEADER.to_owned(), Bytes::from(row.replay_of.clone())));
    headers.push((ATTEMPT_HEADER.to_owned(), Bytes::from(row.attempt.to_string())));
    headers.push((ID_HEADER.to_owned(), Bytes::copy_from_slice(id.as_bytes())));
    let key = row.key.as_deref().map(decode).transpose()?;
    let partition = row.partition.filter(|id| key.is_none() && floor.contains_key(id));
    Ok(ProduceRecord {
        partition: partition.map(PartitionId),
        key,
        payload: Some(decode(&row.payload)?),
        timestamp_ms: row.timestamp_ms,
        headers,
    })
}

/// Bytes as they stand in an entry.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
