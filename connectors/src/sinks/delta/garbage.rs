//! Objects in a table's folder that no reader of the table needs: what compactions replaced, and
//! files of tries that never became true.
//!
//! It only tells; what may be deleted, and when, is for the runtime to decide, which knows the
//! commits. **Invariant:** nothing the table names when this returns is told. (The folder is listed
//! before the table is read: a file that becomes part of the table in between is found in it.)

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use object_store::path::Path;
use tidemill_contract::{Micros, Result};

use super::{failure, load, location};
use crate::store::Store;

/// A data file the table does not name as part of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreferenced {
    /// Path in the bucket.
    pub path: Path,
    /// When the store says it was written, microseconds since the epoch.
    pub written_at: Micros,
    /// When it was taken out of the table (by a compaction or a rewrite), if it ever was in it and
    /// the table still knows.
    pub removed_at: Option<Micros>,
}

/// The Parquet files in a table's folder that are not part of the table.
///
/// # Errors
/// `TM564` or `TM530` if the store does not answer.
pub async fn unreferenced(store: &Store, view: &str) -> Result<Vec<Unreferenced>> {
    let root = location(view);
    let mut found: Vec<Unreferenced> = store
        .list(Some(&root))
        .try_filter_map(async |meta| {
            let is_data = meta.location.as_ref().ends_with(".parquet")
                && meta.location.prefix_match(&root).is_some_and(|parts| parts.count() == 1);
            Ok(is_data.then(|| Unreferenced {
                written_at: meta.last_modified.timestamp_micros(),
                path: meta.location,
                removed_at: None,
            }))
        })
        .try_collect()
        .await
        .map_err(|error| crate::store::failure("list", &root, &error))?;
    let Some(table) = load(store, view).await? else {
        // It was dropped meanwhile, with its folder.
        return Ok(Vec::new());
    };
    let fail = |error| failure("read", view, &error);
    let snapshot = table.snapshot().map_err(fail)?;
    let in_bucket = |path: Path| -> Path { root.parts().chain(path.parts()).collect() };
    let live: BTreeSet<Path> =
        snapshot.log_data().iter().map(|file| in_bucket(file.object_store_path())).collect();
    let log_store = table.log_store();
    let removed: BTreeMap<Path, Micros> = snapshot
        .all_tombstones(log_store.as_ref())
        .map_ok(|file| {
            let at = file.deletion_timestamp().unwrap_or(0).saturating_mul(1_000);
            (in_bucket(Path::from(file.path().as_ref())), at)
        })
        .try_collect()
        .await
        .map_err(fail)?;
    found.retain(|file| !live.contains(&file.path));
    for file in &mut found {
        file.removed_at = removed.get(&file.path).copied();
    }
    Ok(found)
}
