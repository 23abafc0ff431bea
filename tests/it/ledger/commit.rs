//! One epoch, one record: the fence, unclear answers, finding the newest, damage.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use tidemill_connectors::store;
use tidemill_contract::{ErrorKind, Result};
use tidemill_runtime::ledger::{Ledger, read_commit};

use super::{JOB, advance, faulty, local, open_ledger};
use crate::fault::{Fault, Op};

fn slot(epoch: u64) -> Path {
    Path::from(format!("commits/{JOB}/{epoch:020}.json"))
}

async fn commit_next(ledger: &mut Ledger) -> Result<()> {
    let commit = ledger.draft();
    ledger.commit(commit).await
}

#[tokio::test]
async fn epochs_are_dense_and_survive_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut first, newest) = open_ledger(&store, "first").await;
    assert_eq!((newest, first.generation()), (0, 1));
    let mut commit = first.draft();
    commit.counters.insert("rows_in".to_owned(), 7);
    first.commit(commit.clone()).await.unwrap();

    let (second, found) = Ledger::open(Arc::clone(&store), JOB, "second".to_owned()).await.unwrap();
    assert_eq!(found, Some(commit));
    assert_eq!((second.next_epoch(), second.generation()), (2, 2));
}

#[tokio::test]
async fn of_two_racing_writers_one_commits_and_the_other_is_fenced_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    for round in 0..20 {
        let (mut left, newest) = open_ledger(&store, "left").await;
        let (mut right, _) = open_ledger(&store, "right").await;
        assert_eq!(newest, round);
        if newest > 0 {
            left.mark_published(newest);
            right.mark_published(newest);
        }
        let (for_left, for_right) = (left.draft(), right.draft());
        let (left_end, right_end) = tokio::join!(left.commit(for_left), right.commit(for_right));
        let winner = read_commit(&store, JOB, round + 1).await.unwrap().unwrap().writer;
        let (loser, error) = match (left_end, right_end) {
            (Ok(()), Err(error)) => (&mut right, error),
            (Err(error), Ok(())) => (&mut left, error),
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(error.kind, ErrorKind::Fenced);
        let again = loser.draft();
        assert_ne!(again.writer, winner);
        assert_eq!(loser.commit(again).await.unwrap_err().kind, ErrorKind::Fenced);
    }
}

#[tokio::test]
async fn the_next_commit_waits_for_the_publication_of_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, _) = open_ledger(&local(folder.path()), "one").await;
    commit_next(&mut ledger).await.unwrap();
    assert_eq!(commit_next(&mut ledger).await.unwrap_err().kind, ErrorKind::Internal);
    ledger.mark_published(1);
    commit_next(&mut ledger).await.unwrap();
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = faulty(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    faults.next(1, Some(Op::Create), "commits", Fault::After);
    commit_next(&mut ledger).await.unwrap();
    assert_eq!(open_ledger(&store, "two").await.1, 1);
}

#[tokio::test]
async fn an_unclear_answer_is_settled_by_the_same_commit_again() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = faulty(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    let commit = ledger.draft();

    // Stored, but neither the put nor the reads behind it answer.
    faults.next(1, Some(Op::Create), "commits", Fault::After);
    faults.next(1_000, Some(Op::Get), "", Fault::Before);
    let error = ledger.commit(commit.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    faults.heal();
    ledger.commit(commit.clone()).await.unwrap();
    ledger.mark_published(1);

    // Not stored: the store is down, then up.
    let commit = ledger.draft();
    faults.next(1_000, Some(Op::Create), "", Fault::Before);
    let error = ledger.commit(commit.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(read_commit(&store, JOB, 2).await.unwrap(), None);
    faults.heal();
    ledger.commit(commit).await.unwrap();
    assert_eq!(open_ledger(&store, "two").await.1, 2);
}

#[tokio::test]
async fn another_try_with_other_content_is_not_taken_for_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    let (mut twin, _) = open_ledger(&store, "one").await;
    let mut commit = ledger.draft();
    commit.counters.insert("rows_in".to_owned(), 1);
    ledger.commit(commit).await.unwrap();
    assert_eq!(commit_next(&mut twin).await.unwrap_err().kind, ErrorKind::Fenced);
}

#[tokio::test]
async fn the_newest_is_found_behind_any_listing() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = faulty(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    for newest in [1, 3, 99, 100, 101, 230] {
        let missing = newest + 1 - ledger.next_epoch();
        advance(&mut ledger, missing).await;
        ledger.prune().await.unwrap();
        for up_to in [0, 1, 50, 99, 100, 150, 199, u64::MAX] {
            faults.chance(1_000, Some(Op::List), "", Fault::Stale(up_to));
            let (found, epoch) = open_ledger(&store, "two").await;
            assert_eq!(epoch, newest, "listing up to {up_to}");
            assert_eq!(found.next_epoch(), newest + 1);
            faults.heal();
        }
    }
}

#[tokio::test]
async fn a_zombie_that_wakes_up_in_a_pruned_slot_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut zombie, _) = open_ledger(&store, "zombie").await;
    advance(&mut zombie, 10).await;
    let (mut rival, _) = open_ledger(&store, "rival").await;
    rival.mark_published(10);
    advance(&mut rival, 220).await;
    assert!(rival.prune().await.unwrap().commits > 0);
    assert_eq!(read_commit(&store, JOB, 11).await.unwrap(), None, "the slot is free");

    let error = commit_next(&mut zombie).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fenced);
    assert_eq!(read_commit(&store, JOB, 11).await.unwrap(), None, "nothing is left of it");
    assert_eq!(open_ledger(&store, "third").await.1, 230);
}

#[tokio::test]
async fn a_writer_sees_that_another_went_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut zombie, _) = open_ledger(&store, "zombie").await;
    advance(&mut zombie, 1).await;
    zombie.check_newest().await.unwrap();
    let (mut rival, _) = open_ledger(&store, "rival").await;
    rival.mark_published(1);
    advance(&mut rival, 1).await;
    assert_eq!(zombie.check_newest().await.unwrap_err().kind, ErrorKind::Fenced);
    assert_eq!(commit_next(&mut zombie).await.unwrap_err().kind, ErrorKind::Fenced);
}

#[tokio::test]
async fn any_changed_byte_of_a_commit_is_noticed_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    advance(&mut ledger, 1).await;
    let path = slot(1);
    let good = store::get(&store, &path).await.unwrap().unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..good.len())
        .map(|index| {
            let mut bytes = good.to_vec();
            bytes[index] ^= 1;
            bytes
        })
        .collect();
    damaged.push(good[..good.len() - 1].to_vec());
    damaged.push(Vec::new());
    damaged.push([&good[..], b" "].concat());
    for bytes in damaged {
        store::put(&store, &path, Bytes::from(bytes)).await.unwrap();
        let error = Ledger::open(Arc::clone(&store), JOB, "two".to_owned()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt);
        assert!(error.message.contains(path.as_ref()), "{error}");
    }
    store::put(&store, &path, good).await.unwrap();
    assert_eq!(open_ledger(&store, "two").await.1, 1);
}

#[tokio::test]
async fn a_record_of_another_job_or_epoch_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut ledger, _) = open_ledger(&store, "one").await;
    advance(&mut ledger, 1).await;
    let bytes = store::get(&store, &slot(1)).await.unwrap().unwrap();
    store::put(&store, &slot(2), bytes.clone()).await.unwrap();
    let error = Ledger::open(Arc::clone(&store), JOB, "two".to_owned()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM701"));
    let other = Path::from(format!("commits/payments/{:020}.json", 1));
    store::put(&store, &other, bytes).await.unwrap();
    let error = Ledger::open(store, "payments", "two".to_owned()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM701"));
}
