//! The form of quarantined rows: JSON with the raw bytes, the place, the stage and the reason.
//!
//! One form for the feed and the jobs, so that `<source>$dead` reads as one table. Raw bytes are
//! capped; the topic that holds the record keeps the rest.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidemill_contract::{Micros, RowFault};

/// Raw bytes kept with a quarantined row: enough to see what it was, small enough that ten
/// thousand poison records of megabytes do not fill the log.
const RAW_BYTES_MAX: usize = 64 << 10;

/// A row that could not be taken. `place` says where it came from.
pub(crate) fn dead_row(source: &str, place: &Value, fault: &RowFault, now: Micros) -> Bytes {
    let mut row = Map::new();
    row.insert("source".to_owned(), json!(source));
    add_place(&mut row, place);
    row.insert("stage".to_owned(), json!(fault.stage));
    row.insert("reason".to_owned(), json!(fault.reason));
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

fn add_place(row: &mut Map<String, Value>, place: &Value) {
    if let Value::Object(fields) = place {
        row.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

fn add_raw(row: &mut Map<String, Value>, raw: &Bytes) {
    let kept = raw.slice(..raw.len().min(RAW_BYTES_MAX));
    row.insert("raw_bytes".to_owned(), json!(raw.len()));
    row.insert("raw_base64".to_owned(), json!(STANDARD.encode(&kept)));
    if let Ok(text) = std::str::from_utf8(&kept) {
        row.insert("raw_text".to_owned(), json!(text));
    }
}

/// RFC 3339 in UTC; the number itself where the calendar ends.
pub(crate) fn rfc3339(micros: Micros) -> String {
    chrono::DateTime::from_timestamp_micros(micros).map_or_else(
        || format!("{micros} us"),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
    )
}
