//! The memory of one process: one budget and its shares.
//!
//! Why shares: whoever needs memory asks for a part of its own share and is refused when that is
//! used up, so one view or one query cannot take what the others stand on. Half of the budget is
//! left for copies (a commit writes the state, closing a window merges it), for the program and for
//! what nobody counts; [`Memory::is_short`] notices if that is not enough. It never frees anything
//! itself.
//!
//! | share | of the budget | who counts |
//! |---|---|---|
//! | operators' state, all jobs | 1/8 | each job after each batch |
//! | ad-hoc queries, all together | 1/8 | DataFusion's memory pool |
//! | the result of one of them | 1/32 | the query |
//! | open windows of a view that is looked at | 1/16 | its job |
//! | each buffer of a job | 1/32 | the buffer |
//! | each client of the log | 1/64 | librdkafka |

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use tokio::sync::Semaphore;

/// The smallest budget a process starts with.
pub const BUDGET_MIN: usize = 128 << 20;
/// The budget if the machine does not say how much memory it has.
const BUDGET_UNKNOWN: usize = 1 << 30;
/// Ad-hoc queries that run at once; others wait for their turn.
const QUERIES: usize = 8;

/// Half of what the machine, or the container, has.
pub fn default_budget() -> usize {
    let bytes = [machine_bytes(), limit("/sys/fs/cgroup/memory.max"), limit(CGROUP_V1)];
    let least = bytes.into_iter().flatten().min();
    (least.unwrap_or(2 * BUDGET_UNKNOWN) / 2).max(BUDGET_MIN)
}

/// How often the process's own size is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const CGROUP_V1: &str = "/sys/fs/cgroup/memory/memory.limit_in_bytes";

fn limit(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn machine_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the process holds in memory now; pages of the program's own file are not counted, the
/// system takes them back when it needs them.
fn resident_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The budget and who has how much of it.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: usize,
    /// For ad-hoc queries, all together.
    pub(crate) queries: Arc<dyn MemoryPool>,
    pub(crate) turns: Semaphore,
    /// Bytes of operators' state, by job.
    states: Mutex<BTreeMap<String, usize>>,
    /// What the process held when last looked at.
    resident: Mutex<(Instant, usize)>,
}

impl Memory {
    /// Nothing is used yet.
    pub(crate) fn new(budget: usize) -> Self {
        let queries: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(budget / 8));
        let resident = Mutex::new((Instant::now(), 0));
        let turns = Semaphore::new(QUERIES);
        Self { budget, queries, turns, states: Mutex::default(), resident }
    }

    /// The process holds more than its budget, whoever it is that holds it.
    pub(crate) fn is_short(&self) -> bool {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        if resident.1 == 0 || resident.0.elapsed() >= LOOK_INTERVAL {
            *resident = (Instant::now(), resident_bytes().unwrap_or(0));
        }
        resident.1 > self.budget
    }

    /// What the state of all jobs may come to.
    pub(crate) fn state_limit(&self) -> usize {
        self.budget / 8
    }

    /// What the result of one ad-hoc query may come to.
    pub(crate) fn result_limit(&self) -> usize {
        self.budget / 32
    }

    /// Values the result of one ad-hoc query may have: as text each takes many bytes.
    pub(crate) fn result_values(&self) -> usize {
        self.budget / 1024
    }

    /// What the open windows of one view may come to when they are looked at.
    pub(crate) fn look_limit(&self) -> usize {
        self.budget / 16
    }

    /// What the client of one reader or writer may hold; it needs as much again beside that.
    pub(crate) fn client_limit(&self) -> usize {
        (self.budget / 64).min(64 << 20)
    }

    /// What one buffer of a job may hold before it must be emptied: closed rows that wait for their
    /// file, records that wait for their topic.
    pub(crate) fn buffer_limit(&self) -> usize {
        (self.budget / 32).min(64 << 20)
    }

    /// Bytes of records a job takes at a time.
    pub(crate) fn batch_bytes(&self) -> usize {
        (self.budget / 256).clamp(256 << 10, 4 << 20)
    }

    /// Says how much state a job has; returns what all jobs have, and the largest of the others.
    pub(crate) fn note_state(&self, job: &str, bytes: usize) -> (usize, usize) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(job.to_owned(), bytes);
        let others = states.iter().filter(|(name, _)| *name != job).map(|(_, bytes)| *bytes);
        (states.values().sum(), others.max().unwrap_or(0))
    }

    /// The job has no state in memory any more.
    pub(crate) fn forget_state(&self, job: &str) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }
}
