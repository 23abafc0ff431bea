//! A store whose every operation ends: with its result, or with an error in time.
//!
//! Why one layer at the bottom: Delta tables and queries use the store directly, and a hung or
//! trickling request must not hold them either. Each try has a deadline; what may be tried again
//! is, with growing, jittered waits, until the operation's own deadline. A body that is shorter
//! than its length is a failed try. A conditional create whose answer is unclear (a timeout, a
//! lost answer, 409, 412, or "exists" after a try of our own) is settled by reading back:
//! identical bytes are ours. It never retries what cannot be repeated (rename, update in place,
//! parts of an upload).

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, UploadPart,
};

use super::Store;
use super::limits::{StoreLimits, Tries, generic, is_transient};

/// Bodies up to this are read whole before they are given out, so that a broken one is read again.
const WHOLE_BYTES_MAX: u64 = 256 << 20;
/// Objects deleted at once. Each has time of its own, so many would hide a store that hangs.
const DELETE_CHUNK: usize = 100;

/// Gives a store deadlines and retries. The store must list in path order.
pub fn guard(store: Store, limits: StoreLimits) -> Store {
    Arc::new(Guard { inner: store, limits })
}

#[derive(Debug, Clone)]
struct Guard {
    inner: Store,
    limits: StoreLimits,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Tries until it works, fails for good, or the time is over.
async fn retry<T, F>(mut tries: Tries, mut work: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    loop {
        match tries.attempt(work()).await {
            Err(error) if is_transient(&error) => tries.wait(error).await?,
            outcome => return outcome,
        }
    }
}

fn short(found: u64, expected: u64) -> Error {
    let what = format!("the body has {found} bytes, not {expected}");
    generic(io::Error::new(io::ErrorKind::UnexpectedEof, what))
}

fn checked(body: Bytes, expected: u64) -> Result<Bytes> {
    let found = body.len() as u64;
    if found == expected { Ok(body) } else { Err(short(found, expected)) }
}

impl Guard {
    fn tries(&self, what: &'static str) -> Tries {
        Tries::new(self.limits, what)
    }

    /// One try to read: the answer, and its body unless it is very long.
    async fn read(&self, at: &Path, options: GetOptions, tries: &mut Tries) -> Result<GetResult> {
        let is_head = options.head;
        let found = tries.attempt(self.inner.get_opts(at, options)).await?;
        if is_head {
            return Ok(found);
        }
        let length = found.range.end.saturating_sub(found.range.start);
        tries.extend(length);
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let attributes = found.attributes.clone();
        let body = if length > WHOLE_BYTES_MAX {
            paced(found.into_stream(), self.tries("read").with_bytes(length), length)
        } else {
            let body = checked(tries.attempt(found.bytes()).await?, length)?;
            stream::iter([Ok(body)]).boxed()
        };
        Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes })
    }

    async fn create(&self, at: &Path, body: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut tries = self.tries("create").with_bytes(body.content_length() as u64);
        loop {
            let put = self.inner.put_opts(at, body.clone(), opts.clone());
            let error = match tries.attempt(put).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let exists = matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. });
            if !exists && !is_transient(&error) {
                return Err(error);
            }
            match self.read(at, GetOptions::default(), &mut tries).await {
                Ok(found) => {
                    let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
                    if found.bytes().await? == Bytes::from(body) {
                        return Ok(PutResult { e_tag, version });
                    }
                    let source = Box::new(error);
                    return Err(Error::AlreadyExists { path: at.to_string(), source });
                }
                // Not there, or not to be known now: the create itself may be repeated.
                Err(Error::NotFound { .. }) => {}
                Err(read) if is_transient(&read) => {}
                Err(read) => return Err(read),
            }
            tries.wait(error).await?;
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Guard {
    async fn put_opts(&self, at: &Path, body: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let tries = self.tries("write").with_bytes(body.content_length() as u64);
        match opts.mode {
            PutMode::Create => self.create(at, body, opts).await,
            PutMode::Overwrite => {
                retry(tries, || self.inner.put_opts(at, body.clone(), opts.clone())).await
            }
            PutMode::Update(_) => {
                let mut tries = tries;
                tries.attempt(self.inner.put_opts(at, body, opts)).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = || self.inner.put_multipart_opts(at, opts.clone());
        let inner = retry(self.tries("begin to upload"), begin).await?;
        Ok(Box::new(GuardedUpload { inner, limits: self.limits }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let mut tries = self.tries("read");
        loop {
            match self.read(at, options.clone(), &mut tries).await {
                Err(error) if is_transient(&error) => tries.wait(error).await?,
                outcome => return outcome,
            }
        }
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let lengths = || ranges.iter().map(|range| range.end.saturating_sub(range.start));
        let tries = self.tries("read").with_bytes(lengths().sum());
        let read = || async {
            let parts = self.inner.get_ranges(at, ranges).await?;
            parts.into_iter().zip(lengths()).map(|(part, length)| checked(part, length)).collect()
        };
        retry(tries, read).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let guard = self.clone();
        paths
            .ready_chunks(DELETE_CHUNK)
            .then(move |chunk| {
                let guard = guard.clone();
                async move {
                    match chunk.into_iter().collect::<Result<Vec<Path>>>() {
                        Ok(paths) => stream::iter(delete(&guard, paths).await),
                        Err(error) => stream::iter(vec![Err(error)]),
                    }
                }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        list(self, prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        list(self, prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        retry(self.tries("list"), || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mut tries = self.tries("copy");
        match options.mode {
            CopyMode::Overwrite => {
                retry(tries, || self.inner.copy_opts(from, to, options.clone())).await
            }
            CopyMode::Create => tries.attempt(self.inner.copy_opts(from, to, options)).await,
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.tries("rename").attempt(self.inner.rename_opts(from, to, options)).await
    }
}

/// Deletes some objects; one that is gone after a failed try was deleted by it.
async fn delete(guard: &Guard, paths: Vec<Path>) -> Vec<Result<Path>> {
    let mut tries = guard.tries("delete").with_objects(paths.len());
    loop {
        let asked = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
        let work = async { Ok(guard.inner.delete_stream(asked).collect::<Vec<_>>().await) };
        let error = match tries.attempt(work).await {
            Ok(mut results) => {
                let is_again = |result: &Result<Path>| matches!(result, Err(e) if is_transient(e));
                match results.iter().position(is_again).map(|index| results.swap_remove(index)) {
                    Some(Err(error)) => error,
                    _ if tries.is_first() => return results,
                    _ => {
                        let gone = |r: &Result<Path>| !matches!(r, Err(Error::NotFound { .. }));
                        let failed = results.into_iter().filter(|r| r.is_err() && gone(r));
                        let failed: Vec<_> = failed.collect();
                        return if failed.is_empty() {
                            paths.into_iter().map(Ok).collect()
                        } else {
                            failed
                        };
                    }
                }
            }
            Err(error) => error,
        };
        if let Err(error) = tries.wait(error).await {
            return vec![Err(error)];
        }
    }
}

/// A listing under way; after a failure it goes on behind the last object it gave.
struct Listing {
    guard: Guard,
    prefix: Option<Path>,
    after: Option<Path>,
    open: Option<BoxStream<'static, Result<ObjectMeta>>>,
    tries: Tries,
}

fn list(
    guard: &Guard,
    prefix: Option<&Path>,
    after: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let listing = Listing {
        guard: guard.clone(),
        prefix: prefix.cloned(),
        after: after.cloned(),
        open: None,
        tries: guard.tries("list"),
    };
    stream::try_unfold(listing, next_listed).boxed()
}

async fn next_listed(mut listing: Listing) -> Result<Option<(ObjectMeta, Listing)>> {
    loop {
        let Listing { guard, prefix, after, open, tries } = &mut listing;
        let open = open.get_or_insert_with(|| match &after {
            Some(after) => guard.inner.list_with_offset(prefix.as_ref(), after),
            None => guard.inner.list(prefix.as_ref()),
        });
        match tries.attempt(open.try_next()).await {
            Ok(None) => return Ok(None),
            Ok(Some(meta)) => {
                tries.progress();
                listing.after = Some(meta.location.clone());
                return Ok(Some((meta, listing)));
            }
            Err(error) if is_transient(&error) => {
                tries.wait(error).await?;
                listing.open = None;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A long body as it comes: an error if it stalls, trickles or ends early.
fn paced(
    body: BoxStream<'static, Result<Bytes>>,
    tries: Tries,
    length: u64,
) -> BoxStream<'static, Result<Bytes>> {
    let start = (body, tries, 0_u64);
    let next = move |(mut body, mut tries, mut found): (BoxStream<'static, _>, Tries, u64)| async move {
        let chunk: Option<Bytes> = tries.attempt(body.try_next()).await?;
        match chunk {
            Some(chunk) => {
                found += chunk.len() as u64;
                Ok(Some((chunk, (body, tries, found))))
            }
            None if found == length => Ok(None),
            None => Err(short(found, length)),
        }
    };
    stream::try_unfold(start, next).boxed()
}

/// An upload in parts, each with a deadline.
#[derive(Debug)]
struct GuardedUpload {
    inner: Box<dyn MultipartUpload>,
    limits: StoreLimits,
}

#[async_trait::async_trait]
impl MultipartUpload for GuardedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut tries = Tries::new(self.limits, "upload").with_bytes(data.content_length() as u64);
        let part = self.inner.put_part(data);
        Box::pin(async move { tries.attempt(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Tries::new(self.limits, "complete").attempt(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Tries::new(self.limits, "abort").attempt(self.inner.abort()).await
    }
}
