//! The Delta table of a view: `tables/<view>` in the bucket, readable by any engine.
//!
//! Why its own log store: Delta commits must go through the same durable, conditional store as
//! everything else. Each Delta commit carries `txn(app, version)`; delta-rs takes the same one
//! twice, so the version is read first and a commit that is there already is skipped. The only data
//! files it writes are those of [`compact`] and the rest of rewritten files in [`revise_files`];
//! all others were staged before.

mod compact;
mod garbage;
mod lake;
mod name;
mod revise;
mod stats;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, StructType, Transaction};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError, TableProperty};
use object_store::path::Path;
use tidemill_contract::{Clock, Error, Result, StagedFile, SystemClock};

pub use compact::{CompactSettings, Compacted, compact};
pub use garbage::{Unreferenced, unreferenced};
pub use lake::{lake_schema, to_lake, write_parquet};
pub use name::{DataFileName, FileOrigin, check_content, check_file, damaged_file, staged_name};
pub use revise::revise_files;

use crate::store::{Store, prefixed};

/// Folder of all tables in the bucket.
pub const TABLES: &str = "tables";
/// A checkpoint of the log every so many commits, so that opening a table stays quick.
const CHECKPOINT_INTERVAL: &str = "20";
/// Tries of one commit against rivals (compaction, another engine).
const TRIES_MAX: usize = 5;

/// Where a view's table lies in the bucket.
pub fn location(view: &str) -> Path {
    Path::from_iter([TABLES, view])
}

/// Creates the table of a view unless it is there; one that is must have the same columns.
///
/// # Errors
/// `TM562` for a type a table cannot hold, `TM563` if a table with other columns is there,
/// `TM564` if the store does not answer.
pub async fn create_if_missing(store: &Store, view: &str, schema: &Schema) -> Result<()> {
    let lake = lake_schema(schema)?;
    let wanted: StructType = lake.as_ref().try_into_kernel().map_err(|error| {
        Error::invalid("TM562", format!("view '{view}': a table cannot hold its columns"))
            .because(error.to_string())
    })?;
    if let Some(table) = load(store, view).await? {
        return check_columns(&table, view, &wanted);
    }
    let created = CreateBuilder::new()
        .with_log_store(log_store(store, view)?)
        .with_table_name(view)
        .with_columns(wanted.fields().cloned())
        .with_configuration_property(TableProperty::CheckpointInterval, Some(CHECKPOINT_INTERVAL))
        .await;
    match created {
        Ok(_) => Ok(()),
        // A rival or an earlier try of ours was first.
        Err(error) => match load(store, view).await? {
            Some(table) => check_columns(&table, view, &wanted),
            None => Err(failure("create", view, &error)),
        },
    }
}

/// Adds staged files to the table in one Delta commit with `txn(app_id, version)`. A version that
/// is there already, or an older one, does nothing: false.
///
/// # Errors
/// `TM565` if the table is not there, `TM564` if the store does not answer.
pub async fn add_files(
    store: &Store,
    view: &str,
    files: &[StagedFile],
    app_id: &str,
    version: i64,
) -> Result<bool> {
    let operation =
        DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    let mut adds: Option<Vec<Action>> = None;
    let mut last = missing(view);
    for _ in 0..TRIES_MAX {
        let Some(table) = load_before(store, view, app_id, version).await? else {
            return Ok(false);
        };
        let actions = match &adds {
            Some(actions) => actions.clone(),
            None => adds.insert(add_actions(store, view, files).await?).clone(),
        };
        let properties = CommitProperties::default()
            .with_application_transaction(Transaction::new(app_id, version));
        match commit(&table, actions, operation.clone(), properties).await {
            Ok(()) => return Ok(true),
            // Whether it went through is for the next look at the log to say.
            Err(error) => last = failure("commit to", view, &error),
        }
    }
    Err(last)
}

/// The table at its newest version, unless the application has committed `version` or a later one.
async fn load_before(
    store: &Store,
    view: &str,
    app_id: &str,
    version: i64,
) -> Result<Option<DeltaTable>> {
    let table = load(store, view).await?.ok_or_else(|| missing(view))?;
    let done = version_of(&table, view, app_id).await?;
    Ok(Some(table).filter(|_| done.is_none_or(|done| done < version)))
}

/// The last version an application committed.
async fn version_of(table: &DeltaTable, view: &str, app_id: &str) -> Result<Option<i64>> {
    let fail = |error| failure("read", view, &error);
    let log_store = table.log_store();
    let snapshot = table.snapshot().map_err(fail)?;
    snapshot.transaction_version(log_store.as_ref(), app_id).await.map_err(fail)
}

/// One try to commit actions on top of the version that was loaded.
async fn commit(
    table: &DeltaTable,
    actions: Vec<Action>,
    operation: DeltaOperation,
    properties: CommitProperties,
) -> Result<(), DeltaTableError> {
    let builder = CommitBuilder::from(properties).with_actions(actions);
    let commit = builder.build(Some(table.snapshot()?), table.log_store(), operation);
    commit.await.map(|_committed| ())
}

/// The active files of a view's table, as paths in the bucket; none if there is no table.
///
/// # Errors
/// `TM564` if the store does not answer.
pub async fn files(store: &Store, view: &str) -> Result<Vec<String>> {
    let files = sized_files(store, view).await?;
    Ok(files.into_iter().map(|(path, _)| path.to_string()).collect())
}

/// The active files of a view's table with their size in bytes, in path order.
///
/// # Errors
/// `TM564` if the store does not answer.
pub async fn sized_files(store: &Store, view: &str) -> Result<Vec<(Path, u64)>> {
    let Some(table) = load(store, view).await? else {
        return Ok(Vec::new());
    };
    let snapshot = table.snapshot().map_err(|error| failure("read", view, &error))?;
    let root = location(view);
    let mut files: Vec<(Path, u64)> = snapshot
        .log_data()
        .iter()
        .map(|file| {
            let path = root.parts().chain(file.object_store_path().parts()).collect();
            (path, u64::try_from(file.size()).unwrap_or(0))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// The last version an application committed, `None` if it never did or there is no table.
///
/// # Errors
/// `TM564` if the store does not answer.
pub async fn committed_version(store: &Store, view: &str, app_id: &str) -> Result<Option<i64>> {
    let Some(table) = load(store, view).await? else {
        return Ok(None);
    };
    version_of(&table, view, app_id).await
}

/// The log over our store. The kernel resolves paths against the URL, so its path is the place in
/// the bucket and its scheme is ours: no global registry is asked for a client.
fn log_store(store: &Store, view: &str) -> Result<LogStoreRef> {
    let root = location(view);
    let text = format!("bucket:///{root}/");
    let url = url::Url::parse(&text)
        .map_err(|error| Error::internal(format!("'{text}' is no URL: {error}")))?;
    let table = prefixed(Arc::clone(store), root);
    Ok(default_logstore(table, Arc::clone(store), &url, &StorageConfig::default()))
}

/// The table at its newest version, `None` if there is none.
async fn load(store: &Store, view: &str) -> Result<Option<DeltaTable>> {
    let mut table = DeltaTable::new(log_store(store, view)?);
    let Err(error) = table.load().await else {
        return Ok(Some(table));
    };
    match table.log_store().is_delta_table_location().await {
        Ok(false) => Ok(None),
        Ok(true) | Err(_) => Err(failure("read", view, &error)),
    }
}

fn check_columns(table: &DeltaTable, view: &str, wanted: &StructType) -> Result<()> {
    let snapshot = table.snapshot().map_err(|error| failure("read", view, &error))?;
    let there = snapshot.schema();
    let same = there.fields().len() == wanted.fields().len()
        && there.fields().zip(wanted.fields()).all(|(left, right)| {
            left.name() == right.name() && left.data_type() == right.data_type()
        });
    if same {
        return Ok(());
    }
    Err(Error::new(
        tidemill_contract::ErrorKind::Conflict,
        "TM563",
        format!("the table of view '{view}' is there with other columns"),
    )
    .help("give the view another name, or remove its table from the bucket"))
}

async fn add_actions(store: &Store, view: &str, files: &[StagedFile]) -> Result<Vec<Action>> {
    let mut actions = Vec::with_capacity(files.len());
    for file in files {
        actions.push(Action::Add(add_action(store, view, file, true).await?));
    }
    Ok(actions)
}

/// The action that makes a file part of the table.
async fn add_action(
    store: &Store,
    view: &str,
    file: &StagedFile,
    data_change: bool,
) -> Result<Add> {
    let root = location(view);
    let path = Path::from(file.path.as_str());
    let Some(inside) = path.prefix_match(&root) else {
        return Err(Error::internal(format!("file '{path}' is not in the table '{root}'")));
    };
    let relative: Path = inside.collect();
    Ok(Add {
        path: relative.to_string(),
        partition_values: HashMap::new(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: SystemClock.now_micros() / 1000,
        data_change,
        stats: Some(stats::of(store, file).await),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    })
}

fn missing(view: &str) -> Error {
    Error::new(
        tidemill_contract::ErrorKind::NotFound,
        "TM565",
        format!("view '{view}' has no table in the bucket"),
    )
}

fn failure(what: &str, view: &str, error: &DeltaTableError) -> Error {
    let conflict = matches!(
        error,
        DeltaTableError::Transaction { source: TransactionError::CommitConflict(_) }
    );
    let code = if conflict { "TM566" } else { "TM564" };
    Error::unavailable(code, format!("cannot {what} the table of view '{view}'"))
        .because(error.to_string())
}
