//! Names of a table's data files: who wrote the file, for which epoch, and the checksum of its bytes.
//!
//! Why in the name: a data file never changes, and whoever holds its path (a query, a compaction,
//! `fsck`, a clean-up years later) can tell whether the bytes are those that were written and whose
//! they are, without another object to ask. Names of other engines' files are not understood, and
//! so neither judged nor removed.
//!
//! `part-<epoch:020>-<crc32c:08x>-<job>-<uuid>.parquet` and `compact-<crc32c:08x>-<uuid>.parquet`

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};
use tidemill_contract::{Error, Result};

use crate::store::{self, Store};

/// Who wrote a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOrigin {
    /// A job, before the commit of an epoch.
    Staged {
        /// The job's name.
        job: String,
        /// The epoch it was staged for.
        epoch: u64,
    },
    /// A compaction, or the rewrite of files whose windows were revised.
    Compacted,
}

/// What a data file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFileName {
    /// Who wrote it.
    pub origin: FileOrigin,
    /// CRC32C of all its bytes.
    pub crc32c: u32,
}

impl DataFileName {
    /// Reads the name at the end of a path; `None` for one that is not of ours.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.filename()?.strip_suffix(".parquet")?;
        let (front, uuid) = name.rsplit_once('-')?;
        if uuid.len() != 32 || !uuid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        if let Some(crc32c) = front.strip_prefix("compact-") {
            return Some(Self { origin: FileOrigin::Compacted, crc32c: checksum(crc32c)? });
        }
        let (epoch, rest) = front.strip_prefix("part-")?.split_once('-')?;
        let (crc32c, job) = rest.split_once('-')?;
        let digits = epoch.len() == 20 && epoch.bytes().all(|byte| byte.is_ascii_digit());
        let epoch = epoch.parse().ok().filter(|_| digits)?;
        let origin = FileOrigin::Staged { job: job_of(job)?, epoch };
        Some(Self { origin, crc32c: checksum(crc32c)? })
    }
}

fn checksum(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8)
}

/// A job's name as it stands in file names: itself, or its bytes in hex if some reader of the
/// table might want to escape a character of it.
fn job_part(job: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if job.bytes().all(is_plain) && !job.starts_with("0x") {
        return job.to_owned();
    }
    job.bytes().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Undoes [`job_part`].
fn job_of(part: &str) -> Option<String> {
    let Some(hex) = part.strip_prefix("0x") else { return Some(part.to_owned()) };
    let bytes: Option<Vec<u8>> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

/// The name of a file a job stages for an epoch.
pub fn staged_name(job: &str, epoch: u64, crc32c: u32) -> String {
    let (job, uuid) = (job_part(job), uuid::Uuid::new_v4().simple());
    format!("part-{epoch:020}-{crc32c:08x}-{job}-{uuid}.parquet")
}

/// The name of a file a compaction or a rewrite writes.
pub(super) fn compacted_name(crc32c: u32) -> String {
    format!("compact-{crc32c:08x}-{}.parquet", uuid::Uuid::new_v4().simple())
}

/// The bytes are those the file's name speaks of; a name of another engine's says nothing.
///
/// # Errors
/// `TM568` (kind `Corrupt`) naming the file.
pub fn check_content(path: &Path, content: &Bytes) -> Result<()> {
    check_checksum(path, crc32c::crc32c(content))
}

fn check_checksum(path: &Path, found: u32) -> Result<()> {
    match DataFileName::of(path) {
        Some(name) if name.crc32c != found => {
            let reason = format!("its crc32c is {found:08x}, its name says {:08x}", name.crc32c);
            Err(damaged_file(path, reason))
        }
        _ => Ok(()),
    }
}

/// Reads a whole data file, a piece at a time, and compares it with its name; gives its length.
///
/// # Errors
/// `TM568` (kind `Corrupt`) if it is damaged, `TM569` (kind `Corrupt`) if it is gone, `TM530` if
/// the store does not answer.
pub async fn check_file(store: &Store, path: &Path) -> Result<u64> {
    let unreadable = |error: object_store::Error| match error {
        object_store::Error::NotFound { .. } => {
            Error::corrupt("TM569", format!("file '{path}' of a table is gone"))
                .help("restore it from a backup; `tidemill fsck` lists all that is damaged")
        }
        error => store::failure("read", path, &error),
    };
    let mut content = store.get(path).await.map_err(unreadable)?.into_stream();
    let (mut crc32c, mut bytes) = (0, 0);
    while let Some(chunk) = content.try_next().await.map_err(unreadable)? {
        crc32c = crc32c::crc32c_append(crc32c, &chunk);
        bytes += chunk.len() as u64;
    }
    check_checksum(path, crc32c)?;
    Ok(bytes)
}

/// A data file whose bytes are not those that were written.
pub fn damaged_file(path: &Path, reason: impl Into<String>) -> Error {
    Error::corrupt("TM568", format!("file '{path}' of a table is damaged"))
        .because(reason)
        .help("restore it from a backup; `tidemill fsck` lists all that is damaged")
}
