//! CPU and wall time of the calling process, and how much of the machine others took.
//!
//! CPU time comes from `/proc/self/stat` (all threads, those of librdkafka and finished ones
//! included; resolution one clock tick, 10 ms). Linux only.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Clock ticks a second: the kernel's fixed `USER_HZ`.
const TICKS_PER_SECOND: u64 = 100;

/// One run of one program.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    /// CPU time of the process in nanoseconds.
    pub cpu_ns: u64,
    /// Wall time in nanoseconds.
    pub wall_ns: u64,
    /// Largest resident set so far in KiB.
    pub rss_kib: u64,
    /// The answer, if the program gives one.
    pub digest: Option<Digest>,
    /// CPU time that does not grow with the work, where that is told apart.
    #[serde(default)]
    pub setup_cpu_ns: u64,
    /// Memory that what was measured keeps, where that is the question.
    #[serde(default)]
    pub held_bytes: u64,
}

/// A running measurement.
#[derive(Debug)]
pub struct Stopwatch {
    began: Instant,
    cpu_ticks: u64,
}

impl Stopwatch {
    /// Starts now.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn start() -> Result<Self> {
        Ok(Self { began: Instant::now(), cpu_ticks: cpu_ticks()? })
    }

    /// Ends now.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn stop(self) -> Result<Measured> {
        let ticks = cpu_ticks()? - self.cpu_ticks;
        Ok(Measured {
            cpu_ns: ticks * tick_ns(),
            wall_ns: u64::try_from(self.began.elapsed().as_nanos())?,
            rss_kib: status_kib("VmHWM:")?,
            digest: None,
            setup_cpu_ns: 0,
            held_bytes: 0,
        })
    }
}

/// Nanoseconds of one clock tick.
#[must_use]
pub const fn tick_ns() -> u64 {
    1_000_000_000 / TICKS_PER_SECOND
}

/// User and system time of this process.
fn cpu_ticks() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in brackets and may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat: no name")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("/proc/self/stat")?.parse()?) };
    Ok(next()? + next()?)
}

fn status_kib(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).context("/proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Bytes of this process that are in memory now.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn resident_bytes() -> Result<u64> {
    Ok(status_kib("VmRSS:")? * 1024)
}

/// CPU time of this process so far, in nanoseconds.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn cpu_ns() -> Result<u64> {
    Ok(cpu_ticks()? * (1_000_000_000 / TICKS_PER_SECOND))
}

/// Ticks of the whole machine: (taken by other guests of the host, all).
///
/// # Errors
/// If `/proc/stat` cannot be read.
pub fn steal_ticks() -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    Ok((ticks.get(7).copied().unwrap_or(0), ticks.iter().take(8).sum()))
}

/// One line about the machine, for the results page.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores, {}, Linux {}", model.trim_matches(['\t', ' ', ':']), kernel.trim()))
}
