//! Committed offsets of consumer groups: a table in memory, an append-only file behind it.
//!
//! Each line of the file is a checksum and one JSON entry; a torn last line is dropped at start.
//! An entry is visible only after it was synced. The file is rewritten whole (atomically) when it
//! has grown far beyond the table. Offsets never expire by themselves.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tidemill_contract::Result;

use super::files::{self, failed};

/// The file is rewritten when it is larger than this and four times what a rewrite left.
const REWRITE_BYTES_MIN: u64 = 4 << 20;

/// One committed position, or its deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// `None` deletes.
    pub(crate) committed: Option<Committed>,
}

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

type PerGroup = BTreeMap<(String, i32), Committed>;

/// All committed offsets.
#[derive(Debug, Default)]
pub(crate) struct OffsetTable {
    groups: RwLock<BTreeMap<String, PerGroup>>,
}

impl OffsetTable {
    /// What a group committed for one partition.
    pub(crate) fn get(&self, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(group)?.get(&(topic.to_owned(), partition)).cloned()
    }

    /// Everything a group committed, by topic.
    pub(crate) fn of_group(&self, group: &str) -> BTreeMap<String, Vec<(i32, Committed)>> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let mut topics: BTreeMap<String, Vec<(i32, Committed)>> = BTreeMap::new();
        for ((topic, partition), committed) in groups.get(group).into_iter().flatten() {
            topics.entry(topic.clone()).or_default().push((*partition, committed.clone()));
        }
        topics
    }

    /// Names of the groups that committed something.
    pub(crate) fn group_names(&self) -> Vec<String> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.keys().cloned().collect()
    }

    /// Entries that delete everything about a topic.
    pub(crate) fn deletions_of_topic(&self, topic: &str) -> Vec<Entry> {
        self.deletions(|_, of| of == topic)
    }

    /// Entries that delete everything about a group.
    pub(crate) fn deletions_of_group(&self, group: &str) -> Vec<Entry> {
        self.deletions(|of, _| of == group)
    }

    fn deletions(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| wanted(&entry.group, &entry.topic));
        for entry in &mut entries {
            entry.committed = None;
        }
        entries
    }

    fn entries(&self) -> Vec<Entry> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::new();
        for (group, partitions) in groups.iter() {
            for ((topic, partition), committed) in partitions {
                entries.push(Entry {
                    group: group.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                    committed: Some(committed.clone()),
                });
            }
        }
        entries
    }

    fn apply(&self, entries: Vec<Entry>) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            let key = (entry.topic, entry.partition);
            match entry.committed {
                Some(committed) => {
                    groups.entry(entry.group).or_default().insert(key, committed);
                }
                None => {
                    let Some(partitions) = groups.get_mut(&entry.group) else {
                        continue;
                    };
                    partitions.remove(&key);
                    if partitions.is_empty() {
                        groups.remove(&entry.group);
                    }
                }
            }
        }
    }
}

/// The file behind the table; owned by the log thread.
#[derive(Debug)]
pub(crate) struct OffsetFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_after_rewrite: u64,
    pending: Vec<Entry>,
    broken: bool,
}

impl OffsetFile {
    /// Reads the file into `table` and rewrites it.
    pub(crate) fn open(path: PathBuf, table: &OffsetTable) -> Result<Self> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        table.apply(parse(&bytes));
        rewrite(&path, table).map_err(|error| failed("write", &path, &error))?;
        let file = reopen(&path).map_err(|error| failed("open", &path, &error))?;
        let metadata = file.metadata().map_err(|error| failed("read", &path, &error))?;
        let bytes = metadata.len();
        Ok(Self {
            path,
            file,
            bytes,
            bytes_after_rewrite: bytes,
            pending: Vec::new(),
            broken: false,
        })
    }

    /// Adds entries to the next flush.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        self.pending.extend(entries);
    }

    /// Makes the added entries durable, then visible.
    pub(crate) fn flush(&mut self, table: &OffsetTable) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.pending);
        let outgrown = self.bytes > REWRITE_BYTES_MIN.max(self.bytes_after_rewrite * 4);
        if self.broken || outgrown {
            self.rewrite(table)?;
        }
        let mut lines = Vec::new();
        for entry in &entries {
            push_line(&mut lines, entry)?;
        }
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        written.inspect_err(|_| self.broken = true)?;
        self.bytes += lines.len() as u64;
        table.apply(entries);
        Ok(())
    }

    fn rewrite(&mut self, table: &OffsetTable) -> io::Result<()> {
        rewrite(&self.path, table)?;
        self.file = reopen(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        self.bytes_after_rewrite = self.bytes;
        self.broken = false;
        Ok(())
    }
}

fn rewrite(path: &Path, table: &OffsetTable) -> io::Result<()> {
    let mut lines = Vec::new();
    for entry in table.entries() {
        push_line(&mut lines, &entry)?;
    }
    files::replace(path, &lines)
}

fn reopen(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn push_line(lines: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    let json = serde_json::to_vec(entry).map_err(io::Error::other)?;
    lines.extend_from_slice(format!("{:08x} ", crc32c::crc32c(&json)).as_bytes());
    lines.extend_from_slice(&json);
    lines.push(b'\n');
    Ok(())
}

/// The entries of all whole lines. A line stands for itself: one that is damaged costs its own
/// entry, and the group goes on from what it had committed before.
fn parse(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match parse_line(line) {
            Some(entry) => entries.push(entry),
            None if line.ends_with(b"\n") => {
                tracing::error!(line = number + 1, "a line of the committed offsets is damaged");
            }
            None => tracing::warn!("dropped a torn line at the end of the committed offsets"),
        }
    }
    entries
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let line = line.strip_suffix(b"\n")?;
    let checksum = std::str::from_utf8(line.get(..8)?).ok()?;
    let json = line.get(9..)?;
    let holds = u32::from_str_radix(checksum, 16).ok()? == crc32c::crc32c(json);
    holds.then(|| serde_json::from_slice(json).ok())?
}
