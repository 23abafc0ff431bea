//! How long one operation of a store may take, and how it is tried again.
//!
//! Why a budget of time and not a number of tries: a commit waits for the sum. Only time spent
//! with the store counts, never the time its caller takes between two items of a stream.

use std::future::Future;
use std::io;
use std::time::Duration;

use object_store::{Error, Result};
use tokio::time::Instant;

/// What a working store moves at least; an operation on many bytes has as much longer.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// The same for listed and deleted objects.
const OBJECT_TIME_MAX: Duration = Duration::from_millis(10);
/// Waits between tries: doubled from the first up to the last, and never in step with others.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Deadlines of every store operation. An operation on `n` bytes has `n` / 1 MiB seconds more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// One try; what takes longer is cancelled and tried again.
    pub try_timeout: Duration,
    /// All tries of one operation together, waits included.
    pub operation_timeout: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { try_timeout: Duration::from_secs(3), operation_timeout: Duration::from_secs(10) }
    }
}

/// The tries of one operation.
#[derive(Debug)]
pub(super) struct Tries {
    limits: StoreLimits,
    what: &'static str,
    /// Time for the bytes or objects, in every try.
    extra: Duration,
    left: Duration,
    failed: u32,
}

impl Tries {
    pub(super) fn new(limits: StoreLimits, what: &'static str) -> Self {
        Self { limits, what, extra: Duration::ZERO, left: limits.operation_timeout, failed: 0 }
    }

    /// This many bytes are to be moved.
    pub(super) fn with_bytes(mut self, bytes: u64) -> Self {
        self.extend(bytes);
        self
    }

    /// This many bytes are to be moved besides.
    pub(super) fn extend(&mut self, bytes: u64) {
        let extra = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND_MIN);
        self.extra = self.extra.max(extra);
        self.left = self.left.max(self.limits.operation_timeout + extra);
    }

    /// This many objects are to be worked on.
    pub(super) fn with_objects(mut self, count: usize) -> Self {
        self.extra = OBJECT_TIME_MAX * u32::try_from(count).unwrap_or(u32::MAX);
        self.left += self.extra;
        self
    }

    /// Something came: the store works.
    pub(super) fn progress(&mut self) {
        self.failed = 0;
        self.left = (self.left + OBJECT_TIME_MAX).min(self.limits.operation_timeout);
    }

    /// No try failed yet.
    pub(super) fn is_first(&self) -> bool {
        self.failed == 0
    }

    /// One try, cancelled at its deadline.
    pub(super) async fn attempt<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let longest = (self.limits.try_timeout + self.extra).min(self.left);
        let started = Instant::now();
        let outcome = tokio::time::timeout(longest, work).await;
        self.left = self.left.saturating_sub(started.elapsed());
        outcome.unwrap_or_else(|_| {
            let what = format!("no answer within {longest:.1?}");
            Err(generic(io::Error::new(io::ErrorKind::TimedOut, what)))
        })
    }

    /// Waits before the next try; an error if there is no time for one.
    pub(super) async fn wait(&mut self, error: Error) -> Result<()> {
        let doubled = WAIT_FIRST * (1 << self.failed.min(8));
        let wait = jittered(doubled.min(WAIT_MAX));
        self.failed += 1;
        if wait >= self.left {
            return Err(self.give_up(error));
        }
        tracing::debug!(operation = self.what, %error, tries = self.failed, "the bucket is asked again");
        tokio::time::sleep(wait).await;
        self.left -= wait;
        Ok(())
    }

    fn give_up(&self, error: Error) -> Error {
        if is_refusal(&error) {
            return error;
        }
        let source = match error {
            Error::Generic { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        let spent = self.limits.operation_timeout + self.extra;
        generic(io::Error::other(format!("{source} ({} tries in {spent:.1?})", self.failed)))
    }
}

/// Between half of a wait and all of it, so that many who fail at once do not return at once.
fn jittered(wait: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u64_pair().1 & 0x3ff;
    wait / 2 + wait.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 2048.0)
}

/// The store works and says who we are is not enough. It may change its mind: keys are renewed.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
}

/// Another try may end differently.
pub(super) fn is_transient(error: &Error) -> bool {
    is_refusal(error)
        || matches!(
            error,
            Error::Generic { .. } | Error::JoinError { .. } | Error::Precondition { .. }
        )
}

pub(super) fn generic(error: io::Error) -> Error {
    Error::Generic { store: "bucket", source: Box::new(error) }
}
