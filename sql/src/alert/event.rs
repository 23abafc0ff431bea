//! Alert events: CloudEvents with ids that depend on nothing but the alert, the key, the window
//! and the status, so that every retry and every restart gives the same id.
//!
//! `data` is the contract with subscribers:
//!
//! | field | meaning |
//! |---|---|
//! | `alert` `version` `view` `condition` `severity` `notify` | the declaration |
//! | `key` | column → value, empty without `BY` |
//! | `status` | `pending`, `firing`, `resolved` |
//! | `value` | the row that met the condition, `null` in `resolved` |
//! | `matching_rows` | how many rows of the key met it in this window |
//! | `window` | `start` and `end` of the window judged, `null` for a stateless view |
//! | `since` | start of the first window of the streak |
//! | `dedup_key` | the same for all events of one streak of one key |
//!
//! An event with status `revised` corrects earlier ones: `before` holds `id`, `status` and `since`
//! of the event that is taken back, `after` the same of the event that should have been, `null` if
//! there is none; `revision` counts, `revised_window` is the window that late rows changed. Whoever
//! drops the ids in `before` and adds those in `after` has what would have been said without late
//! rows.

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::temporal_conversions::timestamp_us_to_datetime;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tidemill_contract::{AlertEvent, AlertStatus, Micros, Severity, WindowBounds};

use super::history::Told;
use super::rows;
use crate::parse::AlertSpec;

/// Hexadecimal digits of an id: 128 bits.
const ID_DIGITS: usize = 32;

/// What all events of one alert share.
#[derive(Debug)]
pub(super) struct Context {
    alert: String,
    version: u64,
    view: String,
    condition: String,
    severity: Severity,
    notify: Vec<String>,
}

/// Why an event happens.
pub(super) struct Cause<'a> {
    /// The window judged.
    pub(super) window: WindowBounds,
    /// The first window of the streak.
    pub(super) since: WindowBounds,
    /// The row that met the condition.
    pub(super) row: Option<&'a Map<String, Value>>,
    /// How many rows met it.
    pub(super) count: u64,
}

/// Which revision an event comes from.
pub(super) struct Revision {
    /// Counts the revisions an alert has seen.
    pub(super) number: u64,
    /// The window that late rows changed.
    pub(super) window: WindowBounds,
}

impl Context {
    pub(super) fn new(spec: &AlertSpec, version: u64) -> Self {
        Self {
            alert: spec.name.clone(),
            version,
            view: spec.view.clone(),
            condition: spec.condition_text.clone(),
            severity: spec.severity,
            notify: spec.notify.clone(),
        }
    }

    pub(super) fn alert(&self) -> &str {
        &self.alert
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn view(&self) -> &str {
        &self.view
    }

    /// An event about a window.
    pub(super) fn event(
        &self,
        status: AlertStatus,
        key_id: &str,
        key: &Map<String, Value>,
        cause: &Cause<'_>,
    ) -> AlertEvent {
        let id = self.id(status, key_id, cause.window, "");
        let mut data = self.data(status, key);
        data["value"] = cause.row.map_or(Value::Null, |row| Value::Object(row.clone()));
        data["matching_rows"] = json!(cause.count);
        data["window"] = bounds(cause.window);
        data["since"] = json!(rfc3339(cause.since.start));
        data["dedup_key"] = json!(self.dedup_key(key_id, cause.since));
        self.envelope(id, status, key, rfc3339(cause.window.end), data)
    }

    /// An event that takes back what was said of a key in a window, or says what was missed.
    pub(super) fn revision(
        &self,
        key_id: &str,
        key: &Map<String, Value>,
        before: Option<&Told>,
        after: Option<&Told>,
        revision: &Revision,
    ) -> Option<AlertEvent> {
        let Told { window, since, .. } = before.or(after)?;
        let status = AlertStatus::Revised;
        let number = revision.number.to_string();
        let id = self.id(status, key_id, *window, &number);
        let side = |told: &Told| {
            json!({
                "id": self.id(told.status, key_id, told.window, ""),
                "status": told.status,
                "since": rfc3339(told.since.start),
            })
        };
        let row = after.and_then(|told| told.row.clone());
        let mut data = self.data(status, key);
        data["before"] = before.map_or(Value::Null, side);
        data["after"] = after.map_or(Value::Null, side);
        data["value"] = row.map_or(Value::Null, Value::Object);
        data["matching_rows"] = json!(after.map_or(0, |told| told.count));
        data["window"] = bounds(*window);
        data["since"] = json!(rfc3339(after.map_or(*since, |told| told.since).start));
        data["dedup_key"] = json!(self.dedup_key(key_id, *since));
        data["revision"] = json!(revision.number);
        data["revised_window"] = bounds(revision.window);
        Some(self.envelope(id, status, key, rfc3339(window.end), data))
    }

    /// Of alert, version, key, window, status and, for a revision, its number.
    fn id(&self, status: AlertStatus, key_id: &str, window: WindowBounds, number: &str) -> String {
        let version = self.version.to_string();
        let (start, end) = (window.start.to_string(), window.end.to_string());
        let mut parts = vec![&self.alert, &version, key_id, &start, &end, status_name(status)];
        if !number.is_empty() {
            parts.push(number);
        }
        digest(&parts)
    }

    fn dedup_key(&self, key_id: &str, since: WindowBounds) -> String {
        digest(&[&self.alert, &self.version.to_string(), key_id, &since.start.to_string()])
    }

    /// A firing event about one row of a stateless view; its id is of the row's content.
    pub(super) fn row_event(
        &self,
        key_id: &str,
        key: &Map<String, Value>,
        row: &Map<String, Value>,
        batch: &RecordBatch,
    ) -> AlertEvent {
        let status = AlertStatus::Firing;
        let version = self.version.to_string();
        let text = rows::text(row);
        let id = digest(&[&self.alert, &version, key_id, &text, status_name(status)]);
        let time = row_time(row, batch);
        let mut data = self.data(status, key);
        data["value"] = Value::Object(row.clone());
        data["matching_rows"] = json!(1);
        data["window"] = Value::Null;
        data["since"] = json!(time);
        data["dedup_key"] = json!(digest(&[&self.alert, &version, key_id, &text]));
        self.envelope(id, status, key, time, data)
    }

    fn data(&self, status: AlertStatus, key: &Map<String, Value>) -> Value {
        json!({
            "alert": self.alert,
            "version": self.version,
            "view": self.view,
            "condition": self.condition,
            "severity": self.severity,
            "notify": self.notify,
            "key": key,
            "status": status,
        })
    }

    fn envelope(
        &self,
        id: String,
        status: AlertStatus,
        key: &Map<String, Value>,
        time: String,
        data: Value,
    ) -> AlertEvent {
        let subject = subject(key);
        AlertEvent {
            specversion: "1.0".to_owned(),
            id,
            source: format!("/tidemill/alerts/{}", self.alert),
            event_type: format!("io.tidemill.alert.{}", status_name(status)),
            partitionkey: format!("{}/{subject}", self.alert),
            subject,
            time,
            datacontenttype: "application/json".to_owned(),
            data,
        }
    }
}

fn status_name(status: AlertStatus) -> &'static str {
    match status {
        AlertStatus::Pending => "pending",
        AlertStatus::Firing => "firing",
        AlertStatus::Resolved => "resolved",
        AlertStatus::Revised => "revised",
    }
}

fn bounds(window: WindowBounds) -> Value {
    json!({ "start": rfc3339(window.start), "end": rfc3339(window.end) })
}

/// `column=value,…`.
fn subject(key: &Map<String, Value>) -> String {
    let parts: Vec<String> = key
        .iter()
        .map(|(column, value)| match value {
            Value::String(text) => format!("{column}={text}"),
            other => format!("{column}={other}"),
        })
        .collect();
    parts.join(",")
}

/// Hash of the parts, each with its length so that none can run into the next.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut digits = String::with_capacity(2 * ID_DIGITS);
    for byte in hasher.finalize() {
        // Writing to a String cannot fail.
        write!(digits, "{byte:02x}").ok();
    }
    digits.truncate(ID_DIGITS);
    digits
}

/// A point in time as RFC 3339 in UTC; as microseconds where the calendar ends.
fn rfc3339(micros: Micros) -> String {
    match timestamp_us_to_datetime(micros) {
        Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string(),
        None => micros.to_string(),
    }
}

/// The row's first timestamp; the epoch if it has none.
fn row_time(row: &Map<String, Value>, batch: &RecordBatch) -> String {
    let schema = batch.schema_ref();
    let times = schema
        .fields()
        .iter()
        .filter(|field| matches!(field.data_type(), DataType::Timestamp(..)))
        .filter_map(|field| row.get(field.name()).and_then(Value::as_str));
    times.map(str::to_owned).next().unwrap_or_else(|| rfc3339(0))
}
