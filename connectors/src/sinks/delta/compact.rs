//! Compaction: the small files of a table become one larger file, in one Delta commit that says
//! no data changed.
//!
//! Why: results are published often, so that they can be read soon, and that makes many small
//! files. The rows are copied as they are. The old files stay in the bucket: whoever opened the
//! table before still reads them. A try that ends half way leaves a file nobody names, no more.

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::kernel::{Action, Add, Remove};
use deltalake_core::protocol::DeltaOperation;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_contract::{Error, Result, StagedFile};

use super::name::{check_content, compacted_name};
use super::{add_action, commit, failure, load, location, write_parquet};
use crate::{
    failpoint,
    store::{self, Store},
};

/// What counts as small, and how much is put together at once.
#[derive(Debug, Clone, Copy)]
pub struct CompactSettings {
    /// A file below this many bytes is small.
    pub small_bytes: i64,
    /// Fewer small files than this are left alone.
    pub files_min: usize,
    /// Bytes of small files taken into one; bounds the memory it needs.
    pub bytes_max: i64,
}

impl Default for CompactSettings {
    fn default() -> Self {
        Self { small_bytes: 8 << 20, files_min: 16, bytes_max: 32 << 20 }
    }
}

/// What a compaction did, as paths in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// Files that are not part of the table any more.
    pub removed: Vec<String>,
    /// The file that holds their rows.
    pub added: String,
}

/// Puts small files of a view's table together; `None` if there are too few.
///
/// # Errors
/// `TM564` if the store does not answer, `TM566` if a rival changed the same files first (nothing
/// has happened then), `TM567` or `TM568` if a file cannot be read back whole or is damaged.
pub async fn compact(
    store: &Store,
    view: &str,
    settings: CompactSettings,
) -> Result<Option<Compacted>> {
    let Some(table) = load(store, view).await? else {
        return Ok(None);
    };
    let snapshot = table.snapshot().map_err(|error| failure("read", view, &error))?;
    let mut small: Vec<(String, i64, Option<usize>, Remove)> = snapshot
        .log_data()
        .iter()
        .filter(|file| file.size() < settings.small_bytes)
        .map(|file| {
            let records = file.num_records();
            let path = file.object_store_path().to_string();
            (path, file.size(), records, file.remove_action(false))
        })
        .collect();
    small.sort_by(|left, right| left.0.cmp(&right.0));
    let mut bytes = 0;
    small.retain(|file| {
        bytes += file.1;
        bytes <= settings.bytes_max
    });
    if small.len() < settings.files_min {
        return Ok(None);
    }
    let root = location(view);
    let mut batches = Vec::new();
    let mut actions = Vec::with_capacity(small.len() + 1);
    let mut removed = Vec::with_capacity(small.len());
    for (path, _, records, remove) in small {
        let path: Path = root.parts().chain(Path::from(path).parts()).collect();
        let read = read(store, &path, &mut batches).await?;
        if records.is_some_and(|records| records != read) {
            return Err(damaged(&path, format!("it has {read} rows, the table says {records:?}")));
        }
        removed.push(path.to_string());
        actions.push(Action::Remove(remove));
    }
    let (added, add) = put_compacted(store, view, batches, false).await?;
    actions.push(Action::Add(add));
    let operation = DeltaOperation::Optimize { predicate: None, target_size: settings.bytes_max };
    failpoint::reached("clean.before_compaction")?;
    commit(&table, actions, operation, CommitProperties::default())
        .await
        .map_err(|error| failure("compact", view, &error))?;
    failpoint::reached("clean.after_compaction")?;
    Ok(Some(Compacted { removed, added: added.to_string() }))
}

/// Uploads rows that were in other files as one file; gives its path in the bucket and the action
/// that makes it part of the table. Whoever cleans up sees by its name that no commit names it.
pub(super) async fn put_compacted(
    store: &Store,
    view: &str,
    batches: Vec<RecordBatch>,
    data_change: bool,
) -> Result<(Path, Add)> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let content = tokio::task::spawn_blocking(move || write_parquet(&batches))
        .await
        .map_err(|error| Error::internal(format!("writing parquet panicked: {error}")))??;
    let crc32c = crc32c::crc32c(&content);
    let path = location(view).join(compacted_name(crc32c));
    let file = StagedFile {
        view: view.to_owned(),
        path: path.to_string(),
        bytes: content.len() as u64,
        rows: rows as u64,
        crc32c,
    };
    store::put(store, &path, content).await?;
    let add = add_action(store, view, &file, data_change).await?;
    Ok((path, add))
}

/// Appends a file's rows to `batches` and tells how many there are.
pub(super) async fn read(
    store: &Store,
    path: &Path,
    batches: &mut Vec<RecordBatch>,
) -> Result<usize> {
    let content: Bytes = store::get(store, path)
        .await?
        .ok_or_else(|| damaged(path, "it is not in the bucket".to_owned()))?;
    // Damaged rows must not get a new file with a fresh checksum.
    check_content(path, &content)?;
    let fail = |error: String| damaged(path, error);
    let reader = ParquetRecordBatchReaderBuilder::try_new(content)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| fail(error.to_string()))?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch.map_err(|error| fail(error.to_string()))?;
        rows += batch.num_rows();
        batches.push(batch);
    }
    Ok(rows)
}

pub(super) fn damaged(path: &Path, reason: String) -> Error {
    Error::corrupt("TM567", format!("file '{path}' of a table cannot be read whole"))
        .because(reason)
        .help("restore it from a backup; the table is unchanged")
}
