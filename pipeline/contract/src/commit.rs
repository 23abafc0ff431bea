//! The commit record: the only moment at which anything becomes true.
//!
//! `commits/<job>/<epoch:020>.json`, created with a conditional put. Everything it names was
//! uploaded before; publication after it is roll-forward and idempotent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Loss, Micros, RecordMark, Watermark, WindowBounds};

/// Progress in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Next offset to read.
    pub next_offset: i64,
    /// CRC32C of the payload of the record at the last offset read, `None` if none was read.
    pub fingerprint: Option<u32>,
    /// Offset of that record.
    pub fingerprint_offset: Option<i64>,
    /// Watermark of this partition.
    pub watermark: Watermark,
    /// Fixed end offset (exclusive) if the source is bounded.
    pub bound: Option<i64>,
    /// Some of the records that were read, by offset: the last one, and ever fewer before it.
    #[serde(default)]
    pub marks: Vec<RecordMark>,
    /// The log's end (exclusive) as last heard.
    #[serde(default)]
    pub end: Option<i64>,
}

/// A Parquet file uploaded but not yet in its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// View whose table it belongs to.
    pub view: String,
    /// Path in the bucket.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// CRC32C of the whole file.
    pub crc32c: u32,
}

/// Windows of a view whose rows in the table are replaced with this commit: the publication takes
/// the old rows out and puts the new ones, which are among [`Commit::files`], in. Files are found
/// by the windows and not named here, because a compaction may move rows between files meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisedTable {
    /// View whose table it is.
    pub view: String,
    /// Column that holds the start of each row's window.
    pub start_column: String,
    /// Column that holds its end.
    pub end_column: String,
    /// The windows, ascending.
    pub windows: Vec<WindowBounds>,
    /// Rows these windows have in the table before.
    pub rows: u64,
}

/// Records to append to topics or files after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxFile {
    /// Path in the bucket of the staged records.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// CRC32C of the whole file.
    pub crc32c: u32,
}

/// Queries that leave a job for a job of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The queries, each with the number of its `CREATE` statement.
    pub queries: BTreeMap<String, u64>,
    /// Views whose files of the commit before go with them.
    pub tables: BTreeSet<String>,
    /// Topics whose records of the commit before go with them.
    pub topics: BTreeSet<String>,
    /// File sinks whose bytes of the commit before go with them.
    pub file_sinks: BTreeSet<String>,
}

/// The commit under whose name a table knows some files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its job.
    pub job: String,
    /// Its epoch.
    pub epoch: u64,
}

/// One epoch of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Format version of this record.
    pub format: u32,
    /// Job name.
    pub job: String,
    /// Epoch, from 1, dense.
    pub epoch: u64,
    /// Unique id of the writing process run: tells my own earlier try from a rival's.
    pub writer: String,
    /// Take-over count of the job: grows by one with each recovery.
    pub generation: u64,
    /// When it was written (wall clock, for people only).
    pub written_at: Micros,
    /// Progress per partition number.
    pub partitions: BTreeMap<i32, PartitionProgress>,
    /// The source's watermark.
    pub watermark: Watermark,
    /// The source is bounded and everything was read and emitted.
    pub drained: bool,
    /// Operator state object, `None` for an empty state.
    pub state: Option<OutboxFile>,
    /// Earlier state objects of this job of which the state uses parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_state: Vec<OutboxFile>,
    /// Parquet files that become part of their tables with this commit.
    pub files: Vec<StagedFile>,
    /// Windows whose rows those files replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revised: Vec<RevisedTable>,
    /// Records to publish after this commit: alerts, sinks, dead and late rows.
    pub outbox: Option<OutboxFile>,
    /// Where each outbox topic ended, per partition, when the publication before this one was
    /// complete: recovery looks for already published ids from here on.
    pub topic_floor: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Byte length of each file sink after this epoch.
    pub file_sink_bytes: BTreeMap<String, u64>,
    /// Counters since the job began.
    pub counters: BTreeMap<String, u64>,
    /// The cluster's id of the topic that was read, `None` if it gives none.
    #[serde(default)]
    pub topic_id: Option<String>,
    /// The newest losses of log data that were accepted.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// Version of the registered queries (catalog sequence) this was computed with.
    pub catalog_version: u64,
    /// Queries whose results this job publishes, each with the number of its `CREATE` statement.
    /// Older records have none: theirs are in the header of the state.
    #[serde(default)]
    pub queries: Option<BTreeMap<String, u64>>,
    /// Queries that left with this commit, by the job that has them from here on. Its first commit
    /// is made from this one and the one before.
    #[serde(default)]
    pub splits: BTreeMap<String, Split>,
    /// `files` were part of another job's commit: their tables know them under its name.
    #[serde(default)]
    pub origin: Option<Origin>,
}

impl Commit {
    /// All state and outbox objects the commit needs.
    pub fn objects(&self) -> impl Iterator<Item = &OutboxFile> {
        self.state.iter().chain(&self.shared_state).chain(&self.outbox)
    }
}
