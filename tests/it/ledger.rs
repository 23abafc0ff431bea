//! The commit side on a real durable folder: fence, ambiguous writes, recovery from stale
//! listings, corruption, pruning, the catalog log, and publication that repeats without a trace.
//!
//! It never mocks the protocol: only the store's answers are bent.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod catalog;
mod commit;
mod delivery;
mod prune;

use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use tidemill_connectors::store::{Store, StoreLimits, connect, guard, open};
use tidemill_runtime::ledger::Ledger;

use crate::fault::FaultStore;

const JOB: &str = "orders";

/// The durable local store over a folder.
fn local(folder: &FsPath) -> Store {
    let url = format!("file://{}", folder.display());
    open(&url, &std::collections::BTreeMap::new()).unwrap()
}

/// The same with faults, and short deadlines over them.
fn faulty(folder: &FsPath) -> (Arc<FaultStore>, Store) {
    // Bare: the guard of `open` would settle what the faults leave unclear.
    let bare = connect(&folder.to_string_lossy(), &std::collections::BTreeMap::new()).unwrap();
    let faults = FaultStore::new(bare, 1);
    let limits = StoreLimits {
        try_timeout: Duration::from_millis(200),
        operation_timeout: Duration::from_millis(600),
    };
    let store = guard(faults.store(), limits);
    (faults, store)
}

async fn open_ledger(store: &Store, writer: &str) -> (Ledger, u64) {
    let (ledger, commit) = Ledger::open(Arc::clone(store), JOB, writer.to_owned()).await.unwrap();
    (ledger, commit.map_or(0, |commit| commit.epoch))
}

/// Commits and reports as published, `count` times.
async fn advance(ledger: &mut Ledger, count: u64) {
    for _ in 0..count {
        let commit = ledger.draft();
        let epoch = commit.epoch;
        ledger.commit(commit).await.unwrap();
        ledger.mark_published(epoch);
    }
}
