//! Alerts on a view with `LATE REVISE`: what was judged is kept for as long as it may change, and
//! judged again when late rows change a window.
//!
//! Per key the windows that met the condition are kept, and the streak as it was before the first
//! of them. The life of a key up to now is a fold over these; folding before and after a revision
//! and comparing gives what has to be taken back and what was missed, in later windows too.
//!
//! **Invariants.** The fold over what is kept is what was said, corrections applied. A window
//! beyond its time is part of the streak before the first one kept, for good.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemill_contract::{AlertEvent, AlertStatus, Error, Micros, Result, Watermark, WindowBounds};

use super::event::Revision;
use super::{AlertProgram, Matches, Streak, rows};
use crate::window::WindowSpec;

/// What may still change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// How long after its end a window may change.
    horizon: Micros,
    /// Windows that ended by then were before the alert.
    begun: Watermark,
    /// Windows that ended by then are judged.
    judged: Watermark,
    /// Revisions seen.
    revisions: u64,
    keys: BTreeMap<String, Life>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Life {
    key: Map<String, Value>,
    /// The streak before the first window kept.
    base: Option<Streak>,
    /// Windows that met the condition, ascending by end.
    met: Vec<Met>,
}

/// A window that met the condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Met {
    window: WindowBounds,
    row: Map<String, Value>,
    count: u64,
}

/// An event, as far as it matters whether it is the same.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) status: AlertStatus,
    pub(super) window: WindowBounds,
    pub(super) since: WindowBounds,
    pub(super) row: Option<Map<String, Value>>,
    pub(super) count: u64,
}

impl Told {
    fn is(&self, other: &Self) -> bool {
        self.status == other.status && self.window == other.window
    }
}

impl Life {
    /// Goes through the windows kept: what there was to say, and the streak that is left.
    fn fold(
        &self,
        judged: Watermark,
        grid: &WindowSpec,
        for_windows: u32,
    ) -> (Vec<Told>, Option<Streak>) {
        let mut told = Vec::new();
        let mut streak = self.base.clone();
        for met in &self.met {
            streak = ended(streak, |missed| missed.end < met.window.end, grid, &mut told);
            let current = streak.get_or_insert_with(|| Streak::begin(self.key.clone(), met.window));
            if let Some(status) = current.meet(met.window, for_windows) {
                let (row, since) = (Some(met.row.clone()), current.since);
                told.push(Told { status, window: met.window, since, row, count: met.count });
            }
        }
        let streak = ended(streak, |missed| missed.end <= judged.0, grid, &mut told);
        (told, streak)
    }

    /// Takes windows beyond their time into the base.
    fn settle(&mut self, until: Micros, grid: &WindowSpec, for_windows: u32) {
        let kept = self.met.partition_point(|met| met.window.end <= until);
        let settled = Self {
            key: self.key.clone(),
            base: self.base.take(),
            met: self.met.drain(..kept).collect(),
        };
        // The window after a streak may still change while it is within its time.
        self.base = settled.fold(Watermark(until), grid, for_windows).1;
    }

    fn replace(&mut self, window: WindowBounds, matches: Option<Matches>) {
        self.met.retain(|met| met.window != window);
        if let Some(Matches { row, count, .. }) = matches {
            let place = self.met.partition_point(|met| met.window.end < window.end);
            self.met.insert(place, Met { window, row, count });
        }
    }

    fn is_over(&self) -> bool {
        self.base.is_none() && self.met.is_empty()
    }
}

/// Ends a streak whose next window is `missed`.
fn ended(
    streak: Option<Streak>,
    missed: impl Fn(WindowBounds) -> bool,
    grid: &WindowSpec,
    told: &mut Vec<Told>,
) -> Option<Streak> {
    let streak = streak?;
    let next = grid.next(streak.last);
    if !missed(next) {
        return Some(streak);
    }
    if streak.firing {
        let (status, since) = (AlertStatus::Resolved, streak.since);
        told.push(Told { status, window: next, since, row: None, count: 0 });
    }
    None
}

impl History {
    pub(super) fn new(horizon: Micros, begun: Watermark) -> Self {
        Self { horizon, begun, judged: begun, revisions: 0, keys: BTreeMap::new() }
    }

    /// Takes over what a snapshot held; the horizon is the view's.
    pub(super) fn restore(&mut self, saved: Self) {
        *self = Self { horizon: self.horizon, ..saved };
    }

    /// Keeps what was found in a window that has just closed.
    pub(super) fn note(&mut self, window: WindowBounds, matches: &BTreeMap<String, Matches>) {
        for (id, found) in matches {
            let life = self.life(id, &found.key);
            let Matches { row, count, .. } = found;
            life.met.push(Met { window, row: row.clone(), count: *count });
        }
    }

    /// Forgets what cannot change any more.
    pub(super) fn advance(&mut self, watermark: Watermark, grid: &WindowSpec, for_windows: u32) {
        self.judged = self.judged.max(watermark);
        let until = watermark.0.saturating_sub(self.horizon);
        self.keys.retain(|_, life| {
            life.settle(until, grid, for_windows);
            !life.is_over()
        });
    }

    /// Keys and windows of keys kept.
    pub(super) fn kept(&self) -> usize {
        self.keys.values().map(|life| 1 + life.met.len()).sum()
    }

    fn life(&mut self, id: &str, key: &Map<String, Value>) -> &mut Life {
        self.keys.entry(id.to_owned()).or_insert_with(|| Life {
            key: key.clone(),
            base: None,
            met: Vec::new(),
        })
    }
}

impl AlertProgram {
    /// Judges the rows of a closed window anew and corrects what was said.
    pub(super) fn judge_again(
        &mut self,
        batch: &RecordBatch,
        window: WindowBounds,
    ) -> Result<Vec<AlertEvent>> {
        let met = self.condition.evaluate(batch)?;
        let mut matches = self.matches(&rows::keep(batch, &met)?)?;
        let (Some(history), Some(grid)) = (&mut self.history, &self.next_window) else {
            return Err(Error::internal("an alert was given a revision of a final view"));
        };
        if window.end <= history.begun.0 {
            return Ok(Vec::new());
        }
        history.revisions += 1;
        let revision = Revision { number: history.revisions, window };
        let mut ids: BTreeSet<String> = matches.keys().cloned().collect();
        let known = history.keys.iter();
        let known = known.filter(|(_, life)| life.met.iter().any(|met| met.window == window));
        ids.extend(known.map(|(id, _)| id.clone()));
        let mut events = Vec::new();
        for id in ids {
            let found = matches.remove(&id);
            let key = found.as_ref().map(|found| found.key.clone()).unwrap_or_default();
            let judged = history.judged;
            let life = history.life(&id, &key);
            let (before, _) = life.fold(judged, grid, self.for_windows);
            life.replace(window, found);
            let (after, streak) = life.fold(judged, grid, self.for_windows);
            let differences = differences(&before, &after);
            events.extend(differences.into_iter().filter_map(|(before, after)| {
                self.context.revision(&id, &life.key, before, after, &revision)
            }));
            match streak {
                Some(streak) => self.streaks.insert(id.clone(), streak),
                None => self.streaks.remove(&id),
            };
            if life.is_over() {
                history.keys.remove(&id);
            }
        }
        Ok(events)
    }
}

/// What was said and is not so, with what should have been said of the same window; then what was
/// missed elsewhere. In order of windows.
fn differences<'a>(
    before: &'a [Told],
    after: &'a [Told],
) -> Vec<(Option<&'a Told>, Option<&'a Told>)> {
    let missing = |from: &'a [Told], of: &'a [Told]| -> Vec<&'a Told> {
        of.iter().filter(|told| !from.iter().any(|other| other.is(told))).collect()
    };
    let mut missed = missing(before, after);
    let mut pairs = Vec::new();
    for told in missing(after, before) {
        let same = missed.iter().position(|other| other.window == told.window);
        pairs.push((Some(told), same.map(|index| missed.remove(index))));
    }
    pairs.extend(missed.into_iter().map(|told| (None, Some(told))));
    pairs.sort_by_key(|(before, after)| before.or(*after).map(|told| told.window.end));
    pairs
}
