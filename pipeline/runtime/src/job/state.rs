//! The state object of a job: everything a restarted job needs that is not in the commit record.
//!
//! Layout: `TMJS`, format version (u32 LE), then parts, each behind its length (u64 LE): a JSON
//! header, the operators' own blob, and one Arrow IPC stream for each view with closed rows that
//! are not yet in a file. Behind them lie the parts of the operators' state ([`super::parts`]) that
//! no earlier object has; the header says where all of them are. A state without parts has
//! version 1. It never holds anything that a newer commit would contradict.

use std::{collections::BTreeMap, io::Cursor};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_connectors::store::Store;
use tidemill_contract::{Error, Result};
use tidemill_sql::engine::Snapshot;

use super::{
    count::RecordCount,
    parts::{self, KnownParts, PartPlace, PlacedParts},
    receipts::Told,
};
use crate::watermark::PartitionMemory;

const MAGIC: &[u8; 4] = b"TMJS";
const VERSION: u32 = 1;
/// With parts.
const VERSION_PARTS: u32 = 2;

/// The small parts of the state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Queries this job runs for their results, each with the number of its `CREATE` statement.
    pub(crate) queries: BTreeMap<String, u64>,
    /// State of each alert.
    pub(crate) alerts: BTreeMap<String, serde_json::Value>,
    /// Event-time memory by partition number.
    pub(crate) partitions: BTreeMap<i32, PartitionMemory>,
    /// Where the records went.
    pub(crate) records: RecordCount,
    /// What the receipts of each view have told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) told: BTreeMap<String, Told>,
    /// Views with closed rows, in the order of their parts.
    pub(crate) tables: Vec<String>,
    /// The parts of the operators' state, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<PartPlace>,
}

/// The whole state, to be stored.
#[derive(Debug)]
pub(crate) struct JobState {
    pub(crate) header: Header,
    /// What the operators know.
    pub(crate) engine: Snapshot,
    /// Closed rows not yet in a file, by view.
    pub(crate) tables: BTreeMap<String, Vec<RecordBatch>>,
}

/// The bytes to stage, and where the parts are.
#[derive(Debug)]
pub(crate) struct EncodedState {
    pub(crate) bytes: Vec<u8>,
    pub(crate) parts: PlacedParts,
}

/// A state that was read back; its parts are not read yet.
#[derive(Debug, Default)]
pub(crate) struct SavedState {
    pub(crate) header: Header,
    /// The operators' blob.
    pub(crate) engine: Bytes,
    pub(crate) tables: BTreeMap<String, Vec<RecordBatch>>,
    /// The parts that lie in the same object.
    pub(crate) own_parts: Bytes,
}

impl JobState {
    /// The bytes to stage; parts that are known are not among them.
    pub(crate) fn encode(mut self, known: &KnownParts) -> Result<EncodedState> {
        self.tables.retain(|_, batches| !batches.is_empty());
        self.header.tables = self.tables.keys().cloned().collect();
        let parts = known.place(&self.engine.parts)?;
        self.header.parts.clone_from(&parts.places);
        let header = serde_json::to_vec(&self.header)
            .map_err(|e| Error::internal(format!("job state header: {e}")))?;
        let blob = &self.engine.blob;
        let size = blob.len() + header.len() + parts.bytes.len() + 4096;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(MAGIC);
        let version = if parts.places.is_empty() { VERSION } else { VERSION_PARTS };
        bytes.extend_from_slice(&version.to_le_bytes());
        put_part(&mut bytes, &header);
        put_part(&mut bytes, blob);
        for batches in self.tables.values() {
            let stream = write_stream(batches)
                .map_err(|e| Error::internal(format!("closed rows cannot be saved: {e}")))?;
            put_part(&mut bytes, &stream);
        }
        bytes.extend_from_slice(&parts.bytes);
        Ok(EncodedState { bytes, parts })
    }

    /// Reads what [`Self::encode`] made.
    pub(crate) fn decode(bytes: &Bytes) -> Result<SavedState> {
        let (header, mut rest) = Self::decode_header(bytes)?;
        let engine = bytes.slice_ref(take_part(&mut rest)?);
        let mut tables = BTreeMap::new();
        for view in &header.tables {
            let batches =
                read_stream(take_part(&mut rest)?).map_err(|e| corrupt(&e.to_string()))?;
            tables.insert(view.clone(), batches);
        }
        let own_parts = bytes.slice_ref(rest);
        Ok(SavedState { header, engine, tables, own_parts })
    }

    /// Reads the header only.
    pub(crate) fn decode_header(bytes: &[u8]) -> Result<(Header, &[u8])> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("it is no job state"))?;
        let (version, mut rest) =
            rest.split_first_chunk::<4>().ok_or_else(|| corrupt("it ends too early"))?;
        if ![VERSION, VERSION_PARTS].contains(&u32::from_le_bytes(*version)) {
            return Err(corrupt("it was written by another version of tidemill"));
        }
        let header =
            serde_json::from_slice(take_part(&mut rest)?).map_err(|e| corrupt(&e.to_string()))?;
        Ok((header, rest))
    }
}

/// A state with all its parts in it, for a job that is to own it: the objects of the job it came
/// from may be removed.
///
/// # Errors
/// `TM504` or `TM703` if it or a part is damaged, `TM530` if the store does not answer.
pub(crate) async fn self_contained(store: &Store, bytes: &Bytes) -> Result<Vec<u8>> {
    let (mut header, rest) = JobState::decode_header(bytes)?;
    if header.parts.is_empty() {
        return Ok(bytes.to_vec());
    }
    let own = JobState::decode(bytes)?.own_parts;
    let found = parts::read(store, &header.parts, &own).await?;
    header.parts = parts::laid_out(&found);
    let header = serde_json::to_vec(&header)
        .map_err(|e| Error::internal(format!("job state header: {e}")))?;
    let mut whole = Vec::with_capacity(bytes.len() + found.iter().map(Bytes::len).sum::<usize>());
    whole.extend_from_slice(MAGIC);
    whole.extend_from_slice(&VERSION_PARTS.to_le_bytes());
    put_part(&mut whole, &header);
    whole.extend_from_slice(&rest[..rest.len() - own.len()]);
    for part in &found {
        whole.extend_from_slice(part);
    }
    Ok(whole)
}

fn corrupt(reason: &str) -> Error {
    Error::corrupt("TM504", "a job's state object cannot be read").because(reason)
}

fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let early = || corrupt("it ends too early");
    let (length, after) = rest.split_first_chunk::<8>().ok_or_else(early)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| early())?;
    let (part, after) = after.split_at_checked(length).ok_or_else(early)?;
    *rest = after;
    Ok(part)
}

fn write_stream(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let mut writer = StreamWriter::try_new(Vec::new(), &first.schema())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

fn read_stream(bytes: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    StreamReader::try_new(Cursor::new(bytes), None)?.collect()
}
