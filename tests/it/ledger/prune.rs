//! What is superseded goes, what a kept commit names stays.

use std::sync::Arc;

use object_store::path::Path;
use tidemill_connectors::store::{self, Store};
use tidemill_runtime::ledger::{KEEP_COMMITS, Ledger, MILESTONE_STRIDE, read_commit};
use tidemill_runtime::publish::Staged;

use super::{JOB, local, open_ledger};

fn staged(store: &Store, epoch: u64) -> Staged {
    Staged::new(Arc::clone(store), JOB, epoch)
}

#[tokio::test]
async fn state_that_a_kept_commit_shares_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    commit_with_state(&store, &mut ledger).await;
    commit_with_state(&store, &mut ledger).await;
    let state = |epoch| {
        let store = &store;
        async move { read_commit(store, JOB, epoch).await.unwrap().unwrap().state.unwrap() }
    };
    let (shared, alone) = (state(1).await, state(2).await);
    for _ in 0..KEEP_COMMITS {
        let mut commit = ledger.draft();
        commit.shared_state = vec![shared.clone()];
        let epoch = commit.epoch;
        ledger.commit(commit).await.unwrap();
        ledger.mark_published(epoch);
    }
    ledger.prune().await.unwrap();
    for (object, is_there) in [(shared, true), (alone, false)] {
        let found = store::get(&store, &Path::from(object.path)).await.unwrap();
        assert_eq!(found.is_some(), is_there);
    }
}

/// Commits an epoch with a state of its own.
async fn commit_with_state(store: &Store, ledger: &mut Ledger) {
    let mut commit = ledger.draft();
    let epoch = commit.epoch;
    commit.state = staged(store, epoch).stage_state(vec![1, 2, 3]).await.unwrap();
    ledger.commit(commit).await.unwrap();
    ledger.mark_published(epoch);
}

async fn count(store: &Store, folder: &str) -> usize {
    store::list(store, &Path::from(folder).join(JOB)).await.unwrap().len()
}

#[tokio::test]
async fn pruning_keeps_the_newest_commits_their_objects_and_the_milestones() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    let newest = 2 * MILESTONE_STRIDE + 30;
    for _ in 0..newest {
        commit_with_state(&store, &mut ledger).await;
    }
    // A try of a kept epoch that never became true, one of the newest, and one of the next.
    let orphan = staged(&store, newest - 5).stage_state(vec![9]).await.unwrap().unwrap();
    let recent = staged(&store, newest).stage_state(vec![9]).await.unwrap().unwrap();
    let pending = staged(&store, newest + 1).stage_state(vec![9]).await.unwrap().unwrap();

    let pruned = ledger.prune().await.unwrap();
    let kept = usize::try_from(KEEP_COMMITS).unwrap();
    let gone = usize::try_from(newest - KEEP_COMMITS).unwrap();
    // Epoch 100 is a milestone below the kept ones; 200 is among them.
    assert_eq!((pruned.commits, pruned.objects), (gone - 1, gone + 1));
    assert_eq!(
        (count(&store, "commits").await, count(&store, "state").await),
        (kept + 1, kept + 2)
    );
    for (object, there) in [(orphan, false), (recent, true), (pending, true)] {
        let found = store::get(&store, &Path::from(object.path)).await.unwrap();
        assert_eq!(found.is_some(), there);
    }
    for epoch in newest - KEEP_COMMITS + 1..=newest {
        let state = read_commit(&store, JOB, epoch).await.unwrap().unwrap().state.unwrap();
        assert!(store::get(&store, &Path::from(state.path)).await.unwrap().is_some());
    }
    assert!(read_commit(&store, JOB, MILESTONE_STRIDE).await.unwrap().is_some());
    assert_eq!(open_ledger(&store, "two").await.1, newest);
}

#[tokio::test]
async fn a_state_that_later_commits_still_name_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    let state = staged(&store, 1).stage_state(vec![1]).await.unwrap();
    for epoch in 1..=KEEP_COMMITS + 20 {
        let mut commit = ledger.draft();
        commit.state.clone_from(&state);
        ledger.commit(commit).await.unwrap();
        ledger.mark_published(epoch);
    }
    assert_eq!(ledger.prune().await.unwrap().commits, 20);
    assert_eq!(count(&store, "state").await, 1);
}

#[tokio::test]
async fn nothing_is_deleted_while_a_kept_commit_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    for _ in 0..3 {
        commit_with_state(&store, &mut ledger).await;
    }
    staged(&store, 2).stage_state(vec![9]).await.unwrap();
    let damaged = Path::from(format!("commits/{JOB}/{:020}.json", 2));
    store::put(&store, &damaged, bytes::Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(ledger.prune().await.unwrap_err().code, "TM701");
    assert_eq!(count(&store, "state").await, 4);
}
