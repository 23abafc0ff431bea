//! F2: the program dies at every named step, and again while it recovers, and what comes out at
//! the end is what comes out of a run that nothing disturbed.
//!
//! Each fail point has one story: it dies there at the first hit, then at a later hit, then once
//! more at the same step or at the end of the recovery, then it runs to the end. A second story
//! lets the step fail with an error: the program goes on by itself. A third one lets it panic:
//! the program goes on, or ends and says why, and the next run is right. A step that is not hit is
//! a failed test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tempfile::TempDir;
use tidemill_connectors::failpoint;

use super::crash::{Ended, Results, Rig};
use super::is_long;
use crate::cli::{finish, tidemill};

/// Signal of `abort`.
const SIGABRT: i32 = 6;
/// Input files: the late ones come two whole batches of the job behind.
const UNITS: usize = 24;
/// Files of a table that are put together: more than any run makes, and fewer than any makes.
const COMPACT_NEVER: usize = 10_000;
const COMPACT_SOON: usize = 3;
/// Processes at once: they wait for disks and timers half of their time.
const PARALLEL: usize = 3;
/// A fault in the protocol fails nearly every story; so many are enough to see it.
const FAILURES_MAX: usize = 5;
/// Steps a recovering process comes by.
const IN_RECOVERY: &[&str] = &[
    "recover.opened",
    "recover.state_read",
    "recover.before_take_over",
    "recover.taken_over",
    "recover.rolled_forward",
    "recover.positioned",
    "recover.restored",
    "publish.before_tables",
    "publish.before_topics",
    "publish.appended",
    "publish.before_file",
    "publish.file_opened",
];

/// Which hit of a step counts as a later one.
enum Later {
    /// The n-th of a process.
    Hit(u32),
    /// A process passes once; an error makes it pass again.
    AfterError,
    /// Only another process passes again.
    Never,
}

fn later(point: &str) -> Later {
    match point {
        "feed.opened" => Later::AfterError,
        _ if point.starts_with("recover.") => Later::AfterError,
        _ if point.starts_with("clean.") => Later::Never,
        "upload.before_link" | "upload.after_link" => Later::Hit(30),
        _ if point.starts_with("feed.") => Later::Hit(6),
        _ => Later::Hit(3),
    }
}

/// What must have happened before a step can be reached at all.
fn before(point: &str) -> Option<&'static str> {
    match point {
        "recover.state_read"
        | "recover.before_take_over"
        | "recover.taken_over"
        | "recover.rolled_forward" => Some("publish.appended=abort@2"),
        "clean.before_objects" => Some("commit.after_create=abort@4"),
        _ => None,
    }
}

struct Bench {
    rig: Rig,
    calm: Results,
}

impl Bench {
    fn new(compact_files: usize) -> Self {
        let rig = Rig::new(UNITS, compact_files);
        let calm = {
            let place = rig.place();
            let ended = place.live("");
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            place.results(&ended)
        };
        calm.assert_rich(UNITS);
        Self { rig, calm }
    }

    /// Lives that end at a step, then one that goes to the end.
    fn dies(&self, lives: &[String], last: &str) {
        let place = self.rig.place();
        for rules in lives {
            let ended = place.live(rules);
            assert_died(rules, &ended);
        }
        let ended = place.live(last);
        assert_eq!(ended.code, Some(0), "after {lives:?}: {}", ended.stderr);
        self.assert_same(&place.results(&ended), &format!("{lives:?}"));
    }

    /// After an error or a panic: a query may have left its job, with its counters.
    fn assert_same_rows(&self, results: Results, story: &str) {
        self.assert_same(&results.with_counters_of(&self.calm), story);
    }

    fn assert_same(&self, results: &Results, story: &str) {
        if let Some(difference) = self.calm.difference(results) {
            panic!("{story}:\n{difference}");
        }
    }
}

/// The process died of the abort, at a step the rules name.
fn assert_died(rules: &str, ended: &Ended) {
    let Ended { code, signal, stderr, .. } = ended;
    assert_eq!(*signal, Some(SIGABRT), "'{rules}' was not hit: exit {code:?}: {stderr}");
    let last = stderr.lines().rfind(|line| line.contains("a fail point acts")).unwrap_or_default();
    let named = rules.split(';').filter_map(|rule| rule.split_once("=abort"));
    assert!(named.into_iter().any(|(point, _)| last.contains(point)), "'{rules}' died at: {last}");
}

/// Runs a story for each item on a few threads; the failures come out together.
fn each<T: Sync>(items: &[T], story: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failures.lock().unwrap().len() >= FAILURES_MAX {
                        return;
                    }
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story(item))) {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n----\n"));
}

fn is_compaction(point: &str) -> bool {
    point.ends_with("_compaction")
}

/// Steps of a job that queries leave: `isolation` dies at each of them.
fn is_parting(point: &str) -> bool {
    point.ends_with("_split") || point.ends_with("_part")
}

/// The lives of a step's first story.
fn deaths(point: &str) -> Vec<String> {
    let mut lives: Vec<String> = before(point).into_iter().map(str::to_owned).collect();
    lives.push(format!("{point}=abort"));
    match later(point) {
        Later::Hit(hit) => lives.push(format!("{point}=abort@{hit}")),
        Later::AfterError => lives.push(format!("{point}=error;{point}=abort@2")),
        Later::Never => {}
    }
    // Twice in a row: what is not reached again while recovering dies at the end of it.
    lives.push(format!("{point}=abort;recover.restored=abort"));
    lives
}

#[test]
fn a_crash_at_every_step_changes_nothing() {
    let started = Instant::now();
    let bench = Bench::new(COMPACT_NEVER);
    each(&usual_points(), |point| bench.dies(&deaths(point), ""));
    let many = Bench::new(COMPACT_SOON);
    let points: Vec<&str> =
        failpoint::ALL.iter().copied().filter(|point| is_compaction(point)).collect();
    each(&points, |point| many.dies(&deaths(point), ""));
    let all = failpoint::ALL.iter().filter(|point| !is_parting(point));
    let stories: Vec<_> = all.map(|point| deaths(point)).collect();
    let crashes: usize = stories.iter().map(Vec::len).sum();
    let (steps, time) = (stories.len(), started.elapsed().as_secs());
    println!("F2 abort: {steps} of {steps} steps, {crashes} crashes, 0 differences, {time} s");
}

/// All points but those that need a table of many files.
fn usual_points() -> Vec<&'static str> {
    let is_usual = |point: &&str| !is_compaction(point) && !is_parting(point);
    failpoint::ALL.iter().copied().filter(is_usual).collect()
}

/// Several errors in one run, each at its own step, or one a run in the long form.
#[test]
fn an_error_at_every_step_is_overcome_alone() {
    let bench = Bench::new(COMPACT_NEVER);
    // A process cleans up once; an error ends that.
    let (clean, others): (Vec<_>, Vec<_>) =
        usual_points().into_iter().partition(|point| point.starts_with("clean."));
    let several = others.chunks(if is_long() { 1 } else { 6 });
    let groups: Vec<&[&str]> = several.chain(clean.chunks(1)).collect();
    each(&groups, |points| {
        let place = bench.rig.place();
        for rules in points.iter().filter_map(|point| before(point)).take(1) {
            assert_died(rules, &place.live(rules));
        }
        let rules: Vec<String> = points
            .iter()
            .map(|point| match later(point) {
                Later::Hit(hit) => format!("{point}=error;{point}=error@{hit}"),
                Later::AfterError => format!("{point}=errorx2"),
                Later::Never => format!("{point}=error"),
            })
            .collect();
        let rules = rules.join(";");
        let ended = place.live(&rules);
        assert_eq!(ended.code, Some(0), "'{rules}': {}", ended.stderr);
        let expected = rules.matches("error").count() + rules.matches("x2").count();
        let hits = ended.stderr.matches("a fail point acts").count();
        assert_eq!(hits, expected, "'{rules}': {}", ended.stderr);
        bench.assert_same_rows(place.results(&ended), &rules);
    });
}

/// The job goes on in the same folder until it is done; each next run panics at another step.
#[test]
fn a_panic_at_every_step_is_overcome_or_named() {
    let bench = Bench::new(COMPACT_NEVER);
    let points = usual_points();
    let groups: Vec<&[&str]> = points.chunks(if is_long() { 1 } else { 4 }).collect();
    each(&groups, |points| {
        let mut place = bench.rig.place();
        let mut story = Vec::new();
        for point in *points {
            if let Some(rules) = before(point) {
                place = bench.rig.place();
                assert_died(rules, &place.live(rules));
            }
            let rules = format!("{point}=panic");
            let ended = place.live(&rules);
            assert!(ended.stderr.contains("panicked as told"), "'{rules}' was not hit: {ended:?}");
            story.push(rules);
            if ended.code == Some(0) {
                bench.assert_same_rows(place.results(&ended), &story.join(", "));
                place = bench.rig.place();
                story.clear();
                continue;
            }
            let said = ended.stderr.lines().any(|line| line.contains("TM"));
            assert!(ended.code.is_some() && said, "{story:?} ends without a reason: {ended:?}");
        }
        let ended = place.live("");
        assert_eq!(ended.code, Some(0), "after {story:?}: {}", ended.stderr);
        bench.assert_same_rows(place.results(&ended), &story.join(", "));
    });
}

/// Any step, then any step of the recovery; all pairs in the long form, a few in the short one.
#[test]
fn a_crash_in_the_recovery_from_a_crash_changes_nothing() {
    let started = Instant::now();
    let bench = Bench::new(COMPACT_NEVER);
    let stride = if is_long() { 1 } else { 61 };
    let firsts = usual_points();
    let pairs: Vec<Vec<String>> = firsts
        .iter()
        .flat_map(|first| IN_RECOVERY.iter().map(move |second| (first, second)))
        .step_by(stride)
        .map(|(first, second)| {
            let mut lives: Vec<String> = before(first).into_iter().map(str::to_owned).collect();
            lives.push(format!("{first}=abort"));
            lives.push(format!("{second}=abort;recover.restored=abort"));
            lives
        })
        .collect();
    each(&pairs, |lives| bench.dies(lives, ""));
    let (count, time) = (pairs.len(), started.elapsed().as_secs());
    println!("F2 pairs: {count} pairs of a step and a step of its recovery, {time} s");
}

#[test]
fn wrong_rules_are_refused_before_anything_runs() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("a.sql"), "SHOW VIEWS;").unwrap();
    for rule in [
        "commit.before_create",
        "commit.nowhere=abort",
        "commit.before_create=explode",
        "commit.before_create=abort@0",
        "commit.before_create=abort@2xlots",
    ] {
        let mut command = tidemill(folder.path(), &["run", "a.sql", "--data-dir", "data"]);
        command.env("TIDEMILL_FAILPOINTS", rule);
        let ended = finish(command);
        assert_eq!(ended.code, Some(78), "{rule}: {}", ended.stderr);
        assert!(ended.stderr.contains("TM911") && ended.stderr.contains(rule), "{}", ended.stderr);
    }
}
