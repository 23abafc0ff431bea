//! Fail points: named places where a test lets the program die, fail or stand still.
//!
//! Why in the program and not in a test double: a crash must hit the real steps between the real
//! files, at an exact place, in a real process. A point that is not configured costs one load. It
//! never changes what the program does unless the environment variable `TIDEMILL_FAILPOINTS` is
//! set, and that is for tests only.
//!
//! The variable holds rules `name=action[@hit][xtimes]` with `;` between them: from the given hit
//! on (the first is 1), so many times (once if not given). Actions: `abort` (the process dies at
//! once, nothing is flushed or dropped), `error` (an error of kind `Unavailable`), `panic`, `hang`
//! (this thread never goes on), `stop` (the whole process stands still until it gets SIGCONT).
//! `TIDEMILL_FAILPOINT_TRACE` names a file that always begins with the
//! name reached last, so that whoever kills the process from outside knows where it was.
//!
//! Invariant: every name in [`ALL`] is reached at exactly one place of the source, and no other
//! name is (a test checks it).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_contract::{Error, Result};

/// Every fail point, in the order one epoch comes by them. A name is `<phase>.<step>`.
pub const ALL: &[&str] = &[
    "feed.opened",
    "feed.before_append",
    "feed.before_flush",
    "feed.broker_before_write",
    "feed.broker_before_sync",
    "feed.broker_after_sync",
    "feed.after_flush",
    "feed.before_book",
    "feed.after_book",
    "ingest.polled",
    "ingest.pushed",
    "ingest.emitted",
    "ingest.advanced",
    "upload.before_rows",
    "upload.after_rows",
    "upload.before_state",
    "upload.after_state",
    "upload.before_outbox",
    "upload.after_outbox",
    "upload.before_link",
    "upload.after_link",
    "commit.before_floor",
    "commit.before_create",
    "commit.after_create",
    "commit.before_split",
    "commit.after_split",
    "commit.before_part",
    "commit.after_part",
    "publish.before_tables",
    "publish.before_table",
    "publish.after_table",
    "publish.before_topics",
    "publish.appended",
    "publish.after_topics",
    "publish.before_file",
    "publish.file_opened",
    "publish.file_written",
    "publish.after_files",
    "recover.opened",
    "recover.state_read",
    "recover.before_take_over",
    "recover.taken_over",
    "recover.rolled_forward",
    "recover.positioned",
    "recover.restored",
    "clean.before_commits",
    "clean.after_commits",
    "clean.before_objects",
    "clean.after_objects",
    "clean.before_compaction",
    "clean.after_compaction",
];

/// What to do where.
const RULES: &str = "TIDEMILL_FAILPOINTS";
/// The file that begins with the name reached last.
const TRACE: &str = "TIDEMILL_FAILPOINT_TRACE";
/// Bytes of the name in that file; the rest is spaces.
const TRACE_WIDTH: usize = 40;

static CONFIGURED: LazyLock<Result<Option<Points>>> = LazyLock::new(Points::of_environment);

/// Passes a fail point.
///
/// # Errors
/// `TM910` (kind `Unavailable`) where a rule says so, `TM911` if the rules cannot be read.
#[inline]
pub fn reached(name: &'static str) -> Result<()> {
    match &*CONFIGURED {
        Ok(None) => Ok(()),
        Ok(Some(points)) => points.reached(name),
        Err(error) => Err(error.clone()),
    }
}

/// Checks the environment variables without passing any point.
///
/// # Errors
/// `TM911` if the rules cannot be read or the trace file cannot be written.
pub fn check() -> Result<()> {
    CONFIGURED.as_ref().map(|_| ()).map_err(Error::clone)
}

/// Reached points act by these.
#[derive(Debug)]
struct Points {
    rules: Vec<Rule>,
    trace: Option<File>,
}

#[derive(Debug)]
struct Rule {
    name: &'static str,
    action: Action,
    /// Acts on hits `[from, from + times)`, counted from 1.
    from: u64,
    times: u64,
    hits: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Error,
    Panic,
    Hang,
    Stop,
}

impl Points {
    fn of_environment() -> Result<Option<Self>> {
        let rules = std::env::var(RULES).unwrap_or_default();
        let trace = std::env::var_os(TRACE).filter(|path| !path.is_empty());
        if rules.is_empty() && trace.is_none() {
            return Ok(None);
        }
        let trace = trace.map(File::create).transpose().map_err(|error| {
            invalid(format!("the file of {TRACE} cannot be written")).because(error.to_string())
        })?;
        Ok(Some(Self { rules: parse(&rules)?, trace }))
    }

    fn reached(&self, name: &'static str) -> Result<()> {
        if let Some(trace) = &self.trace {
            let padded = format!("{name:TRACE_WIDTH$}\n");
            // Only a test reads it, and it will miss the name.
            drop(trace.write_all_at(padded.as_bytes(), 0));
        }
        // Every rule counts, also behind one that acts.
        let mut due = None;
        for rule in self.rules.iter().filter(|rule| rule.name == name) {
            let hit = rule.hits.fetch_add(1, Ordering::Relaxed) + 1;
            if (rule.from..rule.from.saturating_add(rule.times)).contains(&hit) {
                due = due.or(Some((rule.action, hit)));
            }
        }
        due.map_or(Ok(()), |(action, hit)| action.act(name, hit))
    }
}

impl Action {
    #[expect(clippy::disallowed_methods, reason = "dying here is what the test asked for")]
    fn act(self, name: &str, hit: u64) -> Result<()> {
        tracing::error!(fail_point = name, hit, action = ?self, "a fail point acts");
        match self {
            Self::Abort => std::process::abort(),
            Self::Error => {
                Err(Error::unavailable("TM910", format!("fail point '{name}' failed as told")))
            }
            Self::Panic => panic!("fail point '{name}' panicked as told"),
            Self::Hang => loop {
                std::thread::park();
            },
            Self::Stop => stop(),
        }
    }
}

/// Sends this process SIGSTOP; returns when it was continued.
fn stop() -> Result<()> {
    let outcome = Command::new("sh").args(["-c", "kill -STOP $PPID"]).status();
    let failed = |reason: String| Error::internal("a process cannot stop itself").because(reason);
    match outcome {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn parse(rules: &str) -> Result<Vec<Rule>> {
    rules.split(';').map(str::trim).filter(|rule| !rule.is_empty()).map(parse_rule).collect()
}

/// `name=action[@hit][xtimes]`
fn parse_rule(text: &str) -> Result<Rule> {
    let wrong = |what: &str| {
        invalid(format!("{RULES}: '{text}' {what}"))
            .help("write name=action[@hit][xtimes] with action abort, error, panic, hang or stop")
    };
    let (name, rest) = text.split_once('=').ok_or_else(|| wrong("has no action"))?;
    let known = ALL.iter().find(|known| **known == name.trim());
    let name = known.ok_or_else(|| wrong("names no fail point"))?;
    let (rest, times) = match rest.split_once('x') {
        Some((rest, times)) => (rest, number(times).ok_or_else(|| wrong("has a wrong count"))?),
        None => (rest, 1),
    };
    let (action, from) = match rest.split_once('@') {
        Some((action, hit)) => (action, number(hit).ok_or_else(|| wrong("has a wrong hit"))?),
        None => (rest, 1),
    };
    let action = match action.trim() {
        "abort" => Action::Abort,
        "error" => Action::Error,
        "panic" => Action::Panic,
        "hang" => Action::Hang,
        "stop" => Action::Stop,
        _ => return Err(wrong("has an unknown action")),
    };
    Ok(Rule { name, action, from, times, hits: AtomicU64::new(0) })
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|number| *number > 0)
}

fn invalid(message: String) -> Error {
    Error::invalid("TM911", message)
}
