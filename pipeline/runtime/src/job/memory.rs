//! A job and the memory it may use: how large its state is, who must go when there is too much,
//! and when to read more slowly.
//!
//! Invariants: the state of all jobs stays below its share of the budget, at the price of the
//! queries that hold most of it; a job never waits for memory without end, because what it waits
//! for may be freed by nobody.

use std::time::{Duration, Instant};

use tidemill_contract::{Error, Result};
use tidemill_sql::engine::Usage;

use super::{run::Run, tables::Flush};

/// Longest pause between two batches while the process is short of memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What a job remembers of its memory.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    state_bytes: usize,
    read_at: Instant,
    looked_at: Instant,
}

impl MemoryGuard {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { state_bytes: 0, read_at: now, looked_at: now }
    }

    /// Bytes of the operators' state as last counted.
    pub(super) fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}

impl Run<'_> {
    /// The process is short of memory: what can be written out goes, and reading slows down.
    /// While nothing is read it is looked at now and then only: a look costs more than the round.
    pub(super) fn must_pause_reading(&mut self, was_idle: bool) -> Result<bool> {
        if was_idle && self.guard.looked_at.elapsed() < PAUSE {
            return Ok(false);
        }
        self.guard.looked_at = Instant::now();
        if !self.environment.memory.is_short() || self.guard.read_at.elapsed() >= PAUSE {
            self.guard.read_at = Instant::now();
            return Ok(false);
        }
        if self.tables.holds_rows() || !self.outbox.is_empty() {
            self.commit_if_dirty(Flush::All)?;
        }
        Ok(true)
    }

    /// Counts the state, and fails for the queries that hold most if there is too much of it.
    pub(super) fn watch_state(&mut self) -> Result<()> {
        let memory = &self.environment.memory;
        let mut usage = self.engine.usage();
        usage.extend(self.alerts.values().filter_map(|alert| {
            let bytes = alert.state_bytes();
            (bytes > 0).then(|| Usage { queries: vec![alert.view().to_owned()], bytes })
        }));
        self.guard.state_bytes = usage.iter().map(|usage| usage.bytes).sum();
        let (all, others) = memory.note_state(&self.config.name, self.guard.state_bytes);
        let limit = memory.state_limit();
        // The job with the largest state gives way, unless it does not (it may be paused); those
        // with little never do: nothing would be won.
        let own = self.guard.state_bytes;
        let is_another = own < others && (all <= limit + limit / 4 || own < limit / 8);
        if all <= limit || is_another {
            return Ok(());
        }
        let Some(largest) = usage.into_iter().max_by_key(|usage| usage.bytes) else {
            return Ok(());
        };
        for query in &largest.queries {
            self.blame.query(query);
        }
        Err(too_much(&largest, all, limit))
    }
}

/// The state of a query was too large: trying again would make it as large again.
pub(super) const TOO_MUCH_STATE: &str = "TM342";

fn too_much(largest: &Usage, all: usize, limit: usize) -> Error {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let queries = largest.queries.join("', '");
    let (own, all, limit) = (mib(largest.bytes), mib(all), mib(limit));
    Error::invalid(TOO_MUCH_STATE, format!("the state of '{queries}' does not fit into memory"))
        .because(format!(
            "it has {own} MiB, all states {all} MiB, and they may have {limit} MiB, \
             an eighth of memory.budget"
        ))
        .help("use fewer keys, fewer or shorter windows, or raise memory.budget")
}
