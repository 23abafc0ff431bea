//! A store that lies on demand: answers lost after success, failures before it, reads that fail,
//! listings from the past.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tidemill_connectors::store::Store;

/// Wraps a store; every fault is a count of operations still to be spoiled.
#[derive(Debug)]
pub(super) struct FaultStore {
    inner: Store,
    /// Puts that do nothing and fail.
    pub(super) fail_puts: AtomicU32,
    /// Puts that succeed and fail all the same.
    pub(super) lose_puts: AtomicU32,
    /// Reads that fail.
    pub(super) fail_gets: AtomicU32,
    /// Listings leave out numbered objects above this.
    pub(super) list_up_to: AtomicU64,
}

impl FaultStore {
    pub(super) fn new(inner: Store) -> Self {
        Self {
            inner,
            fail_puts: AtomicU32::new(0),
            lose_puts: AtomicU32::new(0),
            fail_gets: AtomicU32::new(0),
            list_up_to: AtomicU64::new(u64::MAX),
        }
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn timeout() -> object_store::Error {
    object_store::Error::Generic { store: "FaultStore", source: "operation timed out".into() }
}

fn number(path: &Path) -> u64 {
    let digits = path.filename().unwrap_or_default().chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(0)
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        if take(&self.fail_puts) {
            return Err(timeout());
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        if take(&self.lose_puts) { Err(timeout()) } else { result }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        if take(&self.fail_gets) {
            return Err(timeout());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let up_to = self.list_up_to.load(Ordering::SeqCst);
        let shown = move |meta: &object_store::Result<ObjectMeta>| {
            meta.as_ref().map_or(true, |meta| number(&meta.location) <= up_to)
        };
        let listed = self.inner.list(prefix);
        listed.filter(move |meta| std::future::ready(shown(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
