//! Opening a partition: find its segments, check them, cut a torn tail, rebuild what is in memory.
//!
//! Closed segments were synced before the next one was created, so only their structure is walked;
//! a break there is lost data and an error, never repaired silently. The last segment may end in
//! bytes that were never acknowledged: every checksum in it is verified and the file is cut after
//! the last whole batch. What is kept is synced before anybody reads it: a process that was killed
//! between a write and its sync leaves records that a reader would count on and a power cut take.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Result};

use super::batch::{self, HEADER_BYTES, Header};
use super::files::{self, failed};
use super::producers::Producers;
use super::segment::{Segment, Stored};

const IDENTITY_FILE: &str = "partition.json";

/// What a partition directory says about itself, besides its segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Topic id; a directory left over from a deleted topic of the same name carries another one.
    pub(crate) topic_id: String,
    /// First offset that may be read.
    pub(crate) log_start: i64,
}

impl Identity {
    /// Reads the identity of a partition directory.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        files::read_json(&dir.join(IDENTITY_FILE))
    }

    /// Writes it durably.
    pub(crate) fn store(&self, dir: &Path) -> std::io::Result<()> {
        files::replace_json(&dir.join(IDENTITY_FILE), self)
    }
}

/// A partition as found on disk.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// At least one; the last is the open one.
    pub(crate) segments: Vec<Segment>,
    pub(crate) producers: Producers,
    pub(crate) log_start: i64,
}

/// Makes the directory of a new, empty partition.
pub(crate) fn create(dir: &Path, topic_id: &str) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| failed("create", dir, &error))?;
    let identity = Identity { topic_id: topic_id.to_owned(), log_start: 0 };
    identity.store(dir).map_err(|error| failed("write", dir, &error))?;
    Segment::create(dir, 0).map_err(|error| failed("create", dir, &error))?;
    Ok(())
}

/// Opens the partition in `dir`, which must belong to the topic.
pub(crate) fn open(dir: &Path, topic_id: &str) -> Result<Recovered> {
    let identity = Identity::load(dir)?.filter(|identity| identity.topic_id == topic_id);
    let Some(identity) = identity else {
        return Err(missing(
            dir,
            "the directory of a partition is gone or belongs to another topic",
        ));
    };
    files::sync_dir(dir).map_err(|error| failed("sync", dir, &error))?;
    let bases = segment_bases(dir)?;
    let Some(last) = bases.last().copied() else {
        return Err(missing(dir, "a partition has no segment file"));
    };
    let mut producers = Producers::default();
    let mut segments: Vec<Segment> = Vec::with_capacity(bases.len());
    for base in bases {
        let mut segment = Segment::open(dir, base).map_err(|error| failed("open", dir, &error))?;
        if segments.last().is_some_and(|previous| previous.next_offset != base) {
            return Err(missing(&segment.path, "the offsets before this segment are missing"));
        }
        match base == last {
            true => recover_open(&mut segment, &mut producers)?,
            false => walk_closed(&mut segment, &mut producers)?,
        }
        segments.push(segment);
    }
    let first = segments.first().map_or(0, |segment| segment.base);
    let end = segments.last().map_or(0, |segment| segment.next_offset);
    let log_start = identity.log_start.max(first).min(end);
    Ok(Recovered { segments, producers, log_start })
}

/// Rebuilds the producers from durable segments, after a failed write was rolled back.
pub(crate) fn rescan_producers(
    files: &[(std::sync::Arc<fs::File>, u64)],
) -> std::io::Result<Producers> {
    let mut producers = Producers::default();
    for (file, bytes) in files {
        let mut position = 0;
        let mut head = [0; HEADER_BYTES];
        while position + HEADER_BYTES as u64 <= *bytes {
            file.read_exact_at(&mut head, position)?;
            let Some(header) = Header::parse(&head) else {
                break;
            };
            producers.record(&header, header.base_offset);
            position += header.total_bytes as u64;
        }
    }
    Ok(producers)
}

fn walk_closed(segment: &mut Segment, producers: &mut Producers) -> Result<()> {
    let length = file_length(segment)?;
    let mut head = [0; HEADER_BYTES];
    while segment.bytes < length {
        let position = segment.bytes;
        let header = match length - position >= HEADER_BYTES as u64 {
            true => {
                let read = segment.file.read_exact_at(&mut head, position);
                read.map_err(|error| failed("read", &segment.path, &error))?;
                Header::parse(&head)
            }
            false => None,
        };
        let next = header.filter(|header| {
            header.base_offset == segment.next_offset
                && header.total_bytes as u64 <= length - position
        });
        let Some(header) = next else {
            return Err(missing(
                &segment.path,
                &format!("a closed segment breaks at byte {position}"),
            ));
        };
        producers.record(&header, header.base_offset);
        segment.note(&Stored::new(&header, header.base_offset, position));
    }
    Ok(())
}

fn recover_open(segment: &mut Segment, producers: &mut Producers) -> Result<()> {
    let length = file_length(segment)?;
    let mut buffer = vec![0; HEADER_BYTES];
    while let Some(header) = whole_batch(segment, length, &mut buffer)? {
        producers.record(&header, header.base_offset);
        segment.note(&Stored::new(&header, header.base_offset, segment.bytes));
    }
    if segment.bytes == length {
        let synced = segment.file.sync_all();
        return synced.map_err(|error| failed("sync", &segment.path, &error));
    }
    tracing::warn!(
        file = %segment.path.display(),
        kept_bytes = segment.bytes,
        cut_bytes = length - segment.bytes,
        next_offset = segment.next_offset,
        "cut a torn tail that was never acknowledged"
    );
    let cut = segment.file.set_len(segment.bytes).and_then(|()| segment.file.sync_all());
    cut.map_err(|error| failed("truncate", &segment.path, &error))
}

/// The batch after the verified bytes, if it is whole, in order and its checksum holds.
fn whole_batch(segment: &Segment, length: u64, buffer: &mut Vec<u8>) -> Result<Option<Header>> {
    let position = segment.bytes;
    let rest = length - position;
    if rest < HEADER_BYTES as u64 {
        return Ok(None);
    }
    buffer.resize(HEADER_BYTES, 0);
    let read = segment.file.read_exact_at(buffer, position);
    read.map_err(|error| failed("read", &segment.path, &error))?;
    let Some(header) = Header::parse(buffer) else {
        return Ok(None);
    };
    if header.magic != 2 || header.total_bytes as u64 > rest {
        return Ok(None);
    }
    if header.base_offset != segment.next_offset || header.last_offset_delta < 0 {
        return Ok(None);
    }
    buffer.resize(header.total_bytes, 0);
    let read = segment.file.read_exact_at(buffer, position);
    read.map_err(|error| failed("read", &segment.path, &error))?;
    Ok(batch::checksum_holds(&header, buffer).then_some(header))
}

fn segment_bases(dir: &Path) -> Result<Vec<i64>> {
    let mut bases = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| failed("list", dir, &error))?;
    for entry in entries {
        let name = entry.map_err(|error| failed("list", dir, &error))?.file_name();
        let base = name.to_str().and_then(|name| name.strip_suffix(".log"));
        bases.extend(base.and_then(|base| base.parse::<i64>().ok()));
    }
    bases.sort_unstable();
    Ok(bases)
}

fn file_length(segment: &Segment) -> Result<u64> {
    let metadata = segment.file.metadata();
    Ok(metadata.map_err(|error| failed("read", &segment.path, &error))?.len())
}

fn missing(path: &Path, reason: &str) -> Error {
    Error::corrupt("TM613", format!("broker data is missing at '{}'", path.display()))
        .because(reason)
        .help("restore the broker's data directory from a backup, or delete the topic's folders")
}
