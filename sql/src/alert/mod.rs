//! Threshold alerts: from the final rows of a view to pending, firing and resolved events.
//!
//! A condition is judged once per closed window and key. The keys are the values of the `BY`
//! columns; without `BY` all rows of a window are one key, and the condition holds if any row
//! meets it. A key's life:
//!
//! | streak of windows | this window | event |
//! |---|---|---|
//! | none | holds | `firing` if `FOR 1`, else `pending` |
//! | shorter than `FOR` | holds | none, or `firing` at the last one |
//! | shorter than `FOR` | fails, or no row | none; the streak is forgotten |
//! | firing | holds | none |
//! | firing | fails, or no row | `resolved` |
//!
//! **Invariants.** Only event time and rows matter: no clock, no randomness, the same rows give
//! the same events with the same ids, in order of key. Windows come in order of their end;
//! [`AlertProgram::advance`] is called after all emissions up to its watermark. A streak never
//! spans a window without a row of its key. The end of a bounded source ([`Watermark::MAX`]) is no
//! absence: nothing resolves because data ended.
//!
//! A stateless view has no windows: each of its rows is judged alone and fires alone.
//!
//! Windows of a view with `LATE REVISE` are judged again when late rows change them: see
//! `history`.

mod condition;
mod event;
mod history;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemill_contract::{
    AlertEvent, AlertStatus, Emission, EmissionKind, Error, Micros, Result, Watermark, WindowBounds,
};

use crate::parse::{AlertSpec, closest};
use crate::window::WindowSpec;
use condition::Condition;
use event::{Cause, Context};
use history::History;

/// Version of the snapshot's form.
const SNAPSHOT_FORMAT: u32 = 1;

/// One registered alert and the state of its keys.
#[derive(Debug)]
pub struct AlertProgram {
    context: Context,
    condition: Condition,
    for_windows: u32,
    /// Index of each `BY` column in the view.
    by: Vec<usize>,
    next_window: Option<WindowSpec>,
    /// Keys whose condition held in their last window, by key id.
    streaks: BTreeMap<String, Streak>,
    /// What was judged of late, if the view's windows may be revised.
    history: Option<History>,
}

/// Most keys of one window for which the condition of an alert may hold.
const KEYS_MAX: usize = 20_000;
/// Bytes of one key, about.
const KEY_BYTES: usize = 1024;
/// Rows that are turned into JSON at a time: as JSON a row takes many times its memory.
const PART_ROWS: usize = 4096;

/// The rows in parts.
fn parts(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
    let rows = batch.num_rows();
    (0..rows).step_by(PART_ROWS).map(move |at| batch.slice(at, PART_ROWS.min(rows - at)))
}

/// Consecutive windows in which a key's condition held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Streak {
    key: Map<String, Value>,
    since: WindowBounds,
    last: WindowBounds,
    length: u32,
    firing: bool,
}

impl Streak {
    fn begin(key: Map<String, Value>, window: WindowBounds) -> Self {
        Self { key, since: window, last: window, length: 0, firing: false }
    }

    /// The condition holds in a window: what there is to say.
    fn meet(&mut self, window: WindowBounds, for_windows: u32) -> Option<AlertStatus> {
        self.length = self.length.saturating_add(1);
        self.last = window;
        if self.firing {
            None
        } else if self.length >= for_windows {
            self.firing = true;
            Some(AlertStatus::Firing)
        } else {
            (self.length == 1).then_some(AlertStatus::Pending)
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    format: u32,
    alert: String,
    version: u64,
    streaks: BTreeMap<String, Streak>,
    #[serde(default)]
    history: Option<History>,
}

/// The rows of one key in one window that met the condition.
struct Matches {
    key: Map<String, Value>,
    row: Map<String, Value>,
    /// Text of `row`: the least of all matching rows, so that their order does not matter.
    text: String,
    count: u64,
}

impl AlertProgram {
    /// Compiles an alert over the rows of its view. `version` is that of the registered statement;
    /// `next_window` is the view's window, `None` for a stateless view.
    ///
    /// # Errors
    /// `TM124` if the condition cannot be computed from a row, `TM125` for an unknown `BY` column,
    /// `TM126` for `FOR` on a view without windows.
    pub fn new(
        spec: &AlertSpec,
        view_schema: &SchemaRef,
        version: u64,
        next_window: Option<WindowSpec>,
    ) -> Result<Self> {
        let condition = Condition::compile(spec, view_schema)?;
        let by = by_columns(spec, view_schema)?;
        if next_window.is_none() && spec.for_windows != 1 {
            let message = format!("alert '{}' cannot wait for several windows", spec.name);
            return Err(Error::invalid("TM126", message)
                .at(spec.span)
                .because(format!("view '{}' has no windows: each row is judged alone", spec.view))
                .help("remove FOR, or watch a view that aggregates per window"));
        }
        Ok(Self {
            context: Context::new(spec, version),
            condition,
            for_windows: spec.for_windows.max(1),
            by,
            next_window,
            streaks: BTreeMap::new(),
            history: None,
        })
    }

    /// The view's windows may be revised for `horizon` after their end. Windows that ended at or
    /// before `begun` were never judged and are not judged now.
    #[must_use]
    pub fn revisable(mut self, horizon: Micros, begun: Watermark) -> Self {
        self.history = Some(History::new(horizon, begun));
        self
    }

    /// Judges the final rows of one window, or a batch of a stateless view; judges the rows of a
    /// revised window again. Emissions of other views are ignored.
    ///
    /// # Errors
    /// If the condition cannot be computed for these rows.
    pub fn on_emission(&mut self, emission: &Emission) -> Result<Vec<AlertEvent>> {
        if emission.query != self.context.view() {
            return Ok(Vec::new());
        }
        match (emission.window, &emission.kind) {
            (Some(window), EmissionKind::Revision { .. }) => {
                self.judge_again(&emission.rows, window)
            }
            (Some(window), EmissionKind::Final) => self.judge_window(&emission.rows, window),
            (None, _) => self.judge_rows(&emission.rows),
        }
    }

    /// Tells that every window that ends at or before `watermark` has been judged: keys that had
    /// no row in their next window resolve.
    pub fn advance(&mut self, watermark: Watermark) -> Vec<AlertEvent> {
        if watermark == Watermark::MAX {
            return Vec::new();
        }
        if let (Some(history), Some(grid)) = (&mut self.history, &self.next_window) {
            history.advance(watermark, grid, self.for_windows);
        }
        self.expire(|missed| missed.end <= watermark.0)
    }

    /// The state of all keys.
    pub fn snapshot(&self) -> Value {
        serde_json::json!({
            "format": SNAPSHOT_FORMAT,
            "alert": self.context.alert(),
            "version": self.context.version(),
            "streaks": self.streaks,
            "history": self.history,
        })
    }

    /// Takes over the state of a snapshot. State of another version of the alert does not fit its
    /// condition: the alert then begins afresh.
    ///
    /// # Errors
    /// `TM310` if the snapshot cannot be read.
    pub fn restore(&mut self, snapshot: &Value) -> Result<()> {
        let alert = self.context.alert();
        let unreadable = |why: String| {
            Error::corrupt("TM310", format!("state of alert '{alert}' cannot be read")).because(why)
        };
        let snapshot =
            Snapshot::deserialize(snapshot).map_err(|error| unreadable(error.to_string()))?;
        if snapshot.format != SNAPSHOT_FORMAT {
            return Err(unreadable(format!("its format is {}", snapshot.format)));
        }
        if snapshot.alert != alert {
            return Err(unreadable(format!("it is the state of alert '{}'", snapshot.alert)));
        }
        let fits = snapshot.version == self.context.version();
        self.streaks = if fits { snapshot.streaks } else { BTreeMap::new() };
        if let (Some(history), Some(saved), true) = (&mut self.history, snapshot.history, fits) {
            history.restore(saved);
        }
        Ok(())
    }

    fn judge_rows(&self, batch: &RecordBatch) -> Result<Vec<AlertEvent>> {
        let met = self.condition.evaluate(batch)?;
        let mut events = Vec::new();
        for row in rows::to_json(&rows::keep(batch, &met)?)? {
            let key = self.key_of(&row, batch);
            events.push(self.context.row_event(&key_id(&key), &key, &row, batch));
        }
        Ok(events)
    }

    fn judge_window(
        &mut self,
        batch: &RecordBatch,
        window: WindowBounds,
    ) -> Result<Vec<AlertEvent>> {
        let met = self.condition.evaluate(batch)?;
        let mut matches = self.matches(&rows::keep(batch, &met)?)?;
        // Windows come in order of end: whoever's next window ended before this one missed it.
        let mut events = self.expire(|missed| missed.end < window.end);
        if let Some(history) = &mut self.history {
            history.note(window, &matches);
        }
        let mut ids: BTreeSet<String> = matches.keys().cloned().collect();
        if !self.streaks.is_empty() {
            ids.extend(self.present(&rows::drop_kept(batch, &met)?)?);
        }
        for id in ids {
            events.extend(self.judge_key(&id, matches.remove(&id), window));
        }
        Ok(events)
    }

    /// The matching rows by key.
    fn matches(&self, matching: &RecordBatch) -> Result<BTreeMap<String, Matches>> {
        let mut matches: BTreeMap<String, Matches> = BTreeMap::new();
        for part in parts(matching) {
            for row in rows::to_json(&part)? {
                self.note_match(row, &part, &mut matches);
            }
            if matches.len() > KEYS_MAX {
                return Err(self.too_many_keys());
            }
        }
        Ok(matches)
    }

    fn note_match(
        &self,
        row: Map<String, Value>,
        batch: &RecordBatch,
        matches: &mut BTreeMap<String, Matches>,
    ) {
        let key = self.key_of(&row, batch);
        let id = key_id(&key);
        let text = rows::text(&row);
        match matches.get_mut(&id) {
            Some(known) => {
                known.count += 1;
                if text < known.text {
                    known.text = text;
                    known.row = row;
                }
            }
            None => {
                matches.insert(id, Matches { key, row, text, count: 1 });
            }
        }
    }

    fn too_many_keys(&self) -> Error {
        let (alert, view) = (self.context.alert(), self.context.view());
        Error::invalid("TM311", format!("alert '{alert}' of '{view}' holds for too many keys"))
            .because(format!("one window may have {KEYS_MAX} keys that meet the condition"))
            .help("narrow the condition, or name fewer columns with BY")
    }

    /// The view it watches.
    pub fn view(&self) -> &str {
        self.context.view()
    }

    /// Bytes held for keys with a streak and for what may still be judged again, about.
    pub fn state_bytes(&self) -> usize {
        let kept = self.history.as_ref().map_or(0, History::kept);
        (self.streaks.len() + kept) * KEY_BYTES
    }

    /// The keys among `failing` rows that have a streak to break.
    fn present(&self, failing: &RecordBatch) -> Result<Vec<String>> {
        if self.by.is_empty() {
            return Ok(self.streaks.keys().cloned().collect());
        }
        let mut ids = Vec::new();
        for part in parts(&rows::project(failing, &self.by)?) {
            for key in rows::to_json(&part)? {
                let id = key_id(&key);
                if self.streaks.contains_key(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }

    fn judge_key(
        &mut self,
        id: &str,
        matches: Option<Matches>,
        window: WindowBounds,
    ) -> Option<AlertEvent> {
        let known = self.streaks.remove(id);
        if known.as_ref().is_some_and(|streak| window.end <= streak.last.end) {
            // This window has been judged before.
            self.streaks.insert(id.to_owned(), known?);
            return None;
        }
        let Some(matches) = matches else {
            let streak = known.filter(|streak| streak.firing)?;
            let cause = Cause { window, since: streak.since, row: None, count: 0 };
            return Some(self.context.event(AlertStatus::Resolved, id, &streak.key, &cause));
        };
        let mut streak = known.unwrap_or_else(|| Streak::begin(matches.key, window));
        let status = streak.meet(window, self.for_windows);
        let row = Some(&matches.row);
        let cause = Cause { window, since: streak.since, row, count: matches.count };
        let event = status.map(|status| self.context.event(status, id, &streak.key, &cause));
        self.streaks.insert(id.to_owned(), streak);
        event
    }

    /// Ends the streaks whose next window is `missed`.
    fn expire(&mut self, missed: impl Fn(WindowBounds) -> bool) -> Vec<AlertEvent> {
        let Some(spec) = &self.next_window else {
            return Vec::new();
        };
        let context = &self.context;
        let mut events = Vec::new();
        self.streaks.retain(|id, streak| {
            let next = spec.next(streak.last);
            if !missed(next) {
                return true;
            }
            if streak.firing {
                let cause = Cause { window: next, since: streak.since, row: None, count: 0 };
                events.push(context.event(AlertStatus::Resolved, id, &streak.key, &cause));
            }
            false
        });
        events
    }

    fn key_of(&self, row: &Map<String, Value>, batch: &RecordBatch) -> Map<String, Value> {
        let schema = batch.schema_ref();
        let names = self.by.iter().map(|index| schema.field(*index).name());
        names.map(|name| (name.clone(), row.get(name).cloned().unwrap_or(Value::Null))).collect()
    }
}

/// A key as text: equal keys have equal ids. Empty without `BY`.
fn key_id(key: &Map<String, Value>) -> String {
    if key.is_empty() { String::new() } else { rows::text(key) }
}

fn by_columns(spec: &AlertSpec, schema: &SchemaRef) -> Result<Vec<usize>> {
    let mut by = Vec::with_capacity(spec.by.len());
    for name in &spec.by {
        let Ok(index) = schema.index_of(name) else {
            let names: Vec<&str> =
                schema.fields().iter().map(|field| field.name().as_str()).collect();
            let message = format!("view '{}' has no column '{name}'", spec.view);
            let error = Error::invalid("TM125", message).at(spec.span);
            return Err(match closest(name, &names) {
                Some(candidate) => error.help(format!("did you mean {candidate}?")),
                None => error.help(format!("its columns are {}", names.join(", "))),
            });
        };
        by.push(index);
    }
    Ok(by)
}
