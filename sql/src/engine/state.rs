//! Snapshot and restore: all operator state as one self-describing blob.
//!
//! Layout: `TMST`, format version (u32 LE), length of the JSON header (u64 LE), the header, then
//! for each group in header order two Arrow IPC streams (keys; chunks), each behind its length
//! (u64 LE). A blob is restored only into an engine built from the same queries.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema, UInt32Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::DataFusionError;
use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Micros, Result, Watermark};

use super::group::Group;
use super::slice::{Chunk, Slice};
use super::{Engine, QueryCounters};

const MAGIC: &[u8; 4] = b"TMST";
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    watermark: Watermark,
    groups: Vec<GroupHeader>,
    stateless: BTreeMap<String, QueryCounters>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GroupHeader {
    input: String,
    sharing: String,
    closed: Watermark,
    queries: BTreeMap<String, QueryCounters>,
    /// Aggregates in store order, with their number of state columns.
    aggregates: Vec<(String, usize)>,
    /// For each chunk in stream order: start and end of its slice.
    chunks: Vec<(Micros, Micros)>,
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::corrupt("TM320", format!("operator state cannot be restored: {}", what.into()))
        .help("the state belongs to other queries or its bytes are damaged; see docs/errors.md")
}

fn failed(error: &ArrowError) -> Error {
    corrupt(error.to_string())
}

fn run(error: DataFusionError) -> Error {
    super::wrap(error)
}

impl Engine {
    /// All operator state. The engine goes on as before.
    ///
    /// # Errors
    /// If an aggregate cannot give its state.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        let mut groups = Vec::new();
        let mut blobs = Vec::new();
        let mut stateless = BTreeMap::new();
        for (input, readers) in &mut self.readers {
            for group in &mut readers.groups {
                group.store.seal().map_err(run)?;
                let (header, keys, chunks) = save_group(input, group)?;
                groups.push(header);
                blobs.push(keys);
                blobs.push(chunks);
            }
            for query in &readers.stateless {
                stateless.insert(query.query.clone(), query.counters);
            }
        }
        let header = Header { watermark: self.watermark, groups, stateless };
        let header = serde_json::to_vec(&header)
            .map_err(|error| Error::internal(format!("state header: {error}")))?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for part in std::iter::once(&header).chain(&blobs) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    /// Takes over the state of an engine built from the same queries.
    ///
    /// # Errors
    /// `TM320` if the bytes are damaged or belong to other queries; the engine is then unusable.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("not a state object"))?;
        let (version, mut rest) =
            rest.split_first_chunk::<4>().ok_or_else(|| corrupt("truncated"))?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(corrupt("written by another version"));
        }
        let header: Header =
            serde_json::from_slice(part(&mut rest)?).map_err(|error| corrupt(error.to_string()))?;
        self.watermark = header.watermark;
        for saved in &header.groups {
            let keys = part(&mut rest)?;
            let chunks = part(&mut rest)?;
            let group = self.readers.get_mut(&saved.input).and_then(|readers| {
                readers.groups.iter_mut().find(|group| group.sharing == saved.sharing)
            });
            // All queries of a group may have been dropped since: their state goes with them.
            if let Some(group) = group {
                restore_group(group, saved, keys, chunks)?;
            }
        }
        self.check_all_restored(&header)?;
        for query in self.readers.values_mut().flat_map(|readers| &mut readers.stateless) {
            query.counters = header.stateless.get(&query.query).copied().unwrap_or_default();
        }
        Ok(())
    }
}

impl Engine {
    /// A query that the snapshot does not know has lost its state.
    fn check_all_restored(&self, header: &Header) -> Result<()> {
        let saved: BTreeSet<&String> = header
            .groups
            .iter()
            .flat_map(|group| group.queries.keys())
            .chain(header.stateless.keys())
            .collect();
        match self.counters().keys().find(|query| !saved.contains(query)) {
            Some(query) => Err(corrupt(format!("it has no state of '{query}'"))),
            None => Ok(()),
        }
    }
}

fn part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>().ok_or_else(|| corrupt("truncated"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| corrupt("truncated"))?;
    if length > after.len() {
        return Err(corrupt("truncated"));
    }
    let (part, after) = after.split_at(length);
    *rest = after;
    Ok(part)
}

fn save_group(input: &str, group: &mut Group) -> Result<(GroupHeader, Vec<u8>, Vec<u8>)> {
    let columns = group.store.keys.columns().map_err(run)?;
    let keys = if columns.is_empty() { Vec::new() } else { write_stream(&[columns])? };
    let mut order = Vec::new();
    let mut batches = Vec::new();
    for (start, slice) in &group.store.slices {
        for chunk in &slice.chunks {
            let mut columns: Vec<ArrayRef> = vec![Arc::new(chunk.ids.clone())];
            columns.extend(chunk.states.iter().flatten().map(Arc::clone));
            order.push((*start, slice.end));
            batches.push(columns);
        }
    }
    let chunks = if batches.is_empty() { Vec::new() } else { write_stream(&batches)? };
    let mut aggregates = Vec::new();
    for aggregate in &group.store.aggregates {
        let width = aggregate.function.state_fields().map_err(run)?.len();
        aggregates.push((aggregate.text.clone(), width));
    }
    let header = GroupHeader {
        input: input.to_owned(),
        sharing: group.sharing.clone(),
        closed: group.closed,
        queries: group.clients.iter().map(|c| (c.query.clone(), c.counters)).collect(),
        aggregates,
        chunks: order,
    };
    Ok((header, keys, chunks))
}

fn write_stream(batches: &[Vec<ArrayRef>]) -> Result<Vec<u8>> {
    let fields: Vec<Field> = batches[0]
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(index.to_string(), column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|error| failed(&error))?;
    for columns in batches {
        let options = RecordBatchOptions::new().with_row_count(columns.first().map(Array::len));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&schema), columns.clone(), &options)
                .map_err(|error| failed(&error))?;
        writer.write(&batch).map_err(|error| failed(&error))?;
    }
    writer.finish().map_err(|error| failed(&error))?;
    writer.into_inner().map_err(|error| failed(&error))
}

fn read_stream(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|error| failed(&error))?;
    reader.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))
}

fn restore_group(group: &mut Group, saved: &GroupHeader, keys: &[u8], chunks: &[u8]) -> Result<()> {
    // Aggregates of dropped queries are left out; all others must be there.
    let mut columns = Vec::with_capacity(group.store.aggregates.len());
    for aggregate in &group.store.aggregates {
        let mut first = 1;
        let mut known = saved.aggregates.iter().map(|(text, width)| {
            first += width;
            (text, first - width..first)
        });
        let found = known.find(|(text, _)| **text == aggregate.text);
        let (_, range) = found.ok_or_else(|| corrupt("the aggregates differ"))?;
        columns.push(range);
    }
    group.closed = saved.closed;
    for client in &mut group.clients {
        client.counters = saved.queries.get(&client.query).copied().unwrap_or_default();
    }
    let mut new_ids = Vec::new();
    for batch in read_stream(keys)? {
        new_ids.extend(group.store.keys.intern(batch.columns(), batch.num_rows()).map_err(run)?);
    }
    let batches = read_stream(chunks)?;
    if batches.len() != saved.chunks.len() {
        return Err(corrupt("chunks are missing"));
    }
    for (batch, (start, end)) in batches.iter().zip(&saved.chunks) {
        let ids = batch.column(0).as_primitive::<UInt32Type>().clone();
        let mut states = Vec::with_capacity(columns.len());
        for range in &columns {
            let state = batch.columns().get(range.clone());
            states.push(state.ok_or_else(|| corrupt("columns are missing"))?.to_vec());
        }
        let slice = group.store.slices.entry(*start).or_insert_with(|| Slice::new(*end));
        slice.chunks.push(Chunk::restored(ids, states));
    }
    if !new_ids.is_empty() {
        for slice in group.store.slices.values_mut() {
            slice.renumber(&new_ids);
        }
    }
    Ok(())
}
