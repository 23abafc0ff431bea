//! Alert events on the wire: CloudEvents 1.0 JSON, one stable id per transition.

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Look today.
    Warning,
    /// Wake someone.
    Critical,
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    /// The condition holds, but not yet for long enough.
    Pending,
    /// The condition has held for the declared number of windows.
    Firing,
    /// It held and holds no more.
    Resolved,
    /// Late rows took an earlier event back, or found one that was missed.
    Revised,
}

/// An alert transition as a CloudEvents 1.0 structured-mode JSON object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// Hash of alert, version, key, window and status: the same on every retry.
    pub id: String,
    /// `/tidemill/alerts/<name>`.
    pub source: String,
    /// `io.tidemill.alert.<status>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The key as `column=value,…`, empty without `BY`.
    pub subject: String,
    /// Event time of the window's end, RFC 3339 UTC.
    pub time: String,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// Kafka key: alert name and key, so one alert's events stay in order.
    pub partitionkey: String,
    /// The payload (see `docs/alerts.md`).
    pub data: serde_json::Value,
}
