//! The bucket: conditional create, durability steps of the local store, listing.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tidemill_connectors::store::{self, PutOutcome, Store};

fn local() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/bucket/deep", folder.path().display());
    let store = store::open(&url, &BTreeMap::new()).unwrap();
    (folder, store)
}

/// Local, in memory, and the S3 server of `TIDEMILL_S3_URL` (`s3://bucket`; endpoint and keys from
/// `AWS_*`) if there is one.
fn stores() -> Vec<(Option<tempfile::TempDir>, Store)> {
    let (folder, store) = local();
    let memory = store::open("memory://", &BTreeMap::new()).unwrap();
    let mut stores = vec![(Some(folder), store), (None, memory)];
    if let Ok(url) = std::env::var("TIDEMILL_S3_URL") {
        let url = format!("{url}/store-test/{}", uuid::Uuid::new_v4());
        stores.push((None, store::open(&url, &BTreeMap::new()).unwrap()));
    }
    stores
}

#[tokio::test]
async fn a_new_object_is_created_once() {
    for (_folder, store) in stores() {
        let path = Path::from("commits/job/00000000000000000001.json");
        let put =
            |text: &'static str| store::put_new(&store, &path, Bytes::from_static(text.as_bytes()));
        assert_eq!(store::get(&store, &path).await.unwrap(), None);
        assert_eq!(put("mine").await.unwrap(), PutOutcome::Created);
        assert_eq!(put("mine").await.unwrap(), PutOutcome::Created, "my own earlier try won");
        assert_eq!(put("theirs").await.unwrap(), PutOutcome::Exists);
        assert_eq!(store::get(&store, &path).await.unwrap().unwrap(), "mine");

        store::put(&store, &path, Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(store::get(&store, &path).await.unwrap().unwrap(), "new");
        store::delete(&store, &path).await.unwrap();
        store::delete(&store, &path).await.unwrap();
        assert_eq!(store::get(&store, &path).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_one_wins() {
    for (_folder, store) in stores() {
        for round in 0..20 {
            let path = Path::from(format!("race/{round}"));
            let tries = (0..8).map(|writer| {
                let (store, path) = (Arc::clone(&store), path.clone());
                tokio::spawn(async move {
                    store::put_new(&store, &path, Bytes::from(format!("writer {writer}"))).await
                })
            });
            let mut created = 0;
            for outcome in futures::future::join_all(tries).await {
                created += usize::from(outcome.unwrap().unwrap() == PutOutcome::Created);
            }
            assert_eq!(created, 1);
        }
        assert_eq!(store::list(&store, &Path::from("race")).await.unwrap().len(), 20);
    }
}

#[tokio::test]
async fn lists_are_sorted_and_show_no_staged_files() {
    let (folder, store) = local();
    for name in ["b/2", "b/10", "a/1", "bb/1"] {
        store::put(&store, &Path::from(name), Bytes::from_static(b"x")).await.unwrap();
    }
    let root = folder.path().join("bucket/deep");
    std::fs::write(root.join("b/2#12345"), "a writer was killed here").unwrap();
    let listed = store::list(&store, &Path::from("b")).await.unwrap();
    assert_eq!(listed, vec![Path::from("b/10"), Path::from("b/2")]);
    let left: Vec<_> = std::fs::read_dir(root.join("b")).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "staging leaves nothing of its own");
    assert!(store::list(&store, &Path::from("nothing")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_streamed_upload_shows_when_complete() {
    let (_folder, store) = local();
    let path = Path::from("big/file");
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part(Bytes::from_static(b"one ").into()).await.unwrap();
    upload.put_part(Bytes::from_static(b"two").into()).await.unwrap();
    assert_eq!(store::get(&store, &path).await.unwrap(), None);
    upload.complete().await.unwrap();
    assert_eq!(store::get(&store, &path).await.unwrap().unwrap(), "one two");
    store.copy(&path, &Path::from("copy")).await.unwrap();
    store.rename(&path, &Path::from("moved")).await.unwrap();
    assert_eq!(store::get(&store, &path).await.unwrap(), None);
    assert_eq!(store::get(&store, &Path::from("moved")).await.unwrap().unwrap(), "one two");
}

#[tokio::test]
async fn an_update_in_place_is_refused() {
    let (_folder, store) = local();
    let version = object_store::UpdateVersion { e_tag: None, version: None };
    let options = PutOptions { mode: PutMode::Update(version), ..PutOptions::default() };
    let outcome = store.put_opts(&Path::from("x"), Bytes::new().into(), options).await;
    assert!(matches!(outcome, Err(object_store::Error::NotImplemented { .. })));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let error =
        store::open(&file.join("bucket").display().to_string(), &BTreeMap::new()).unwrap_err();
    assert_eq!(error.code, "TM530");
}

#[test]
fn urls_and_options_are_checked() {
    let open = |url: &str, key: &str, value: &str| {
        store::open(url, &BTreeMap::from([(key.to_owned(), value.to_owned())]))
    };
    assert_eq!(store::open("ftp://x", &BTreeMap::new()).unwrap_err().code, "TM531");
    assert_eq!(store::open("s3:///x", &BTreeMap::new()).unwrap_err().code, "TM531");
    assert_eq!(open("memory://", "colour", "red").unwrap_err().code, "TM531");
    assert_eq!(open("s3://bucket", "colour", "red").unwrap_err().code, "TM531");
    assert_eq!(open("s3://bucket", "allow_http", "perhaps").unwrap_err().code, "TM531");
    let keys = [("access_key_id", "someone"), ("secret_access_key", "hush-hush")];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let store = store::open("s3://bucket/some/prefix", &BTreeMap::from(keys)).unwrap();
    assert!(!format!("{store:?}").contains("hush-hush"));
}
