//! Snapshot and restore: all operator state as one self-describing blob and, if asked for, parts.
//!
//! Layout: `TMST`, format version (u32 LE), length of the JSON header (u64 LE), the header, then
//! for each group in header order two Arrow IPC streams (keys; chunks), each behind its length
//! (u64 LE). A blob is restored only into an engine built from the same queries.
//!
//! **Parts.** Most of a large state does not change between two snapshots: sealed chunks and keys
//! known before. What is large and will not change can be taken out of the blob as a [`StatePart`],
//! an Arrow IPC stream of its own with a number; the same number always means the same bytes, so
//! whoever stores them stores each once. In each group the parts come before what is in the blob:
//! first runs of keys, then chunks. A blob without parts has version 1.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Field, Schema, UInt32Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{StreamDecoder, StreamReader};
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::DataFusionError;
use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Micros, Result, Watermark};

use super::group::Group;
use super::receipt::Provenance;
use super::slice::{Chunk, Slice};
use super::{Engine, QueryCounters};

const MAGIC: &[u8; 4] = b"TMST";
/// A blob that holds everything.
const VERSION: u32 = 1;
/// A blob that needs its parts.
const VERSION_PARTS: u32 = 2;

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
    /// How many parts are runs of keys.
    #[serde(default)]
    key_parts: usize,
    /// For each part that is a chunk, after those: start and end of its slice.
    #[serde(default)]
    chunk_parts: Vec<(Micros, Micros)>,
    /// Where the rows of each slice came from, by its start.
    #[serde(default)]
    from: Vec<(Micros, Provenance)>,
}

/// State with its large, unchanging pieces apart.
#[derive(Debug)]
pub struct Snapshot {
    /// Everything else.
    pub blob: Vec<u8>,
    /// The pieces, in the order [`Engine::restore_parts`] wants them.
    pub parts: Vec<StatePart>,
}

/// A piece of state that will not change.
#[derive(Debug)]
pub struct StatePart {
    /// Its number: unique in this engine, and the same as long as the piece is there.
    pub number: u64,
    columns: Vec<ArrayRef>,
}

impl StatePart {
    /// Its bytes.
    ///
    /// # Errors
    /// If they cannot be written as Arrow IPC.
    pub fn encode(&self) -> Result<Vec<u8>> {
        write_stream(std::slice::from_ref(&self.columns))
    }
}

/// Takes pieces out of a snapshot.
#[derive(Debug)]
struct Parts<'a> {
    /// Rows from which a piece is taken out.
    rows: usize,
    next: &'a mut u64,
    taken: Vec<StatePart>,
}

impl Parts<'_> {
    /// Takes a piece out under its number, or a new one.
    fn take(&mut self, known: Option<u64>, columns: Vec<ArrayRef>) -> u64 {
        let number = known.unwrap_or_else(|| {
            *self.next += 1;
            *self.next
        });
        self.taken.push(StatePart { number, columns });
        number
    }
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
    /// All operator state as one blob. The engine goes on as before. What late rows changed must
    /// have been asked for ([`Engine::revise`]): a state holds no revision that was not said.
    ///
    /// # Errors
    /// If an aggregate cannot give its state, or a revision was not said.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        Ok(self.save(usize::MAX)?.blob)
    }

    /// All operator state, with what has at least so many rows and will not change apart. The
    /// engine goes on as before.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn snapshot_parts(&mut self, part_rows: usize) -> Result<Snapshot> {
        self.save(part_rows)
    }

    fn save(&mut self, part_rows: usize) -> Result<Snapshot> {
        let mut groups = self.readers.values().flat_map(|readers| &readers.groups);
        if groups.any(|group| !group.pending.is_empty()) {
            return Err(Error::internal("a revision was not said before the snapshot"));
        }
        let mut parts = Parts { rows: part_rows, next: &mut self.last_part, taken: Vec::new() };
        let mut groups = Vec::new();
        let mut blobs = Vec::new();
        let mut stateless = BTreeMap::new();
        for (input, readers) in &mut self.readers {
            for group in &mut readers.groups {
                group.store.seal().map_err(run)?;
                let (header, keys, chunks) = save_group(input, group, &mut parts)?;
                groups.push(header);
                blobs.push(keys);
                blobs.push(chunks);
            }
            for query in &readers.stateless {
                stateless.insert(query.query.clone(), query.counters);
            }
        }
        let parts = parts.taken;
        let header = Header { watermark: self.watermark, groups, stateless };
        let header = serde_json::to_vec(&header)
            .map_err(|error| Error::internal(format!("state header: {error}")))?;
        let version = if parts.is_empty() { VERSION } else { VERSION_PARTS };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&version.to_le_bytes());
        for part in std::iter::once(&header).chain(&blobs) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Ok(Snapshot { blob: bytes, parts })
    }

    /// Takes over the state of an engine built from the same queries.
    ///
    /// # Errors
    /// `TM320` if the bytes are damaged or belong to other queries; the engine is then unusable.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        self.restore_parts(bytes, &[]).map(|_numbers| ())
    }

    /// Takes over a state with its parts, in the order of [`Snapshot::parts`]. Gives the number of
    /// each part, `None` for one that is not needed any more or will have to be stored anew.
    ///
    /// # Errors
    /// `TM320` as for [`Self::restore`].
    pub fn restore_parts(&mut self, bytes: &[u8], parts: &[Bytes]) -> Result<Vec<Option<u64>>> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("not a state object"))?;
        let (version, mut rest) =
            rest.split_first_chunk::<4>().ok_or_else(|| corrupt("truncated"))?;
        if ![VERSION, VERSION_PARTS].contains(&u32::from_le_bytes(*version)) {
            return Err(corrupt("written by another version"));
        }
        let header: Header =
            serde_json::from_slice(part(&mut rest)?).map_err(|error| corrupt(error.to_string()))?;
        self.watermark = header.watermark;
        let wanted = header.groups.iter().map(|group| group.key_parts + group.chunk_parts.len());
        if wanted.sum::<usize>() != parts.len() {
            return Err(corrupt("parts are missing"));
        }
        let mut numbers = Vec::with_capacity(parts.len());
        for saved in &header.groups {
            let keys = part(&mut rest)?;
            let chunks = part(&mut rest)?;
            let group = self.readers.get_mut(&saved.input).and_then(|readers| {
                readers.groups.iter_mut().find(|group| group.sharing == saved.sharing)
            });
            let first = numbers.len();
            let own = &parts[first..first + saved.key_parts + saved.chunk_parts.len()];
            // All queries of a group may have been dropped since: their state goes with them.
            match group {
                Some(group) => {
                    let (key_parts, chunk_parts) = own.split_at(saved.key_parts);
                    let saved_bytes = Saved { key_parts, keys, chunk_parts, chunks };
                    numbers.extend(restore_group(group, saved, &saved_bytes, &mut self.last_part)?);
                }
                None => numbers.extend(own.iter().map(|_part| None)),
            }
        }
        self.check_all_restored(&header)?;
        for query in self.readers.values_mut().flat_map(|readers| &mut readers.stateless) {
            query.counters = header.stateless.get(&query.query).copied().unwrap_or_default();
        }
        Ok(numbers)
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

fn save_group(
    input: &str,
    group: &mut Group,
    parts: &mut Parts<'_>,
) -> Result<(GroupHeader, Vec<u8>, Vec<u8>)> {
    let (key_parts, keys) = save_keys(group, parts)?;
    let (mut order, mut batches, mut chunk_parts) = (Vec::new(), Vec::new(), Vec::new());
    for (start, slice) in &mut group.store.slices {
        let mut is_part = true;
        for chunk in &mut slice.chunks {
            // Parts come first in a slice, so that the order of chunks stays.
            is_part &= chunk.ids.len() >= parts.rows;
            let mut columns: Vec<ArrayRef> = vec![Arc::new(chunk.ids.clone())];
            columns.extend(chunk.states.iter().flatten().map(Arc::clone));
            if is_part {
                chunk.part = Some(parts.take(chunk.part, columns));
                chunk_parts.push((*start, slice.end));
            } else {
                order.push((*start, slice.end));
                batches.push(columns);
            }
        }
    }
    let chunks = if batches.is_empty() { Vec::new() } else { write_stream(&batches)? };
    let mut aggregates = Vec::new();
    for aggregate in &group.store.aggregates {
        let width = aggregate.function.state_fields().map_err(run)?.len();
        aggregates.push((aggregate.text.clone(), width));
    }
    let slices = group.store.slices.iter();
    let header = GroupHeader {
        input: input.to_owned(),
        sharing: group.sharing.clone(),
        closed: group.closed,
        queries: group.clients.iter().map(|c| (c.query.clone(), c.counters)).collect(),
        aggregates,
        chunks: order,
        key_parts,
        chunk_parts,
        from: slices.map(|(start, slice)| (*start, slice.from.clone())).collect(),
    };
    Ok((header, keys, chunks))
}

/// The keys: how many parts, and the rest.
fn save_keys(group: &mut Group, parts: &mut Parts<'_>) -> Result<(usize, Vec<u8>)> {
    let columns = group.store.keys.columns().map_err(run)?;
    if columns.is_empty() {
        return Ok((0, Vec::new()));
    }
    let slice = |from: usize, to: usize| -> Vec<ArrayRef> {
        columns.iter().map(|column| column.slice(from, to - from)).collect()
    };
    let keys = columns[0].len();
    if parts.rows == usize::MAX {
        return Ok((0, write_stream(&[columns])?));
    }
    let runs = &mut group.store.keys.runs;
    let saved = runs.last().map_or(0, |(end, _)| *end);
    if keys - saved >= parts.rows {
        // A run is joined with those before it that are not much larger: there are few runs.
        let mut from = saved;
        while let Some((end, _)) = runs.last() {
            let start = runs.len().checked_sub(2).map_or(0, |before| runs[before].0);
            if end - start >= 2 * (keys - from) {
                break;
            }
            from = start;
            runs.pop();
        }
        *parts.next += 1;
        runs.push((keys, *parts.next));
    }
    let mut from = 0;
    for (end, number) in runs.iter() {
        parts.take(Some(*number), slice(from, *end));
        from = *end;
    }
    Ok((runs.len(), write_stream(&[slice(from, keys)])?))
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

/// Reads a part without a copy: the arrays share its bytes.
fn read_part(part: &Bytes) -> Result<Vec<RecordBatch>> {
    let mut rest = Buffer::from(part.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while let Some(batch) = decoder.decode(&mut rest).map_err(|error| failed(&error))? {
        batches.push(batch);
    }
    decoder.finish().map_err(|error| failed(&error))?;
    Ok(batches)
}

fn read_stream(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|error| failed(&error))?;
    reader.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))
}

/// What was saved of one group.
struct Saved<'a> {
    key_parts: &'a [Bytes],
    keys: &'a [u8],
    chunk_parts: &'a [Bytes],
    chunks: &'a [u8],
}

/// For each aggregate of the group the state columns that hold it. Those of dropped queries are left
/// out; all others must be there.
fn state_columns(group: &Group, saved: &GroupHeader) -> Result<Vec<Range<usize>>> {
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
    Ok(columns)
}

/// Gives the numbers of the group's parts.
fn restore_group(
    group: &mut Group,
    saved: &GroupHeader,
    bytes: &Saved<'_>,
    last_part: &mut u64,
) -> Result<Vec<Option<u64>>> {
    let columns = state_columns(group, saved)?;
    group.closed = saved.closed;
    for client in &mut group.clients {
        client.counters = saved.queries.get(&client.query).copied().unwrap_or_default();
    }
    // The parts as they are are of use only if they hold what this engine would save.
    let widths: usize = saved.aggregates.iter().map(|(_, width)| width).sum();
    let is_same = columns.iter().map(Range::len).sum::<usize>() == widths
        && columns.windows(2).all(|pair| pair[0].end == pair[1].start);
    let mut number = || {
        *last_part += 1;
        *last_part
    };
    let mut numbers = Vec::new();
    let mut new_ids = Vec::new();
    let mut intern = |group: &mut Group, batches: Vec<RecordBatch>| -> Result<usize> {
        for batch in batches {
            let ids = group.store.keys.intern(batch.columns(), batch.num_rows()).map_err(run)?;
            new_ids.extend(ids);
        }
        Ok(new_ids.len())
    };
    for part in bytes.key_parts {
        let end = intern(group, read_part(part)?)?;
        let number = number();
        group.store.keys.runs.push((end, number));
        numbers.push(Some(number));
    }
    intern(group, read_stream(bytes.keys)?)?;
    let mut batches = Vec::new();
    for part in bytes.chunk_parts {
        batches.extend(read_part(part)?);
    }
    let parts = batches.len();
    batches.extend(read_stream(bytes.chunks)?);
    if parts != saved.chunk_parts.len() || batches.len() != parts + saved.chunks.len() {
        return Err(corrupt("chunks are missing"));
    }
    let places = saved.chunk_parts.iter().chain(&saved.chunks);
    for (index, (batch, (start, end))) in batches.iter().zip(places).enumerate() {
        let ids = batch.column(0).as_primitive::<UInt32Type>().clone();
        let mut states = Vec::with_capacity(columns.len());
        for range in &columns {
            let state = batch.columns().get(range.clone());
            states.push(state.ok_or_else(|| corrupt("columns are missing"))?.to_vec());
        }
        let slice = group.store.slices.entry(*start).or_insert_with(|| Slice::new(*end));
        let mut chunk = Chunk::restored(ids, states);
        if index < parts {
            chunk.part = is_same.then(&mut number);
            numbers.push(chunk.part);
        }
        slice.chunks.push(chunk);
    }
    for (start, from) in &saved.from {
        if let Some(slice) = group.store.slices.get_mut(start) {
            slice.from = from.clone();
        }
    }
    let is_renumbered = new_ids.iter().zip(0_u32..).any(|(id, before)| *id != before);
    if is_renumbered {
        group.store.keys.runs.clear();
        numbers.fill(None);
        for slice in group.store.slices.values_mut() {
            slice.renumber(&new_ids);
        }
    }
    Ok(numbers)
}
