//! A folder as a bucket, durable before it says yes.
//!
//! Why: object_store 0.13 writes local files without fsync, so a power cut could take back a
//! commit it had acknowledged. Here an object is written to a hidden file beside its place,
//! synced, moved in with one atomic step (a hard link for a conditional create, a rename
//! otherwise), and the folder is synced. A folder is also synced before the first object in it is
//! read: a process that was killed between the move and the sync leaves an object that a reader
//! would count on and a power cut take. It never shows a half-written object.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use tidemill_contract::Error;

use super::layer::{Layer, Layered};
use crate::failpoint;

const NAME: &str = "DurableLocalStore";

/// An object store over one folder; [`Store`](super::Store) is made from it.
#[derive(Debug)]
pub struct DurableLocalStore {
    inner: LocalFileSystem,
    root: PathBuf,
    staged: AtomicU64,
    /// Folders whose own entries are known to be synced, up to the root.
    settled: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Folders whose content was synced since this store was opened.
    seen: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl fmt::Display for DurableLocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({})", self.root.display())
    }
}

impl DurableLocalStore {
    /// Opens a folder, making it if needed.
    ///
    /// # Errors
    /// `TM530` if it cannot be made or read.
    pub fn open(root: &FsPath) -> Result<Self, Error> {
        let fail = |reason: String| {
            let what = format!("cannot open the bucket folder '{}'", root.display());
            Error::unavailable("TM530", what).because(reason)
        };
        let absolute = std::path::absolute(root).map_err(|e| fail(e.to_string()))?;
        make_folders(&absolute).map_err(|e| fail(e.to_string()))?;
        let inner = LocalFileSystem::new_with_prefix(&absolute).map_err(|e| fail(e.to_string()))?;
        // Staged names must differ between processes and between restarts of one.
        let seed = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
        Ok(Self {
            inner,
            root: absolute,
            staged: AtomicU64::new(seed),
            settled: Arc::default(),
            seen: Arc::default(),
        })
    }

    /// A hidden name beside the target: `#` and digits, which listings leave out.
    fn staging_path(&self, target: &FsPath) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(format!("#{number}"));
        target.with_file_name(name)
    }

    fn fs_path(&self, location: &Path) -> object_store::Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }

    /// Before what is in the object's folder can be relied on.
    async fn sync_before_read(&self, location: &Path) -> object_store::Result<()> {
        let path = self.fs_path(location)?;
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(&folder) {
            return Ok(());
        }
        let (root, settled) = (self.root.clone(), Arc::clone(&self.settled));
        let seen = Arc::clone(&self.seen);
        blocking(move || {
            // There is nothing to read yet.
            if !folder.is_dir() {
                return Ok(());
            }
            settle_folder(&folder, &root, &settled)
                .and_then(|()| sync_folder(&folder))
                .map_err(generic)?;
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(folder);
            Ok(())
        })
        .await
    }
}

/// Listings in path order, as a bucket gives them: the Delta kernel relies on it.
fn sorted(
    listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let whole = async move {
        let mut found: Vec<ObjectMeta> = listing.try_collect().await?;
        found.sort_by(|left, right| left.location.cmp(&right.location));
        Ok::<_, object_store::Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(whole).try_flatten().boxed()
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: NAME, source: Box::new(error) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> object_store::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Makes a folder and its missing parents, and syncs each folder that got a new entry.
///
/// # Errors
/// What the file system objects to.
pub fn make_folders(folder: &FsPath) -> io::Result<()> {
    let missing: Vec<&FsPath> = folder.ancestors().take_while(|path| !path.exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    missing.iter().rev().filter_map(|path| path.parent()).try_for_each(sync_folder)
}

/// Makes a folder below the root. One that was there may be of a process that died before it
/// synced the entry, so the first time the whole way up is synced.
fn settle_folder(
    folder: &FsPath,
    root: &FsPath,
    settled: &Mutex<BTreeSet<PathBuf>>,
) -> io::Result<()> {
    make_folders(folder)?;
    if settled.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
        return Ok(());
    }
    let way_up = folder.ancestors().take_while(|part| part.starts_with(root));
    way_up.filter_map(FsPath::parent).try_for_each(sync_folder)?;
    settled.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    Ok(())
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { FsPath::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn sync_entry(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn write_staged(staging: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(staging)?;
    for chunk in payload {
        file.write_all(chunk)?;
    }
    file.sync_all()
}

/// Writes, syncs and moves in.
fn place(
    staging: &FsPath,
    target: &FsPath,
    payload: &PutPayload,
    create: bool,
) -> object_store::Result<()> {
    let folder = target.parent().unwrap_or(FsPath::new("."));
    let pass = |name| failpoint::reached(name).map_err(io::Error::other);
    let written = write_staged(staging, payload).and_then(|()| pass("upload.before_link"));
    let moved = written.and_then(|()| {
        if create { fs::hard_link(staging, target) } else { fs::rename(staging, target) }
    });
    if create || moved.is_err() {
        // The link has its own name; a failed try leaves nothing behind.
        drop(fs::remove_file(staging));
    }
    match moved {
        Ok(()) => pass("upload.after_link").and_then(|()| sync_folder(folder)).map_err(generic),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // It may be our own, of a try that ended before its sync, and then it will count.
            sync_folder(folder).map_err(generic)?;
            Err(object_store::Error::AlreadyExists {
                path: target.display().to_string(),
                source: Box::new(error),
            })
        }
        Err(error) => Err(generic(error)),
    }
}

#[async_trait::async_trait]
impl Layer for DurableLocalStore {
    fn inner(&self) -> &dyn ObjectStore {
        &self.inner
    }

    async fn put_opts(
        &self,
        at: &Path,
        body: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "put with mode Update".to_owned(),
                    implementer: NAME.to_owned(),
                });
            }
        };
        let target = self.fs_path(at)?;
        let staging = self.staging_path(&target);
        let (root, settled) = (self.root.clone(), Arc::clone(&self.settled));
        blocking(move || {
            let folder = target.parent().unwrap_or(&root);
            settle_folder(folder, &root, &settled).map_err(generic)?;
            place(&staging, &target, &body, create)?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.sync_before_read(at).await?;
        self.inner.get_opts(at, options).await
    }

    async fn get_ranges(
        &self,
        at: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.sync_before_read(at).await?;
        self.inner.get_ranges(at, ranges).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let target = self.fs_path(at)?;
        let inner = self.inner.put_multipart_opts(at, opts).await?;
        Ok(Box::new(DurableUpload { inner, target }))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        let target = self.fs_path(to)?;
        blocking(move || sync_entry(&target).map_err(generic)).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        let target = self.fs_path(to)?;
        blocking(move || sync_entry(&target).map_err(generic)).await
    }
}

/// A streamed upload whose completion is durable.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    target: PathBuf,
}

#[async_trait::async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let result = self.inner.complete().await?;
        let target = self.target.clone();
        blocking(move || sync_entry(&target).map_err(generic)).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}

/// Shared handle, as the rest of the crate passes stores around.
impl From<DurableLocalStore> for super::Store {
    fn from(store: DurableLocalStore) -> Self {
        Arc::new(Layered(store))
    }
}
