//! Waiting for what may not answer: how long before someone is told, how long between two tries.
//!
//! It never gives up by itself: deadlines are the store's, the log's and the commit's.

use std::time::Duration;

/// How long a step may take before the status says that something waits.
const SLOW: Duration = Duration::from_secs(3);
/// Longest wait between two tries: what is back must be noticed within seconds.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// First wait between two tries.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Does the work; calls `slow` once if that takes long.
pub(crate) async fn patiently<T>(work: impl Future<Output = T>, slow: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(outcome) = tokio::time::timeout(SLOW, &mut work).await {
        return outcome;
    }
    slow();
    work.await
}

/// The wait after a failed try, the first being 1: 0.1 s, 0.2 s, 0.4 s, … up to [`BACK_OFF_MAX`],
/// less up to a half by chance, so that those who failed together do not return together.
pub(crate) fn back_off(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let wait = BACK_OFF_FIRST.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    let random = u32::try_from(uuid::Uuid::new_v4().as_u64_pair().1 & 0x3ff).unwrap_or(0);
    wait / 2 + wait * random / 2048
}
