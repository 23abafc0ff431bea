//! Runs benchmarks: fills topics, plays rounds, judges answers, prints tables.
//!
//! A benchmark is a [`Case`]. Every round runs each of its programs once, in turn, in a process of
//! its own. The first round warms the page cache and is not counted; a round in which other guests
//! took more than 5 % of the machine is run again. A wrong answer ends the benchmark.
//!
//! Environment: `TIDEMILL_BENCH_ROUNDS` (7), `TIDEMILL_BENCH_BROKERS` (not set: the embedded
//! broker); how much work there is says each case.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Result, bail};

use crate::report::{Layout, Round, ratio, table, verdict};
use crate::role::{self, BrokerChild};
use crate::{Digest, Measured, broker, measure};

/// Share of the machine that others may take in a round.
const STEAL_MAX_PERCENT: u64 = 5;
/// Rounds thrown away for that at most.
const REJECTED_MAX: u64 = 7;

/// The answer each program must give. A program without one has nothing to say.
pub type Answers = BTreeMap<&'static str, Digest>;

/// What the CPU time of a program may be at most, as a multiple of another's.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The program.
    pub program: &'static str,
    /// What it is compared with.
    pub baseline: &'static str,
    /// The multiple.
    pub most: f64,
}

/// A benchmark.
pub trait Case: Sync {
    /// Its name on the command line; digits behind a letter are its parts (`f1` of `f`).
    fn name(&self) -> &'static str;
    /// What it is about, in one line.
    fn title(&self) -> &'static str;
    /// Its programs in the order of a round. Names are unique over all cases of an executable.
    fn programs(&self) -> &'static [&'static str];
    /// Programs the table divides by.
    fn baselines(&self) -> &'static [&'static str];
    /// What it must show.
    fn targets(&self) -> &'static [Target] {
        &[]
    }
    /// What is counted.
    fn unit(&self) -> &'static str {
        "order"
    }
    /// How many of it.
    ///
    /// # Errors
    /// If the environment says something that is no number.
    fn count(&self) -> Result<u64> {
        role::number("TIDEMILL_BENCH_EVENTS", 2_000_000)
    }
    /// It reads from a log.
    fn has_broker(&self) -> bool {
        true
    }
    /// Fills what it reads and computes the answers.
    ///
    /// # Errors
    /// If the broker fails.
    fn prepare(&self, brokers: &str, count: u64) -> Result<Answers>;
    /// Runs one program, in a process of its own.
    ///
    /// # Errors
    /// If it fails or is unknown.
    fn run(&self, program: &str, brokers: &str, count: u64) -> Result<Measured>;
    /// What is to be said below the table.
    fn verdicts(&self, rounds: &[Round], _count: u64) -> String {
        let line = |target: &Target| {
            let what = format!("{} ÷ {}", target.program, target.baseline);
            verdict(&what, ratio(rounds, target.program, target.baseline), target.most)
        };
        self.targets().iter().map(line).collect()
    }
}

/// The whole of a benchmark executable: the cases named on the command line, or all; or, in a
/// child, one program.
///
/// # Errors
/// If something fails, a name is unknown, or an answer is wrong.
pub fn main(cases: &[&dyn Case]) -> Result<()> {
    if let Some(role) = role::current() {
        return play(cases, &role);
    }
    let names: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut chosen = Vec::new();
    for name in &names {
        let known = chosen.len();
        chosen.extend(cases.iter().filter(|case| is_named(case.name(), name)));
        if chosen.len() == known {
            let all: Vec<&str> = cases.iter().map(|case| case.name()).collect();
            bail!("no benchmark '{name}'; there are {}", all.join(", "));
        }
    }
    let chosen = if names.is_empty() { cases.iter().collect() } else { chosen };
    let needed = chosen.iter().any(|case| case.has_broker());
    let (child, brokers) = match role::brokers() {
        Some(brokers) => (None, brokers),
        None if needed => {
            let child = BrokerChild::start()?;
            let address = child.address().to_string();
            (Some(child), address)
        }
        None => (None, String::new()),
    };
    let kind = if child.is_some() { "embedded broker" } else { "brokers from outside" };
    for case in chosen {
        drive(*case, &brokers, if case.has_broker() { kind } else { "no broker" })?;
    }
    drop(child);
    Ok(())
}

fn is_named(own: &str, wanted: &str) -> bool {
    own.strip_prefix(wanted).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// One program in this process; prints its measurement as the last line.
fn play(cases: &[&dyn Case], role: &str) -> Result<()> {
    if role == "broker" {
        return broker::run();
    }
    let Some(case) = cases.iter().find(|case| case.programs().contains(&role)) else {
        bail!("unknown role {role}");
    };
    let brokers = role::brokers().unwrap_or_default();
    if case.has_broker() && brokers.is_empty() {
        bail!("{role}: no brokers");
    }
    let measured = case.run(role, &brokers, case.count()?)?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}

fn drive(case: &dyn Case, brokers: &str, broker: &str) -> Result<()> {
    let rounds_wanted = role::number("TIDEMILL_BENCH_ROUNDS", 7)?;
    let (count, unit) = (case.count()?, case.unit());
    let mut out = std::io::stdout();
    writeln!(out, "benchmark {}: {}", case.name(), case.title())?;
    writeln!(out, "{count} {unit}s, {broker}, {}", measure::machine()?)?;
    let answers = case.prepare(brokers, count)?;
    for (program, answer) in &answers {
        writeln!(out, "answer of {program}: {answer:?}")?;
    }
    let mut rounds = Vec::new();
    let mut rejected = 0;
    if rounds_wanted > 0 {
        round(case, brokers, &answers)?;
    }
    while (rounds.len() as u64) < rounds_wanted {
        let (steal_before, all_before) = measure::steal_ticks()?;
        let done = round(case, brokers, &answers)?;
        let (steal, all) = measure::steal_ticks()?;
        let percent = (steal - steal_before) * 100 / (all - all_before).max(1);
        let kept = percent <= STEAL_MAX_PERCENT || rejected >= REJECTED_MAX;
        let verdict = if kept { "" } else { " rejected" };
        writeln!(out, "round {}: steal {percent} %{verdict} {}", rounds.len() + 1, line(&done))?;
        if kept {
            rounds.push(done);
        } else {
            rejected += 1;
        }
    }
    let (programs, baselines) = (case.programs(), case.baselines());
    writeln!(out, "\n{}", table(&rounds, &Layout { programs, unit, count, baselines }))?;
    writeln!(out, "{}", case.verdicts(&rounds, count))?;
    Ok(())
}

/// Every program once.
fn round(case: &dyn Case, brokers: &str, answers: &Answers) -> Result<Round> {
    let mut round = Round::new();
    for program in case.programs() {
        let measured = role::run(program, brokers)?;
        let answer = answers.get(program).copied();
        if measured.digest != answer {
            bail!("{program} gives a wrong answer: {:?} instead of {answer:?}", measured.digest);
        }
        round.insert(program, measured);
    }
    Ok(round)
}

fn line(round: &Round) -> String {
    let shown = |(program, run): (&&str, &Measured)| {
        let mut text = format!("{program} cpu {} ms", run.cpu_ns / 1_000_000);
        text += &format!(" wall {} ms", run.wall_ns / 1_000_000);
        if run.held_bytes > 0 {
            text += &format!(" held {} KiB", run.held_bytes / 1024);
        }
        if run.setup_cpu_ns > 0 {
            text += &format!(" setup {} ms", run.setup_cpu_ns / 1_000_000);
        }
        text
    };
    round.iter().map(shown).collect::<Vec<_>>().join(", ")
}
