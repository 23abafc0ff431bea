//! The life of a job's thread: incarnations one after the other, what is done when one fails, and
//! what the job answers while it can do nothing else.
//!
//! | what failed | what is done |
//! |---|---|
//! | some of its queries, or the places they deliver to | they leave for a job of their own (`isolate`), the others go on |
//! | a broker, the bucket: does not answer | tried again for ever, `degraded` |
//! | everything else | tried again [`TRIES_MAX`] times without a commit, then `parked` |
//! | the state of a query does not fit into memory | `parked` at once: it would grow as large again |
//! | the topic lost data, was cut or made anew | it waits in `data loss` until somebody chooses (`RECOVER SOURCE`) |
//! | the log or the bucket is damaged | `parked` at once: only a person can help |
//! | another process has the job | it ends, `fenced` |
//!
//! A parked job reads nothing and loses nothing: its last commit stands, and `RESUME` lets it try
//! again from there, as does a restart of the process.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tidemill_connectors::log::kafka::is_loss;
use tidemill_contract::{Error, ErrorKind, Result, panic_text};

use super::{
    Control, JobConfig, JobEnvironment,
    blame::Legacy,
    control::{Change, Recovery},
    isolate::isolate,
    loss::{self, Finding},
    memory::TOO_MUCH_STATE,
    open::Opened,
    run::{End, Run},
};
use crate::{patience, recover::Claimant, status::DATA_LOSS};

/// Tries in a row without a commit before a job is parked.
const TRIES_MAX: u32 = 5;
/// Longest wait between two tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Runs a job until it is told to stop. Never panics. What does not answer is waited for, however
/// long it takes.
pub(super) fn run(environment: &JobEnvironment, config: JobConfig, inbox: &Receiver<Control>) {
    let mut config = config;
    let mut tries = 0;
    let mut recovery = None;
    let claimant = Claimant::new(environment.writer.clone());
    loop {
        let epoch_before = epoch(environment, &config.name);
        let legacy = Legacy::default();
        let work = || match Run::open(environment, &config, &legacy, &claimant, &mut recovery)? {
            Opened::Run(mut run) => run.work(inbox),
            Opened::Lost(findings) => Ok(End::Lost(findings)),
        };
        let ended = guarded(&config.name, work);
        environment.memory.forget_state(&config.name);
        for change in legacy.changes.take() {
            change.apply(&mut config);
        }
        let error = match ended {
            Ok(End::Stopped) => return tell(environment, &config.name, "stopped", None),
            Ok(End::Reopen) => continue,
            Ok(End::Lost(findings)) => {
                recovery = wait_for_choice(environment, &mut config, inbox, &findings, recovery);
                if recovery.is_none() {
                    return tell(environment, &config.name, "stopped", None);
                }
                tries = 0;
                continue;
            }
            Err(error) => error,
        };
        if let Some(recovery) = recovery.take() {
            recovery.answer(Err(error.clone()));
        }
        // Taking the job up again is an epoch of its own, and no progress.
        let opened = epoch_before + u64::from(epoch_before > 0);
        let progressed = epoch(environment, &config.name) > opened;
        tries = if progressed { 1 } else { tries + 1 };
        let name = config.name.clone();
        let why = (&error, tries);
        let isolated =
            guarded(&name, || isolate(environment, &mut config, &legacy, &claimant, why));
        let error = match isolated {
            Ok(true) => {
                tries = 0;
                continue;
            }
            Ok(false) => error,
            Err(error) => error,
        };
        let is_stopped = match verdict(&error, tries) {
            Verdict::End => {
                tracing::error!(job = %config.name, %error, "job ends: another process has it");
                environment.board.fence_job(&config.name, &error);
                return answer_until_stopped(&mut config, inbox, &error);
            }
            Verdict::TryAgain => {
                tracing::warn!(job = %config.name, %error, tries, "job tries again");
                tell(environment, &config.name, "degraded", Some(&error));
                let wait = wait_before(environment, &error, tries);
                wait_or_stop(&mut config, inbox, wait, &error)
            }
            Verdict::Park => {
                let is_stopped = park(environment, &mut config, inbox, &error, tries);
                tries = 0;
                is_stopped
            }
        };
        if is_stopped {
            return tell(environment, &config.name, "stopped", None);
        }
    }
}

enum Verdict {
    TryAgain,
    Park,
    End,
}

fn verdict(error: &Error, tries: u32) -> Verdict {
    match error.kind {
        ErrorKind::Fenced => Verdict::End,
        ErrorKind::Unavailable => Verdict::TryAgain,
        // The next incarnation compares the log with the last commit, and says what is lost.
        _ if is_loss(error) && tries <= TRIES_MAX => Verdict::TryAgain,
        ErrorKind::Corrupt => Verdict::Park,
        _ if error.code == TOO_MUCH_STATE => Verdict::Park,
        _ if tries < TRIES_MAX => Verdict::TryAgain,
        _ => Verdict::Park,
    }
}

/// How long to wait before the next try.
fn wait_before(environment: &JobEnvironment, error: &Error, tries: u32) -> Duration {
    match error.kind {
        _ if is_loss(error) => patience::back_off(tries).saturating_sub(patience::back_off(1)),
        // What is back must be noticed within seconds.
        ErrorKind::Unavailable => patience::back_off(tries),
        _ => back_off(environment.retry_interval, tries),
    }
}

/// A panic is an error of this job.
fn guarded<T>(job: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // Everything an incarnation changed in memory is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        Err(Error::internal(format!("job '{job}' panicked: {text}")))
    })
}

fn epoch(environment: &JobEnvironment, name: &str) -> u64 {
    let status = environment.board.status();
    status.jobs.iter().find(|job| job.name == name).map_or(0, |job| job.epoch)
}

fn tell(environment: &JobEnvironment, name: &str, state: &str, error: Option<&Error>) {
    environment.board.update_job(name, |status| {
        state.clone_into(&mut status.state);
        status.error = error.map(ToString::to_string);
        status.parked = None;
    });
}

/// `first`, twice that, four times, … up to [`BACK_OFF_MAX`].
fn back_off(first: Duration, tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(BACK_OFF_MAX)
}

/// Waits until it is told to go on: false, or to stop: true.
fn park(
    environment: &JobEnvironment,
    config: &mut JobConfig,
    inbox: &Receiver<Control>,
    error: &Error,
    tries: u32,
) -> bool {
    let parked = environment.board.park_job(&config.name, error, tries);
    tracing::error!(job = %config.name, error = %parked, tries, "job is parked");
    loop {
        match inbox.recv() {
            Err(_) | Ok(Control::Stop) => return true,
            Ok(Control::Resume) => {
                defer(config, Control::Resume, &parked);
                environment.board.resume_job(&config.name);
                return false;
            }
            Ok(message) => defer(config, message, &parked),
        }
    }
}

/// Waits for an operator, who may have chosen in vain; `None` if told to stop. The job reads no
/// further; its last commit stands.
fn wait_for_choice(
    environment: &JobEnvironment,
    config: &mut JobConfig,
    inbox: &Receiver<Control>,
    findings: &[Finding],
    in_vain: Option<Recovery>,
) -> Option<Recovery> {
    let error = loss::error(&config.source.name, config.source.topic(), findings);
    tracing::error!(job = %config.name, %error, "job waits: log data is lost");
    environment.board.lose_job(&config.name, DATA_LOSS, &error, |losses| {
        losses.retain(|loss| loss.accepted_at.is_some());
        losses.extend(findings.iter().map(|finding| finding.loss.clone()));
    });
    if let Some(recovery) = in_vain {
        recovery.answer(Err(error.clone()));
    }
    loop {
        match inbox.recv() {
            Ok(Control::Recover(recovery)) => {
                environment.board.resume_job(&config.name);
                return Some(recovery);
            }
            Ok(Control::Stop) | Err(_) => return None,
            Ok(message) => defer(config, message, &error),
        }
    }
}

/// Waits for the next try; true if told to stop.
fn wait_or_stop(
    config: &mut JobConfig,
    inbox: &Receiver<Control>,
    wait: Duration,
    error: &Error,
) -> bool {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match inbox.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => return false,
            Ok(Control::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
            Ok(message) => defer(config, message, error),
        }
    }
}

/// A message to a job that is between two incarnations: what it changes holds for the next.
fn defer(config: &mut JobConfig, message: Control, error: &Error) {
    match message {
        Control::View { reply, .. } => {
            // Whoever asked may have given up.
            let _gone = reply.send(Err(error.clone())).is_err();
        }
        Control::Stall { reply, .. } => {
            let _gone = reply.send(Err(error.clone())).is_err();
        }
        Control::AddAlert(alert) => Change::AddAlert(alert).apply(config),
        Control::RemoveAlert(name) => Change::RemoveAlert(name).apply(config),
        Control::Mute { query, reply } => {
            // The last commit may name it; what it could not deliver goes nowhere any more.
            Change::Mute(query).apply(config);
            let _gone = reply.send(Ok(())).is_err();
        }
        Control::Recover(recovery) => recovery.refuse(&config.name),
        Control::Pause => Change::SetPaused(true).apply(config),
        Control::Resume => Change::SetPaused(false).apply(config),
        Control::Stop => {}
    }
}

/// A job that has ended answers every question with its end.
fn answer_until_stopped(config: &mut JobConfig, inbox: &Receiver<Control>, error: &Error) {
    while let Ok(message) = inbox.recv() {
        match message {
            Control::Stop => return,
            message => defer(config, message, error),
        }
    }
}
