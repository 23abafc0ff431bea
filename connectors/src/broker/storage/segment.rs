//! One segment file of a partition and the sparse index over it.
//!
//! Invariants: the index is sorted by offset and by position, its first entry is the start of the
//! file, and it describes durable bytes only. A reader that finds an entry walks at most
//! [`INDEX_INTERVAL`] bytes of batches to reach the one it wants.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::Header;
use super::files;

/// Bytes of batches between two index entries: 24 bytes of memory per 16 KiB of log.
pub(crate) const INDEX_INTERVAL: u64 = 16 << 10;

/// Where a stored batch lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    pub(crate) max_timestamp: i64,
}

impl Stored {
    /// The place of a batch whose header carries its final offset.
    pub(crate) fn new(header: &Header, base_offset: i64, position: u64) -> Self {
        Self {
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta),
            position,
            bytes: header.total_bytes as u64,
            max_timestamp: header.max_timestamp,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    position: u64,
    /// Largest time from this entry up to the next one.
    max_timestamp: i64,
}

/// A segment as readers see it: durable bytes only.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: i64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Durable bytes.
    pub(crate) bytes: u64,
    /// One past the last durable offset.
    pub(crate) next_offset: i64,
    pub(crate) max_timestamp: i64,
    index: Vec<Entry>,
}

impl Segment {
    /// A segment over an existing or a new file; the caller syncs the directory.
    pub(crate) fn open(dir: &Path, base: i64) -> io::Result<Self> {
        let path = path_of(dir, base);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        Ok(Self {
            base,
            path,
            file: Arc::new(file),
            bytes: 0,
            next_offset: base,
            max_timestamp: -1,
            index: Vec::new(),
        })
    }

    /// A new empty segment whose directory entry is durable.
    pub(crate) fn create(dir: &Path, base: i64) -> io::Result<Self> {
        let segment = Self::open(dir, base)?;
        segment.file.set_len(0)?;
        segment.file.sync_all()?;
        files::sync_dir(dir)?;
        Ok(segment)
    }

    /// Takes a durable batch into account.
    pub(crate) fn note(&mut self, stored: &Stored) {
        debug_assert_eq!(stored.position, self.bytes, "batches are noted in file order");
        match self.index.last_mut() {
            Some(entry) if stored.position - entry.position < INDEX_INTERVAL => {
                entry.max_timestamp = entry.max_timestamp.max(stored.max_timestamp);
            }
            _ => self.index.push(Entry {
                offset: stored.base_offset,
                position: stored.position,
                max_timestamp: stored.max_timestamp,
            }),
        }
        self.bytes = stored.position + stored.bytes;
        self.next_offset = stored.last_offset + 1;
        self.max_timestamp = self.max_timestamp.max(stored.max_timestamp);
    }

    /// A position at or before the batch that holds `offset`.
    pub(crate) fn position_of(&self, offset: i64) -> u64 {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        self.index.get(after.saturating_sub(1)).map_or(0, |entry| entry.position)
    }

    /// A position at or before the first batch that reaches `timestamp`.
    pub(crate) fn position_of_time(&self, timestamp: i64) -> Option<u64> {
        let entry = self.index.iter().find(|entry| entry.max_timestamp >= timestamp)?;
        Some(entry.position)
    }
}

/// `<dir>/<base offset, 20 digits>.log`.
pub(crate) fn path_of(dir: &Path, base: i64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}
