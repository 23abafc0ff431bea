//! What another process has used so far, from `/proc`.

use anyhow::{Context as _, Result};

use crate::measure::tick_ns;

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time with all threads, and with children that ended, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory in KiB.
    pub rss_kib: u64,
}

/// What the process has used until now.
///
/// # Errors
/// If it does not run.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    // The second field is the name in brackets and may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let times = fields.get(11..15).context("too few fields in stat")?;
    let ticks: u64 = times.iter().map(|time| time.parse::<u64>()).sum::<Result<_, _>>()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(Usage { cpu_ns: ticks * tick_ns(), rss_kib: line.trim().trim_end_matches(" kB").parse()? })
}
