//! The bytes of a data file are compared with the checksum in its name when this process reads it
//! for the first time: a query never answers from damaged rows.
//!
//! Data files never change, so once is enough; what was checked is remembered up to a limit, beyond
//! which it is checked again. Files of other engines carry no checksum and are read as they are.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tidemill_connectors::{
    sinks::delta::{self, DataFileName},
    store::Store,
};
use tidemill_contract::{Error, Result};

/// Paths remembered: some tens of megabytes at most.
const REMEMBERED_MAX: usize = 200_000;
/// Files read side by side.
const PARALLEL: usize = 4;

/// The data files this process has compared with their checksums.
#[derive(Debug, Default)]
pub(crate) struct VerifiedFiles {
    paths: Mutex<HashSet<String>>,
}

impl VerifiedFiles {
    /// Checks those of `files` that were not checked yet.
    ///
    /// # Errors
    /// `TM568` (kind `Corrupt`) naming the first damaged file, `TM530` if the store does not answer.
    pub(crate) async fn check(&self, store: &Store, files: &[String]) -> Result<()> {
        let unknown: Vec<String> = {
            let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
            files.iter().filter(|file| !paths.contains(*file)).cloned().collect()
        };
        stream::iter(unknown)
            .map(|file| async move {
                check_file(store, &file).await?;
                self.remember(file);
                Ok(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    fn remember(&self, file: String) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= REMEMBERED_MAX {
            paths.clear();
        }
        paths.insert(file);
    }
}

async fn check_file(store: &Store, file: &str) -> Result<()> {
    let path = Path::parse(file)
        .map_err(|error| Error::internal(format!("'{file}' is no path: {error}")))?;
    if DataFileName::of(&path).is_none() {
        return Ok(());
    }
    delta::check_file(store, &path).await.map(|_bytes| ())
}
