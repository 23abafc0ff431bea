//! The benchmark executable as several programs: it starts itself again with a role.
//!
//! The program under test and the broker are pinned to different cores where `taskset` exists,
//! so that they do not take turns on one.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::Measured;

/// Names the role of a child.
const ROLE: &str = "TIDEMILL_BENCH_ROLE";
/// Tells a child where the broker is.
const BROKERS: &str = "TIDEMILL_BENCH_BROKERS";
/// Tells a child how many orders the topic has.
const EVENTS: &str = "TIDEMILL_BENCH_EVENTS";
/// The core of the broker and the core of the program under test.
pub const BROKER_CORE: &str = "0";
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
    finish(role, command(role, PROGRAM_CORE)?.env(BROKERS, brokers))
}

/// The same on the topic with this many orders.
///
/// # Errors
/// If it fails or prints no measurement.
pub fn run_on(role: &str, brokers: &str, orders: u64) -> Result<Measured> {
    let mut command = command(role, PROGRAM_CORE)?;
    finish(role, command.env(BROKERS, brokers).env(EVENTS, orders.to_string()))
}

fn finish(role: &str, command: &mut Command) -> Result<Measured> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {role}"))?;
    if !output.status.success() {
        bail!("{role} failed: {}", output.status);
    }
    last_line(&output.stdout).with_context(|| role.to_string())
}

/// The measurement in the last line that a program printed.
///
/// # Errors
/// If there is none.
pub fn last_line<T: DeserializeOwned>(printed: &[u8]) -> Result<T> {
    let line = std::str::from_utf8(printed)?.lines().last().context("nothing was printed")?;
    serde_json::from_str(line).with_context(|| format!("no measurement: {line}"))
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

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
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

/// This executable in another role on the core of the programs under test.
///
/// # Errors
/// If it does not know its own path.
pub fn child(role: &str) -> Result<Command> {
    command(role, PROGRAM_CORE)
}

fn command(role: &str, core: &str) -> Result<Command> {
    let mut command = pinned(&std::env::current_exe()?, core)?;
    // Freed memory goes back as soon as the server gives it back.
    command.env(ROLE, role).env("MIMALLOC_PURGE_DELAY", "20");
    Ok(command)
}

/// A program on one core, if there is more than one and `taskset` exists.
///
/// # Errors
/// If the machine does not say how many cores it has.
pub fn pinned(executable: &Path, core: &str) -> Result<Command> {
    let pinned = std::thread::available_parallelism()?.get() > 1
        && Command::new("taskset").arg("-V").output().is_ok_and(|output| output.status.success());
    Ok(if pinned {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(executable);
        command
    } else {
        Command::new(executable)
    })
}
