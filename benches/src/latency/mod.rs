//! How long things take: alerts, recovery, idling, the first result. All against the real program,
//! `tidemill serve`, in a process of its own, over its HTTP interface and its broker.

pub mod alerts;
pub mod echo;
pub mod generator;
pub mod recovery;
pub mod samples;
pub mod service;
pub mod start;
pub mod subscriber;

use std::time::{Duration, Instant};

use tidemill_contract::{Clock as _, SystemClock};

/// Ties the clock that measures to the one that is written into events.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// The moment.
    pub at: Instant,
    /// The same as microseconds since 1970.
    pub micros: i64,
}

impl Epoch {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { at: Instant::now(), micros: SystemClock.now_micros() }
    }
}

/// Lets time pass: the pace of a generator, or the time over which something is watched.
#[expect(clippy::disallowed_methods, reason = "time itself is what is waited for")]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}
