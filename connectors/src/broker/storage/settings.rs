//! Settings of one topic: the names users know from Kafka, their defaults, their checks.
//!
//! Names whose only supported value is the default are accepted with that value and refused with
//! any other, so that nobody believes in a compaction that does not happen.

use std::collections::BTreeMap;

use super::super::config::BrokerConfig;

/// The effective settings of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    pub(crate) segment_bytes: u64,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) message_bytes_max: u64,
}

/// One row of a configuration listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettingRow {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// Kafka's type number: 2 string, 3 int, 5 long, 7 list.
    pub(crate) kind: i8,
    pub(crate) is_default: bool,
}

const SEGMENT_BYTES: &str = "segment.bytes";
const RETENTION_BYTES: &str = "retention.bytes";
const RETENTION_MS: &str = "retention.ms";
const MESSAGE_BYTES_MAX: &str = "max.message.bytes";

/// Accepted with exactly this value.
const FIXED: [(&str, &str); 4] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("message.timestamp.type", "CreateTime"),
    ("min.insync.replicas", "1"),
];

impl TopicSettings {
    /// The broker's defaults with a topic's overrides; the error says what is wrong.
    pub(crate) fn new(
        config: &BrokerConfig,
        overrides: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut settings = Self {
            segment_bytes: config.segment_bytes,
            retention_bytes: config.retention_bytes,
            retention_ms: config.retention_ms,
            message_bytes_max: config.message_bytes_max,
        };
        for (name, value) in overrides {
            match name.as_str() {
                SEGMENT_BYTES => settings.segment_bytes = positive(name, value)?,
                MESSAGE_BYTES_MAX => settings.message_bytes_max = positive(name, value)?,
                RETENTION_BYTES => settings.retention_bytes = limit(name, value)?,
                RETENTION_MS => settings.retention_ms = limit(name, value)?,
                _ => check_fixed(name, value)?,
            }
        }
        Ok(settings)
    }

    /// All settings as Kafka lists them.
    pub(crate) fn rows(&self, overrides: &BTreeMap<String, String>) -> Vec<SettingRow> {
        let unlimited =
            |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
        let mut rows = vec![
            (SEGMENT_BYTES, self.segment_bytes.to_string(), 3),
            (MESSAGE_BYTES_MAX, self.message_bytes_max.to_string(), 3),
            (RETENTION_BYTES, unlimited(self.retention_bytes), 5),
            (RETENTION_MS, unlimited(self.retention_ms), 5),
        ];
        rows.extend(FIXED.iter().map(|(name, value)| (*name, (*value).to_owned(), 2)));
        rows.into_iter()
            .map(|(name, value, kind)| SettingRow {
                name,
                value,
                kind,
                is_default: !overrides.contains_key(name),
            })
            .collect()
    }
}

fn positive(name: &str, value: &str) -> Result<u64, String> {
    match value.parse::<u32>() {
        Ok(number) if number > 0 => Ok(u64::from(number)),
        _ => Err(format!("'{name}' must be a positive number, not '{value}'")),
    }
}

fn limit(name: &str, value: &str) -> Result<Option<u64>, String> {
    match value.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(number) if number >= 0 => Ok(Some(number.unsigned_abs())),
        _ => Err(format!("'{name}' must be -1 or a number, not '{value}'")),
    }
}

fn check_fixed(name: &str, value: &str) -> Result<(), String> {
    match FIXED.iter().find(|(known, _)| *known == name) {
        Some((_, supported)) if *supported == value => Ok(()),
        Some((_, supported)) => {
            Err(format!("'{name}' can only be '{supported}' on the embedded broker"))
        }
        None => Err(format!("unknown topic setting '{name}'")),
    }
}
