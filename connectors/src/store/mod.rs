//! The bucket: one object store per URL, and the few operations the commit protocol rests on.
//!
//! Why a layer of our own: the local store must be durable before it says yes, and a conditional
//! create must give a plain answer even when the network does not. It never relies on a listing
//! right after a write, and never shows credentials.

mod durable;
mod prefixed;
mod s3;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidemill_contract::{Error, Result};

pub use durable::DurableLocalStore;

/// An object store, shared.
pub type Store = Arc<dyn ObjectStore>;

/// Waits between the tries of one operation. The client below retries server errors by itself;
/// these are for what it gives up on.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// What a conditional create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is there with exactly our bytes, put by this call or an earlier try of it.
    Created,
    /// Another object was there first.
    Exists,
}

/// Opens the store of a URL: `file:///folder` (or a plain path), `s3://bucket/prefix`,
/// `memory://`. Options are those of the kind; `AWS_*` variables fill the gaps of `s3`.
///
/// # Errors
/// `TM531` for a URL or an option it does not know, `TM530` if a folder cannot be made.
pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Store> {
    match url.split_once("://") {
        Some(("s3" | "s3a", rest)) => s3::open(rest, options),
        Some(("memory", _)) => {
            no_options("memory", options)?;
            Ok(Arc::new(InMemory::new()))
        }
        Some(("file", path)) => {
            no_options("file", options)?;
            Ok(Arc::new(DurableLocalStore::open(&decode_path(path)?)?))
        }
        Some((scheme, _)) => {
            Err(Error::invalid("TM531", format!("unknown bucket scheme '{scheme}'"))
                .help("use file:///folder, s3://bucket/prefix or memory://"))
        }
        None => {
            no_options("file", options)?;
            Ok(Arc::new(DurableLocalStore::open(std::path::Path::new(url))?))
        }
    }
}

/// Creates an object unless one is there. An unclear answer (a timeout, 409, 412, a retried
/// request) is settled by reading back: identical bytes mean that our own try won.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn put_new(store: &Store, path: &Path, bytes: Bytes) -> Result<PutOutcome> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let payload = PutPayload::from_bytes(bytes.clone());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let Err(error) = store.put_opts(path, payload, options).await else {
            return Ok(PutOutcome::Created);
        };
        match get(store, path).await {
            Ok(Some(found)) if found == bytes => return Ok(PutOutcome::Created),
            Ok(Some(_)) => return Ok(PutOutcome::Exists),
            Ok(None) | Err(_) => match waits.next() {
                Some(wait) if worth_retrying(&error) => tokio::time::sleep(*wait).await,
                _ => return Err(failure("create", path, &error)),
            },
        }
    }
}

/// Reads a whole object, `None` if there is none.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn get(store: &Store, path: &Path) -> Result<Option<Bytes>> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let read = async { store.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => match waits.next() {
                Some(wait) if worth_retrying(&error) => tokio::time::sleep(*wait).await,
                _ => return Err(failure("read", path, &error)),
            },
        }
    }
}

/// Writes an object, replacing what is there.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn put(store: &Store, path: &Path, bytes: Bytes) -> Result<()> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        match store.put(path, PutPayload::from_bytes(bytes.clone())).await {
            Ok(_) => return Ok(()),
            Err(error) => match waits.next() {
                Some(wait) if worth_retrying(&error) => tokio::time::sleep(*wait).await,
                _ => return Err(failure("write", path, &error)),
            },
        }
    }
}

/// All objects under a prefix (whole path parts), sorted.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn list(store: &Store, prefix: &Path) -> Result<Vec<Path>> {
    let found: Vec<_> = store
        .list(Some(prefix))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .map_err(|error| failure("list", prefix, &error))?;
    let mut sorted = found;
    sorted.sort();
    Ok(sorted)
}

/// Deletes an object; one that is not there is fine.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn delete(store: &Store, path: &Path) -> Result<()> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failure("delete", path, &error)),
    }
}

fn worth_retrying(error: &object_store::Error) -> bool {
    !matches!(
        error,
        object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::InvalidPath { .. }
    )
}

/// An error of the store in the contract's words.
pub(crate) fn failure(what: &str, path: &Path, error: &object_store::Error) -> Error {
    Error::unavailable("TM530", format!("cannot {what} '{path}' in the bucket"))
        .because(error.to_string())
}

fn no_options(kind: &str, options: &BTreeMap<String, String>) -> Result<()> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => Err(Error::invalid("TM531", format!("a {kind} bucket has no option '{key}'"))),
    }
}

/// The path of a `file://` URL, percent escapes undone.
fn decode_path(path: &str) -> Result<std::path::PathBuf> {
    let invalid = || {
        Error::invalid("TM531", format!("'file://{path}' is not a local folder"))
            .help("write file:///absolute/folder")
    };
    let absolute = path.strip_prefix("localhost").unwrap_or(path);
    let url = url::Url::parse(&format!("file://{absolute}")).map_err(|_| invalid())?;
    url.to_file_path().map_err(|()| invalid())
}
