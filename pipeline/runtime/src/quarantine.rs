//! The form of quarantined rows: JSON with the raw bytes, the place, the stage, the class of fault
//! and the reason.
//!
//! One form for the feed and the jobs, so that `<source>$dead` reads as one table. Raw bytes are
//! capped; the topic that holds the record keeps the rest. What a replay needs besides the bytes
//! (key, headers, record time) stands beside them.
//!
//! Invariant: the id of a dead row depends on its place and its bytes only. A record that is
//! quarantined twice, because a source was dropped and declared again, has one id.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tidemill_contract::{Micros, RawRecord, RowFault};

/// Header of a replayed record: id of the dead row it first was.
pub(crate) const REPLAY_OF_HEADER: &str = "tm-replay-of";
/// Header of a replayed record: which try it is, from 1.
pub(crate) const ATTEMPT_HEADER: &str = "tm-replay-attempt";
/// What our own headers begin with.
pub(crate) const OWN_HEADERS: &str = "tm-";

/// Raw bytes kept with a quarantined row: enough to see what it was, small enough that ten
/// thousand poison records of megabytes do not fill the log.
pub(crate) const RAW_BYTES_MAX: usize = 64 << 10;
/// Key and headers kept with a quarantined row, together.
const ENVELOPE_BYTES_MAX: usize = 16 << 10;
/// Bytes of the hash that an id is made of: enough for billions of rows.
const ID_BYTES: usize = 12;

/// A row that could not be taken. `place` says where it came from, `record` is the log record it
/// was, if it was one.
pub(crate) fn dead_row(
    source: &str,
    place: &Value,
    record: Option<&RawRecord>,
    fault: &RowFault,
    now: Micros,
) -> Bytes {
    let mut row = Map::new();
    row.insert("id".to_owned(), json!(dead_id(source, place, &fault.raw)));
    row.insert("source".to_owned(), json!(source));
    add_place(&mut row, place);
    row.insert("stage".to_owned(), json!(fault.stage));
    row.insert("class".to_owned(), json!(fault.class.name()));
    row.insert("reason".to_owned(), json!(fault.reason));
    if let Some(record) = record {
        add_envelope(&mut row, record);
    }
    add_raw(&mut row, &fault.raw);
    row.insert("at".to_owned(), json!(rfc3339(now)));
    Bytes::from(Value::Object(row).to_string())
}

/// A row that came when no window was open for it. `place` says where it came from.
pub(crate) fn late_row(
    source: &str,
    query: &str,
    place: &Value,
    raw: &Bytes,
    watermark: Micros,
    now: Micros,
) -> Bytes {
    let mut row = Map::new();
    row.insert("source".to_owned(), json!(source));
    row.insert("query".to_owned(), json!(query));
    add_place(&mut row, place);
    row.insert("reason".to_owned(), json!("behind watermark"));
    row.insert("watermark".to_owned(), json!(rfc3339(watermark)));
    add_raw(&mut row, raw);
    row.insert("at".to_owned(), json!(rfc3339(now)));
    Bytes::from(Value::Object(row).to_string())
}

/// The id of a dead row.
pub(crate) fn dead_id(source: &str, place: &Value, raw: &[u8]) -> String {
    let part = |name: &str| place.get(name).map(Value::to_string).unwrap_or_default();
    let place = match place.get("unit") {
        Some(_) => format!("{}#{}", part("unit"), part("row")),
        None => format!("{}@{}", part("partition"), part("offset")),
    };
    let text = format!("{source}\n{place}\n{}\n{:08x}", raw.len(), crc32c::crc32c(raw));
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn add_place(row: &mut Map<String, Value>, place: &Value) {
    if let Value::Object(fields) = place {
        row.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

/// What a record is besides its payload, and whether it was replayed before.
fn add_envelope(row: &mut Map<String, Value>, record: &RawRecord) {
    let text = |wanted: &str| {
        let found = record.headers.iter().find(|(name, _)| name == wanted);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    if let Some(first) = text(REPLAY_OF_HEADER) {
        row.insert("replay_of".to_owned(), json!(first));
        let attempt = text(ATTEMPT_HEADER).and_then(|text| text.parse::<u32>().ok());
        row.insert("attempt".to_owned(), json!(attempt.unwrap_or(1)));
    }
    if record.timestamp_ms >= 0 {
        row.insert("timestamp_ms".to_owned(), json!(record.timestamp_ms));
    }
    let headers: Vec<(&str, &Bytes)> = record
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| !name.starts_with(OWN_HEADERS))
        .collect();
    let key_bytes = record.key.as_ref().map_or(0, Bytes::len);
    let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if key_bytes + header_bytes > ENVELOPE_BYTES_MAX {
        row.insert("envelope_cut".to_owned(), json!(true));
        return;
    }
    if let Some(key) = &record.key {
        row.insert("key_base64".to_owned(), json!(STANDARD.encode(key)));
    }
    if !headers.is_empty() {
        let pairs = headers.iter().map(|(name, value)| json!([name, STANDARD.encode(value)]));
        row.insert("headers".to_owned(), pairs.collect());
    }
}

fn add_raw(row: &mut Map<String, Value>, raw: &Bytes) {
    let kept = raw.slice(..raw.len().min(RAW_BYTES_MAX));
    row.insert("raw_bytes".to_owned(), json!(raw.len()));
    row.insert("raw_base64".to_owned(), json!(STANDARD.encode(&kept)));
    if let Some(text) = text_of(&kept, raw.len()) {
        row.insert("raw_text".to_owned(), json!(text));
    }
}

/// The kept bytes as text; the cut may have gone through the middle of the last character.
fn text_of(kept: &[u8], whole_bytes: usize) -> Option<&str> {
    match std::str::from_utf8(kept) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && kept.len() < whole_bytes => {
            std::str::from_utf8(kept.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

/// RFC 3339 in UTC; the number itself where the calendar ends.
pub(crate) fn rfc3339(micros: Micros) -> String {
    chrono::DateTime::from_timestamp_micros(micros).map_or_else(
        || format!("{micros} us"),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
    )
}
