//! The state object of a job: everything a restarted job needs that is not in the commit record.
//!
//! Layout: `TMJS`, format version (u32 LE), then parts, each behind its length (u64 LE): a JSON
//! header, the operators' own blob, and one Arrow IPC stream for each view with closed rows that
//! are not yet in a file. It never holds anything that a newer commit would contradict.

use std::{collections::BTreeMap, io::Cursor};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Result};

use super::count::RecordCount;
use crate::watermark::PartitionMemory;

const MAGIC: &[u8; 4] = b"TMJS";
const VERSION: u32 = 1;

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
    /// Views with closed rows, in the order of their parts.
    pub(crate) tables: Vec<String>,
}

/// The whole state.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobState {
    pub(crate) header: Header,
    /// The operators' blob.
    pub(crate) engine: Vec<u8>,
    /// Closed rows not yet in a file, by view.
    pub(crate) tables: BTreeMap<String, Vec<RecordBatch>>,
}

impl JobState {
    /// The bytes to stage.
    pub(crate) fn encode(mut self) -> Result<Vec<u8>> {
        self.tables.retain(|_, batches| !batches.is_empty());
        self.header.tables = self.tables.keys().cloned().collect();
        let header = serde_json::to_vec(&self.header)
            .map_err(|e| Error::internal(format!("job state header: {e}")))?;
        let mut bytes = Vec::with_capacity(self.engine.len() + header.len() + 4096);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        put_part(&mut bytes, &header);
        put_part(&mut bytes, &self.engine);
        for batches in self.tables.values() {
            let stream = write_stream(batches)
                .map_err(|e| Error::internal(format!("closed rows cannot be saved: {e}")))?;
            put_part(&mut bytes, &stream);
        }
        Ok(bytes)
    }

    /// Reads what [`Self::encode`] made.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let (header, mut rest) = Self::decode_header(bytes)?;
        let engine = take_part(&mut rest)?.to_vec();
        let mut tables = BTreeMap::new();
        for view in &header.tables {
            let batches =
                read_stream(take_part(&mut rest)?).map_err(|e| corrupt(&e.to_string()))?;
            tables.insert(view.clone(), batches);
        }
        Ok(Self { header, engine, tables })
    }

    /// Reads the header only.
    pub(crate) fn decode_header(bytes: &[u8]) -> Result<(Header, &[u8])> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("it is no job state"))?;
        let (version, mut rest) =
            rest.split_first_chunk::<4>().ok_or_else(|| corrupt("it ends too early"))?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(corrupt("it was written by another version of tidemill"));
        }
        let header =
            serde_json::from_slice(take_part(&mut rest)?).map_err(|e| corrupt(&e.to_string()))?;
        Ok((header, rest))
    }
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
