//! The catalog log: numbers, conflicts, lost answers, stale listings, holes.

use std::sync::Arc;

use object_store::path::Path;
use tidemill_connectors::store::{self, Store};
use tidemill_contract::ErrorKind;
use tidemill_runtime::catalog_log::{CatalogLog, Entry};

use super::{faulty, local};
use crate::fault::{Fault, Op};

async fn open(store: &Store, writer: &str) -> (CatalogLog, Vec<Entry>) {
    CatalogLog::open(Arc::clone(store), writer.to_owned()).await.unwrap()
}

fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.statement.as_str()).collect()
}

#[tokio::test]
async fn statements_come_back_in_order_whatever_a_listing_shows() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = faulty(folder.path());
    let (mut log, entries) = open(&store, "one").await;
    assert_eq!((entries.len(), log.version()), (0, 0));
    for (seq, text) in [(1, "CREATE SOURCE a"), (2, "CREATE VIEW b"), (3, "DROP VIEW b")] {
        assert_eq!(log.append(text, 5).await.unwrap().seq, seq);
    }
    for up_to in [0, 1, u64::MAX] {
        faults.heal();
        faults.chance(1_000, Some(Op::List), "", Fault::Stale(up_to));
        let (log, entries) = open(&store, "two").await;
        assert_eq!(texts(&entries), ["CREATE SOURCE a", "CREATE VIEW b", "DROP VIEW b"]);
        assert_eq!(log.version(), 3);
    }
}

#[tokio::test]
async fn of_two_writers_one_is_told_to_look_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut left, _) = open(&store, "left").await;
    let (mut right, _) = open(&store, "right").await;
    left.append("CREATE SOURCE a", 1).await.unwrap();
    let error = right.append("CREATE SOURCE b", 1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(texts(&right.refresh().await.unwrap()), ["CREATE SOURCE a"]);
    assert_eq!(right.append("CREATE SOURCE b", 1).await.unwrap().seq, 2);
    assert_eq!(texts(&left.refresh().await.unwrap()), ["CREATE SOURCE b"]);
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = faulty(folder.path());
    let (mut log, _) = open(&store, "one").await;
    faults.next(1, Some(Op::Create), "", Fault::After);
    faults.next(1_000, Some(Op::Get), "", Fault::Before);
    assert_eq!(log.append("CREATE SOURCE a", 1).await.unwrap_err().kind, ErrorKind::Unavailable);
    faults.heal();
    assert_eq!(log.append("CREATE SOURCE a", 2).await.unwrap().seq, 1);
    assert_eq!(open(&store, "two").await.1.len(), 1);
}

#[tokio::test]
async fn a_hole_or_a_damaged_entry_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let (mut log, _) = open(&store, "one").await;
    for text in ["a", "b", "c"] {
        log.append(text, 1).await.unwrap();
    }
    let second = Path::from(format!("catalog/{:020}.json", 2));
    let good = store::get(&store, &second).await.unwrap().unwrap();
    let mut damaged = good.to_vec();
    damaged[20] ^= 1;
    store::put(&store, &second, damaged.into()).await.unwrap();
    let error = CatalogLog::open(Arc::clone(&store), "two".to_owned()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains(second.as_ref()), "{error}");
    store::delete(&store, &second).await.unwrap();
    let error = CatalogLog::open(store, "two".to_owned()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
}
