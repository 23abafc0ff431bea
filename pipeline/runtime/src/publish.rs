//! What happens before a commit: Parquet, state and outbox are uploaded whole, under unique names.
//!
//! Why its own stage: a staged object is invisible until a commit names it, so uploads may fail,
//! repeat, or be forgotten at any point without a trace in the results. It never writes a commit
//! record, a table's log or a topic, and never overwrites an object.
//!
//! Invariants:
//! - every name has the epoch and a fresh uuid in it: two tries never share an object;
//! - nothing empty is staged: no rows, no file;
//! - size and CRC32C of what was uploaded are in the commit, and [`read_staged`] compares both
//!   before it gives out a byte.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tidemill_connectors::failpoint;
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store::{self, PutOutcome, Store};
use tidemill_contract::{Error, OutboxFile, Result, StagedFile};

use crate::outbox::Outbox;

/// Parquet files written and uploaded at once.
const PARALLEL: usize = 4;

/// Everything one epoch uploaded; its fields go into the commit as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedEpoch {
    /// For `Commit::files`, in order of the views' names.
    pub files: Vec<StagedFile>,
    /// For `Commit::state`.
    pub state: Option<OutboxFile>,
    /// For `Commit::outbox`.
    pub outbox: Option<OutboxFile>,
}

/// Uploads the objects of one epoch of one job.
#[derive(Debug, Clone)]
pub struct Staged {
    store: Store,
    job: String,
    epoch: u64,
}

impl Staged {
    /// Stages for an epoch that is not yet committed.
    pub fn new(store: Store, job: &str, epoch: u64) -> Self {
        Self { store, job: job.to_owned(), epoch }
    }

    /// Uploads all parts of the epoch side by side: the finished rows of each view, the state
    /// (empty = none), the outbox.
    ///
    /// # Errors
    /// The first error of any part; what was uploaded by then is never seen by anyone.
    pub async fn stage(
        &self,
        rows: BTreeMap<String, Vec<RecordBatch>>,
        state: Vec<u8>,
        outbox: &Outbox,
    ) -> Result<StagedEpoch> {
        let files = stream::iter(rows)
            .map(|(view, batches)| async move { self.stage_parquet(&view, batches).await })
            .buffered(PARALLEL)
            .try_filter_map(async |file| Ok(file))
            .try_collect();
        let (files, state, outbox) =
            tokio::try_join!(files, self.stage_state(state), self.stage_outbox(outbox))?;
        Ok(StagedEpoch { files, state, outbox })
    }

    /// Uploads rows of one view as one Parquet file of its table; `None` if there are no rows.
    ///
    /// # Errors
    /// `TM562` if a value does not fit the lake's types, `TM530` if the store does not answer.
    pub async fn stage_parquet(
        &self,
        view: &str,
        batches: Vec<RecordBatch>,
    ) -> Result<Option<StagedFile>> {
        let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if rows == 0 {
            return Ok(None);
        }
        let bytes = tokio::task::spawn_blocking(move || delta::write_parquet(&batches))
            .await
            .map_err(|error| Error::internal(format!("writing parquet panicked: {error}")))??;
        let name = delta::staged_name(&self.job, self.epoch, crc32c::crc32c(&bytes));
        failpoint::reached("upload.before_rows")?;
        let object = self.upload(Path::from("tables").join(view).join(name), bytes, rows).await?;
        failpoint::reached("upload.after_rows")?;
        Ok(Some(StagedFile {
            view: view.to_owned(),
            path: object.path,
            bytes: object.bytes,
            rows,
            crc32c: object.crc32c,
        }))
    }

    /// Uploads the operators' state; `None` if it is empty.
    ///
    /// # Errors
    /// `TM530` if the store does not answer.
    pub async fn stage_state(&self, bytes: Vec<u8>) -> Result<Option<OutboxFile>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        failpoint::reached("upload.before_state")?;
        let object = self.upload(self.object_path("state"), Bytes::from(bytes), 1).await?;
        failpoint::reached("upload.after_state")?;
        Ok(Some(object))
    }

    /// Uploads the records to publish; `None` if there are none.
    ///
    /// # Errors
    /// `TM530` if the store does not answer.
    pub async fn stage_outbox(&self, outbox: &Outbox) -> Result<Option<OutboxFile>> {
        if outbox.is_empty() {
            return Ok(None);
        }
        let bytes = outbox.encode()?;
        failpoint::reached("upload.before_outbox")?;
        let records = outbox.len() as u64;
        let object = self.upload(self.object_path("outbox"), bytes, records).await?;
        failpoint::reached("upload.after_outbox")?;
        Ok(Some(object))
    }

    fn object_path(&self, folder: &str) -> Path {
        let name = format!("{:020}-{}.bin", self.epoch, uuid::Uuid::new_v4());
        Path::from(folder).join(self.job.as_str()).join(name)
    }

    async fn upload(&self, path: Path, bytes: Bytes, records: u64) -> Result<OutboxFile> {
        let crc32c = crc32c::crc32c(&bytes);
        let size = bytes.len() as u64;
        match store::put_new(&self.store, &path, bytes).await? {
            PutOutcome::Created => {
                Ok(OutboxFile { path: path.to_string(), bytes: size, records, crc32c })
            }
            PutOutcome::Exists => {
                Err(Error::internal(format!("'{path}' exists, though its name is a fresh uuid")))
            }
        }
    }
}

/// Reads a staged object back, whole and checked.
///
/// # Errors
/// `TM703` (kind `Corrupt`) naming the object if it is gone, shorter, longer or changed; `TM530`
/// if the store does not answer.
pub async fn read_staged(store: &Store, object: &OutboxFile) -> Result<Bytes> {
    let wrong = |reason: String| {
        Error::corrupt("TM703", format!("object '{}' is not what its commit names", object.path))
            .because(reason)
            .help("restore the object from a backup; nothing was changed")
    };
    // The path is stored as the store writes it: parsed, never encoded a second time.
    let path = Path::parse(&object.path).map_err(|error| wrong(error.to_string()))?;
    let check = |bytes: Bytes| {
        if bytes.len() as u64 != object.bytes {
            return Err(wrong(format!("it has {} bytes, not {}", bytes.len(), object.bytes)));
        }
        let found = crc32c::crc32c(&bytes);
        if found != object.crc32c {
            let sums = format!("its crc32c is {found:08x}, not {:08x}", object.crc32c);
            return Err(wrong(sums));
        }
        Ok(bytes)
    };
    let read = store::get_checked(store, &path, check).await?;
    read.ok_or_else(|| wrong("it is not there".to_owned()))
}

/// Reads the outbox of a commit.
///
/// # Errors
/// As [`read_staged`]; `TM704` if the object is no outbox or has another number of records.
pub async fn read_outbox(store: &Store, object: &OutboxFile) -> Result<Outbox> {
    let outbox = Outbox::decode(read_staged(store, object).await?, &object.path)?;
    if outbox.len() as u64 != object.records {
        return Err(Error::corrupt(
            "TM704",
            format!("outbox object '{}' is malformed", object.path),
        )
        .because(format!("it has {} records, not {}", outbox.len(), object.records)));
    }
    Ok(outbox)
}
