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

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::temporal_conversions::timestamp_us_to_datetime;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tidemill_contract::{AlertEvent, AlertStatus, Micros, Severity, WindowBounds};

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
        let WindowBounds { start, end } = cause.window;
        let version = self.version.to_string();
        let id = digest(&[
            &self.alert,
            &version,
            key_id,
            &start.to_string(),
            &end.to_string(),
            status_name(status),
        ]);
        let since = cause.since.start;
        let mut data = self.data(status, key);
        data["value"] = cause.row.map_or(Value::Null, |row| Value::Object(row.clone()));
        data["matching_rows"] = json!(cause.count);
        data["window"] = json!({ "start": rfc3339(start), "end": rfc3339(end) });
        data["since"] = json!(rfc3339(since));
        data["dedup_key"] = json!(digest(&[&self.alert, &version, key_id, &since.to_string()]));
        self.envelope(id, status, key, rfc3339(end), data)
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
    }
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
