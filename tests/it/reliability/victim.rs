//! A process made to be killed: the whole program, as `tidemill run`, and where it was at its end.
//!
//! The trace file of the fail points says which step the process passed last, the log whether a
//! rule made it stand still; nothing in the process knows that it will be killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::cli::{signal, tidemill};

/// How long a process may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running process.
#[derive(Debug)]
pub(crate) struct Victim {
    child: Child,
    trace: PathBuf,
    log: PathBuf,
}

/// How processes are started.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The working folder.
    pub(crate) folder: PathBuf,
    /// The command line.
    pub(crate) arguments: Vec<String>,
    /// The environment besides.
    pub(crate) environment: Vec<(String, String)>,
}

impl Start {
    /// `tidemill run <script> --data-dir data` in a folder, committing and flushing often.
    pub(crate) fn script(folder: &Path, script: &str, commit: &str, flush: &str) -> Self {
        let set = |key: &str, value: &str| (format!("TIDEMILL__STATE__{key}"), value.to_owned());
        Self {
            folder: folder.to_owned(),
            arguments: ["run", script, "--data-dir", "data"].map(str::to_owned).to_vec(),
            environment: vec![set("COMMIT_INTERVAL", commit), set("FLUSH_INTERVAL", flush)],
        }
    }

    /// Starts a process; `rules` are for its fail points.
    pub(crate) fn spawn(&self, rules: &str) -> Victim {
        let (trace, log) = (self.folder.join("trace"), self.folder.join("log"));
        // Gone before the start: what is found later is of this process.
        drop(std::fs::remove_file(&trace));
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command: Command = tidemill(&self.folder, &arguments);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("TIDEMILL_FAILPOINT_TRACE", &trace)
            .env("TIDEMILL_FAILPOINTS", rules)
            .stdout(File::create(self.folder.join("out")).unwrap())
            .stderr(File::create(&log).unwrap());
        Victim { child: command.spawn().unwrap(), trace, log }
    }
}

impl Victim {
    /// The fail point passed last, `None` before the first.
    pub(crate) fn last_point(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.trace).ok()?;
        let name = text.lines().next()?.trim();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Waits for the first fail point.
    pub(crate) fn await_life(&mut self) {
        self.wait_until("a sign of life", PATIENCE, |victim| victim.last_point().is_some());
    }

    /// Waits until a fail point acted; false if none did in time.
    pub(crate) fn await_hang(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.assert_running();
            if self.log().contains("a fail point acts") {
                return true;
            }
            pause(Duration::from_millis(2));
        }
        false
    }

    /// Waits for a condition; fails if the process ends before, or it takes too long.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        let deadline = Instant::now() + patience;
        while !holds(self) {
            self.assert_running();
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.log());
            pause(Duration::from_millis(2));
        }
    }

    /// SIGKILL. Gives the point passed last.
    pub(crate) fn kill(mut self) -> Option<String> {
        self.assert_running();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.last_point()
    }

    /// SIGTERM, and waits for the end, which must be a good one.
    pub(crate) fn stop(mut self) -> Option<String> {
        let point = self.last_point();
        self.assert_running();
        signal(&self.child, "-TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", self.log());
                return point;
            }
            assert!(Instant::now() < deadline, "it does not stop\n{}", self.log());
            pause(Duration::from_millis(2));
        }
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the process ended by itself: {status}\n{}", self.log());
        }
    }

    /// What it wrote to stderr.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A failed test leaves no process behind; one that ended needs no signal.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Time goes by.
#[expect(clippy::disallowed_methods, reason = "a kill comes at a time, not at an event")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
