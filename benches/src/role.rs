//! The benchmark executable as several programs: it starts itself again with a role.
//!
//! The program under test and the broker are pinned to different cores where `taskset` exists,
//! so that they do not take turns on one.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::Measured;

/// Names the role of a child.
const ROLE: &str = "TIDEMILL_BENCH_ROLE";
/// Tells a child where the broker is.
const BROKERS: &str = "TIDEMILL_BENCH_BROKERS";
/// The core of the broker and the core of the program under test.
const BROKER_CORE: &str = "0";
const PROGRAM_CORE: &str = "1";

/// The role of this process, `None` for the one the user started.
pub fn current() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The bootstrap servers from the environment.
pub fn brokers() -> Option<String> {
    std::env::var(BROKERS).ok().filter(|brokers| !brokers.is_empty())
}

/// A number from the environment.
///
/// # Errors
/// If the variable is set and is no number.
pub fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.replace('_', "").parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

/// Runs one program to its end and returns what it measured.
///
/// # Errors
/// If it fails or prints no measurement.
pub fn run(role: &str, brokers: &str) -> Result<Measured> {
    let output = command(role, PROGRAM_CORE)?
        .env(BROKERS, brokers)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {role}"))?;
    if !output.status.success() {
        bail!("{role} failed: {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().with_context(|| format!("{role} printed nothing"))?;
    serde_json::from_str(line).with_context(|| format!("{role} printed: {line}"))
}

/// A child broker; ends when dropped.
#[derive(Debug)]
pub struct BrokerChild {
    child: Child,
    address: String,
}

impl BrokerChild {
    /// Starts the embedded broker in a process of its own and waits for its address.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start() -> Result<Self> {
        let mut child = command("broker", BROKER_CORE)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the broker")?;
        let stdout = child.stdout.take().context("the broker has no stdout")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        if address.trim().is_empty() {
            child.kill()?;
            bail!("the broker did not start");
        }
        Ok(Self { child, address: address.trim().to_string() })
    }

    /// Its bootstrap address.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for BrokerChild {
    fn drop(&mut self) {
        // Closing its stdin tells it to stop; it removes its folder and ends.
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

fn command(role: &str, core: &str) -> Result<Command> {
    let executable = std::env::current_exe()?;
    let pinned = std::thread::available_parallelism()?.get() > 1
        && Command::new("taskset").arg("-V").output().is_ok_and(|output| output.status.success());
    let mut command = if pinned {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(executable);
        command
    } else {
        Command::new(executable)
    };
    // Freed memory goes back as soon as the server gives it back.
    command.env(ROLE, role).env("MIMALLOC_PURGE_DELAY", "20");
    Ok(command)
}
