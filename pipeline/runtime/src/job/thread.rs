//! The life of a job's thread: incarnations one after the other, what ends it, and what it answers
//! when it can do nothing else.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tidemill_contract::{Error, ErrorKind, Result};

use super::{
    Control, JobConfig, JobEnvironment,
    control::Change,
    run::{End, Run},
};
use crate::feed::back_off;

/// Tries in a row without a commit before a job gives up.
const ATTEMPTS_MAX: u32 = 10;

/// Runs a job until it is told to stop. Never panics.
pub(super) fn run(environment: &JobEnvironment, config: JobConfig, inbox: &Receiver<Control>) {
    let mut config = config;
    let mut attempt = 0;
    loop {
        let epoch_before = epoch(environment, &config.name);
        let changes = RefCell::default();
        let ended = live(environment, &config, &changes, inbox);
        environment.memory.forget_state(&config.name);
        for change in changes.take() {
            change.apply(&mut config);
        }
        let error = match ended {
            Ok(End::Stopped) => return tell(environment, &config.name, "stopped", None),
            Ok(End::Reopen) => continue,
            Err(error) => error,
        };
        let progressed = epoch(environment, &config.name) > epoch_before;
        attempt = if progressed { 1 } else { attempt + 1 };
        if error.kind == ErrorKind::Unavailable && attempt <= ATTEMPTS_MAX {
            tracing::warn!(job = %config.name, %error, attempt, "job tries again");
            tell(environment, &config.name, "degraded", Some(&error));
            if wait_or_stop(&mut config, inbox, back_off(attempt), &error) {
                return tell(environment, &config.name, "stopped", None);
            }
            continue;
        }
        let state = if error.kind == ErrorKind::Fenced { "fenced" } else { "failed" };
        tracing::error!(job = %config.name, %error, state, "job ends");
        environment.board.fail_job(&config.name, state, &error);
        return answer_until_stopped(inbox, &error);
    }
}

/// One incarnation; a panic in it is an error of this job.
fn live(
    environment: &JobEnvironment,
    config: &JobConfig,
    changes: &RefCell<Vec<Change>>,
    inbox: &Receiver<Control>,
) -> Result<End> {
    let work = || Run::open(environment, config, changes)?.work(inbox);
    // Everything an incarnation changed in memory is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(Error::internal(format!("job '{}' panicked: {text}", config.name)))
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
    });
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
            Change::Mute(query).apply(config);
            let _gone = reply.send(Err(error.clone())).is_err();
        }
        Control::Pause => Change::SetPaused(true).apply(config),
        Control::Resume => Change::SetPaused(false).apply(config),
        Control::Stop => {}
    }
}

/// A job that has failed answers every question with its failure.
fn answer_until_stopped(inbox: &Receiver<Control>, error: &Error) {
    while let Ok(message) = inbox.recv() {
        match message {
            Control::Stop => return,
            Control::View { reply, .. } => {
                let _gone = reply.send(Err(error.clone())).is_err();
            }
            Control::Stall { reply, .. } => {
                let _gone = reply.send(Err(error.clone())).is_err();
            }
            Control::Mute { reply, .. } => {
                let _gone = reply.send(Err(error.clone())).is_err();
            }
            _ => {}
        }
    }
}
