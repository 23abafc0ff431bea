//! The bucket: one object store per URL, and the few operations the commit protocol rests on.
//!
//! Why layers of our own: the local store must be durable before it says yes (`durable`), every
//! operation must end in time and a conditional create give a plain answer even when the network
//! does not (`guard`). It never relies on a listing right after a write, and never shows
//! credentials.

mod durable;
mod guard;
mod layer;
mod limits;
mod prefixed;
mod s3;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidemill_contract::{Error, Result};

pub use durable::{DurableLocalStore, make_folders};
pub use guard::guard;
pub use layer::{Layer, Layered};
pub use limits::StoreLimits;
pub(crate) use prefixed::prefixed;

/// An object store, shared.
pub type Store = Arc<dyn ObjectStore>;

/// Reads of one object before its damage is believed.
const CHECKED_READS: u32 = 3;

/// What a conditional create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is there with exactly our bytes, put by this call or an earlier try of it.
    Created,
    /// Another object was there first.
    Exists,
}

/// Opens the store of a URL: `file:///folder` (or a plain path), `s3://bucket/prefix`,
/// `memory://`. Options are those of the kind; `AWS_*` variables fill the gaps of `s3`. Every
/// operation has the deadlines of [`StoreLimits::default`].
///
/// # Errors
/// `TM531` for a URL or an option it does not know, `TM530` if a folder cannot be made.
pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Store> {
    connect(url, options).map(|store| guard(store, StoreLimits::default()))
}

/// Like [`open`], without deadlines and retries: for whoever puts something between the store and
/// its [`guard`].
///
/// # Errors
/// As [`open`].
pub fn connect(url: &str, options: &BTreeMap<String, String>) -> Result<Store> {
    match url.split_once("://") {
        Some(("s3" | "s3a", rest)) => s3::open(rest, options),
        Some(("memory", _)) => {
            no_options("memory", options)?;
            Ok(Arc::new(InMemory::new()))
        }
        Some(("file", path)) => {
            no_options("file", options)?;
            Ok(DurableLocalStore::open(&decode_path(path)?)?.into())
        }
        Some((scheme, _)) => {
            Err(Error::invalid("TM531", format!("unknown bucket scheme '{scheme}'"))
                .help("use file:///folder, s3://bucket/prefix or memory://"))
        }
        None => {
            no_options("file", options)?;
            Ok(DurableLocalStore::open(std::path::Path::new(url))?.into())
        }
    }
}

/// Creates an object unless one is there. The [`guard`] has settled unclear answers: `Exists`
/// means other bytes.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn put_new(store: &Store, path: &Path, bytes: Bytes) -> Result<PutOutcome> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
        Ok(_) => Ok(PutOutcome::Created),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::Exists),
        Err(error) => Err(failure("create", path, &error)),
    }
}

/// Reads a whole object, `None` if there is none.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn get(store: &Store, path: &Path) -> Result<Option<Bytes>> {
    let read = async { store.get(path).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failure("read", path, &error)),
    }
}

/// Reads an object that can be checked. One that does not pass is read again: its bytes may be
/// damaged on the way only.
///
/// # Errors
/// `TM530` if the store does not answer or refuses; what `check` says of the last read.
pub async fn get_checked<T>(
    store: &Store,
    path: &Path,
    check: impl Fn(Bytes) -> Result<T>,
) -> Result<Option<T>> {
    let mut again = CHECKED_READS - 1;
    loop {
        let Some(bytes) = get(store, path).await? else { return Ok(None) };
        match check(bytes) {
            Err(_) if again > 0 => again -= 1,
            outcome => return outcome.map(Some),
        }
    }
}

/// Reads a part of an object, `None` if the object is not there or shorter.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn get_range(store: &Store, path: &Path, range: Range<u64>) -> Result<Option<Bytes>> {
    let error = match store.get_range(path, range.clone()).await {
        Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(Some(bytes)),
        Ok(_short) => return Ok(None),
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => error,
    };
    // Stores say in many ways that a range lies beyond the end.
    if store.head(path).await.is_ok_and(|meta| meta.size < range.end) {
        return Ok(None);
    }
    Err(failure("read", path, &error))
}

/// Writes an object, replacing what is there.
///
/// # Errors
/// `TM530` if the store does not answer or refuses.
pub async fn put(store: &Store, path: &Path, bytes: Bytes) -> Result<()> {
    let written = store.put(path, PutPayload::from_bytes(bytes)).await;
    written.map(|_| ()).map_err(|error| failure("write", path, &error))
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

/// An error of the store in the contract's words. A refusal (401, 403) is tried again like an
/// outage: nothing may be skipped because a key was changed.
pub(crate) fn failure(what: &str, path: &Path, error: &object_store::Error) -> Error {
    let failed = Error::unavailable("TM530", format!("cannot {what} '{path}' in the bucket"))
        .because(error.to_string());
    if limits::is_refusal(error) {
        return failed.help("check the bucket's credentials and permissions; it is tried again");
    }
    failed
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
