//! Source kind `kafka`: a topic that others write to. Nothing is fed; the job reads it.
//!
//! Here only its options are checked, so that a wrong property fails at `CREATE SOURCE` and not
//! when the job starts.

use std::collections::BTreeMap;

use tidemill_contract::{Error, Result, SourceSpec};

use super::{SourceKind, bad_option};
use crate::{format, log};

pub(super) const KIND: SourceKind = SourceKind {
    names: &["kafka"],
    options: &[
        "format",
        "json.epoch-unit",
        "properties.*",
        "key.format",
        "key.fields",
        "value.format",
    ],
    check,
    open: |_, _| Ok(None),
};

const STARTUP_MODES: &[&str] = &["earliest-offset", "latest-offset", "timestamp"];
const BOUNDED_MODES: &[&str] = &["unbounded", "latest-offset"];

fn check(spec: &SourceSpec) -> Result<()> {
    let options = &spec.options;
    format::validate(options)?;
    format::json::validate(options)?;
    one_of(spec, "scan.startup.mode", STARTUP_MODES)?;
    one_of(spec, "scan.bounded.mode", BOUNDED_MODES)?;
    let by_time = options.get("scan.startup.mode") == Some("timestamp");
    let millis = options.get("scan.startup.timestamp-millis");
    if by_time && millis.is_none_or(|text| text.parse::<i64>().is_err()) {
        return Err(Error::invalid(
            "TM551",
            format!("source '{}': 'scan.startup.timestamp-millis' must be a number", spec.name),
        )
        .at(options.span("scan.startup.timestamp-millis"))
        .help("milliseconds since the epoch, e.g. '1700000000000'"));
    }
    let properties: BTreeMap<String, String> = options
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("properties.")?, value)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    log::kafka::check_properties(&properties)
}

fn one_of(spec: &SourceSpec, key: &str, modes: &[&str]) -> Result<()> {
    match spec.options.get(key) {
        Some(mode) if !modes.contains(&mode) => {
            Err(bad_option(&spec.options, key, &format!("one of {}", modes.join(", "))))
        }
        _ => Ok(()),
    }
}
