//! The demo's subscriber: reads alert events from the topic, as any subscriber would.

use std::collections::BTreeMap;

use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{AlertEvent, RawRecord, Result};

/// The topic of alert events.
const TOPIC: &str = "alerts";

/// Follows the topic by offset.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    next: BTreeMap<i32, i64>,
}

impl Subscriber {
    /// The events since the last call, oldest first. None while there is no topic yet.
    pub(super) async fn take(&mut self, log: &KafkaLog) -> Result<Vec<AlertEvent>> {
        if log.partitions(TOPIC).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut from = BTreeMap::new();
        let mut to = BTreeMap::new();
        for (partition, (low, high)) in log.watermarks(TOPIC).await? {
            let start = *self.next.get(&partition).unwrap_or(&low);
            if high > start {
                from.insert(partition, start);
                to.insert(partition, high);
            }
        }
        if from.is_empty() {
            return Ok(Vec::new());
        }
        let records = log.read_range(TOPIC, &from, &to).await?;
        self.next.extend(to);
        let mut events: Vec<AlertEvent> =
            records.iter().filter_map(|(_, record)| decode(record)).collect();
        events.sort_by(|left, right| left.time.cmp(&right.time));
        Ok(events)
    }
}

/// The event of a record; a record that is none is skipped, for anyone may write to a topic.
fn decode(record: &RawRecord) -> Option<AlertEvent> {
    serde_json::from_slice(record.payload.as_deref()?).ok()
}

/// One line for people: time, status, alert, key, and what the view's row says.
pub(super) fn line(event: &AlertEvent) -> String {
    let status = event.event_type.rsplit('.').next().unwrap_or_default();
    let name = event.source.rsplit('/').next().unwrap_or_default();
    let mut text = format!("{}  {status:<8}  {name}  {}", event.time, event.subject);
    if let Some(row) = event.data.get("value").and_then(serde_json::Value::as_object) {
        for column in ["units", "largest_line", "country"] {
            if let Some(value) = row.get(column) {
                text.push_str(&format!("  {column}={}", crate::output::plain(value)));
            }
        }
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether the event says that an alert began to fire.
pub(super) fn is_firing(event: &AlertEvent) -> bool {
    event.event_type.ends_with(".firing")
}
