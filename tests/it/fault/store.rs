//! A store that lies on demand: answers that are lost, late, wrong or short, for some operations
//! on some paths, by chance or for a number of times.
//!
//! It sits under the guard, so what it does is what a network and a store may do. A fault that
//! strikes after success has really happened; one that strikes before has not.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, PutMode, PutOptions,
    PutPayload, PutResult, Result,
};
use tidemill_connectors::store::{Layer, Layered, Store};
use tokio::time::Instant;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A put that replaces.
    Put,
    /// A put that must be the first.
    Create,
    /// A read of an object or a part of it.
    Get,
    /// A read of several parts.
    Ranges,
    List,
    Delete,
}

impl Op {
    pub(crate) const ALL: [Self; 6] =
        [Self::Put, Self::Create, Self::Get, Self::Ranges, Self::List, Self::Delete];
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens, and an error says so.
    Before,
    /// It happens, and the answer is lost.
    After,
    /// Nothing happens, and no answer comes.
    Hang,
    /// It happens, and no answer comes.
    HangAfter,
    /// It happens late.
    Slow(Duration),
    /// A body or a listing that breaks off; for other operations as `Before`.
    Cut,
    /// A body that ends early and says nothing.
    Short,
    /// A body that comes a byte a second.
    Trickle,
    /// A body with one bit turned over.
    Flip,
    /// The server answers with this status; nothing happens.
    Status(u16),
    /// A listing without numbered objects above this.
    Stale(u64),
}

/// How often a rule strikes.
#[derive(Debug, Clone, Copy)]
enum Times {
    /// The next so many operations.
    Next(u64),
    /// By chance, in a thousand.
    PerMille(u64),
}

#[derive(Debug)]
struct Rule {
    op: Option<Op>,
    prefix: String,
    fault: Fault,
    times: Times,
}

/// A store with rules; without any it passes everything on.
#[derive(Debug)]
pub(crate) struct FaultStore {
    inner: Store,
    rules: Mutex<Vec<Rule>>,
    random: AtomicU64,
    struck: AtomicU64,
}

impl FaultStore {
    pub(crate) fn new(inner: Store, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            rules: Mutex::default(),
            random: AtomicU64::new(seed),
            struck: AtomicU64::new(0),
        })
    }

    /// The store to use.
    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Arc::new(Layered(Handle(Arc::clone(self))))
    }

    /// The next `count` operations on paths with this prefix go wrong; `None` is any operation.
    pub(crate) fn next(&self, count: u64, op: Option<Op>, prefix: &str, fault: Fault) {
        self.add(op, prefix, fault, Times::Next(count));
    }

    /// Operations go wrong by chance: `per_mille` of a thousand.
    pub(crate) fn chance(&self, per_mille: u64, op: Option<Op>, prefix: &str, fault: Fault) {
        self.add(op, prefix, fault, Times::PerMille(per_mille));
    }

    fn add(&self, op: Option<Op>, prefix: &str, fault: Fault, times: Times) {
        let rule = Rule { op, prefix: prefix.to_owned(), fault, times };
        self.rules.lock().unwrap().push(rule);
    }

    /// No fault any more.
    pub(crate) fn heal(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// Creates do not fail any more.
    pub(crate) fn heal_creates(&self) {
        self.rules.lock().unwrap().retain(|rule| rule.op != Some(Op::Create));
    }

    /// How often a rule struck so far.
    pub(crate) fn struck(&self) -> u64 {
        self.struck.load(Ordering::SeqCst)
    }

    /// The fault of this operation, if it has one.
    fn fault(&self, op: Op, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        for rule in rules.iter_mut() {
            if rule.op.is_some_and(|wanted| wanted != op) || !path.starts_with(&rule.prefix) {
                continue;
            }
            let strikes = match &mut rule.times {
                Times::Next(0) => false,
                Times::Next(left) => {
                    *left -= 1;
                    true
                }
                Times::PerMille(chance) => self.draw() % 1000 < *chance,
            };
            if strikes {
                self.struck.fetch_add(1, Ordering::SeqCst);
                return Some(rule.fault);
            }
        }
        None
    }

    /// The next number of a xorshift generator.
    fn draw(&self) -> u64 {
        let step = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ (x << 17)
        };
        let before =
            self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(step(x)));
        step(before.unwrap_or_else(|same| same)) >> 11
    }
}

fn lost() -> Error {
    generic("the connection was reset")
}

fn generic(what: &str) -> Error {
    Error::Generic { store: "FaultStore", source: Box::new(io::Error::other(what.to_owned())) }
}

/// As the S3 client maps them.
fn refused(status: u16, path: &Path) -> Error {
    let source = || Box::new(io::Error::other(format!("HTTP status {status}")));
    let path = path.to_string();
    match status {
        401 => Error::Unauthenticated { path, source: source() },
        403 => Error::PermissionDenied { path, source: source() },
        412 => Error::Precondition { path, source: source() },
        _ => generic(&format!("HTTP status {status}")),
    }
}

/// Applies a fault to an operation that answers once.
async fn bent<T>(
    fault: Option<Fault>,
    at: &Path,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match fault {
        None => work.await,
        Some(Fault::Before | Fault::Cut) => Err(lost()),
        Some(Fault::After) => work.await.and(Err(lost())),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::HangAfter) => {
            // Whether it worked is what nobody hears.
            drop(work.await);
            std::future::pending().await
        }
        Some(Fault::Slow(by)) => {
            tokio::time::sleep(by).await;
            work.await
        }
        Some(Fault::Status(status)) => Err(refused(status, at)),
        Some(Fault::Short | Fault::Trickle | Fault::Flip | Fault::Stale(_)) => work.await,
    }
}

/// A body as the fault leaves it.
async fn bent_body(found: GetResult, fault: Fault) -> Result<GetResult> {
    let (meta, range) = (found.meta.clone(), found.range.clone());
    let attributes = found.attributes.clone();
    let whole = found.bytes().await?;
    let half = whole.slice(..whole.len() / 2);
    let body: BoxStream<'static, Result<Bytes>> = match fault {
        Fault::Cut => stream::iter([Ok(half), Err(lost())]).boxed(),
        Fault::Short => stream::iter([Ok(half)]).boxed(),
        Fault::Trickle => stream::unfold((whole, 0), |(whole, at)| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (at < whole.len()).then(|| (Ok(whole.slice(at..=at)), (whole.clone(), at + 1)))
        })
        .boxed(),
        _ => {
            let mut bytes = whole.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            stream::iter([Ok(Bytes::from(bytes))]).boxed()
        }
    };
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes })
}

fn number(path: &Path) -> u64 {
    let digits = path.filename().unwrap_or_default().chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(0)
}

/// A fault store as a layer.
#[derive(Debug)]
struct Handle(Arc<FaultStore>);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.0.inner)
    }
}

impl Handle {
    fn bent_list(
        &self,
        prefix: Option<&Path>,
        listed: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let Some(fault) = self.0.fault(Op::List, path.as_ref()) else { return listed };
        match fault {
            Fault::Stale(up_to) => listed
                .filter(move |meta| {
                    let shown = meta.as_ref().map_or(true, |meta| number(&meta.location) <= up_to);
                    std::future::ready(shown)
                })
                .boxed(),
            Fault::Cut => listed.take(2).chain(stream::iter([Err(lost())])).boxed(),
            Fault::After => listed.chain(stream::iter([Err(lost())])).boxed(),
            Fault::HangAfter => listed.chain(stream::pending()).boxed(),
            fault => {
                let begin = async move { bent(Some(fault), &path, async { Ok(listed) }).await };
                stream::once(begin)
                    .map(|begun| begun.unwrap_or_else(|error| stream::iter([Err(error)]).boxed()))
                    .flatten()
                    .boxed()
            }
        }
    }
}

#[async_trait::async_trait]
impl Layer for Handle {
    fn inner(&self) -> &dyn ObjectStore {
        &self.0.inner
    }

    async fn put_opts(&self, at: &Path, body: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let op = if opts.mode == PutMode::Create { Op::Create } else { Op::Put };
        bent(self.0.fault(op, at.as_ref()), at, self.0.inner.put_opts(at, body, opts)).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let read = self.0.inner.get_opts(at, options);
        match self.0.fault(Op::Get, at.as_ref()) {
            Some(fault @ (Fault::Cut | Fault::Short | Fault::Trickle | Fault::Flip))
                if !is_head =>
            {
                bent_body(read.await?, fault).await
            }
            fault => bent(fault, at, read).await,
        }
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let read = self.0.inner.get_ranges(at, ranges);
        match self.0.fault(Op::Ranges, at.as_ref()) {
            Some(Fault::Short) => {
                let halved = |part: Bytes| part.slice(..part.len() / 2);
                Ok(read.await?.into_iter().map(halved).collect())
            }
            fault => bent(fault, at, read).await,
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let faults = Arc::clone(&self.0);
        paths
            .then(move |path| {
                let faults = Arc::clone(&faults);
                async move {
                    let path = path?;
                    let fault = faults.fault(Op::Delete, path.as_ref());
                    let asked = stream::iter([Ok(path.clone())]).boxed();
                    let mut deleted = faults.inner.delete_stream(asked);
                    let work = async move { deleted.next().await.unwrap_or_else(|| Err(lost())) };
                    bent(fault, &path, work).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.bent_list(prefix, self.0.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.bent_list(prefix, self.0.inner.list_with_offset(prefix, offset))
    }
}

/// Measures the longest operation of a store, as its user sees it.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    inner: Store,
    longest: Arc<Mutex<(Duration, &'static str)>>,
}

impl Timed {
    pub(crate) fn new(inner: Store) -> Self {
        Self { inner, longest: Arc::default() }
    }

    /// The store to use.
    pub(crate) fn store(&self) -> Store {
        Arc::new(Layered(self.clone()))
    }

    /// The longest operation so far, and what it was.
    pub(crate) fn longest(&self) -> (Duration, &'static str) {
        *self.longest.lock().unwrap()
    }

    async fn measure<T>(&self, what: &'static str, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let outcome = work.await;
        let mut longest = self.longest.lock().unwrap();
        *longest = (*longest).max((started.elapsed(), what));
        outcome
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timed({})", self.inner)
    }
}

#[async_trait::async_trait]
impl Layer for Timed {
    fn inner(&self) -> &dyn ObjectStore {
        &self.inner
    }

    async fn put_opts(&self, at: &Path, body: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.measure("put", self.inner.put_opts(at, body, opts)).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.measure("get", self.inner.get_opts(at, options)).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.measure("ranges", self.inner.get_ranges(at, ranges)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        timed_items(self, "delete", self.inner.delete_stream(paths))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        timed_items(self, "list", self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        timed_items(self, "list", self.inner.list_with_offset(prefix, offset))
    }
}

/// A stream whose waits are measured one by one.
fn timed_items<T: Send + 'static>(
    timed: &Timed,
    what: &'static str,
    items: BoxStream<'static, T>,
) -> BoxStream<'static, T> {
    let start = (timed.clone(), items);
    stream::unfold(start, move |(timed, mut items)| async move {
        let item = timed.measure(what, items.next()).await?;
        Some((item, (timed, items)))
    })
    .boxed()
}
