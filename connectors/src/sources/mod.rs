//! Sources: the kinds of outside world a `CREATE SOURCE` can name.
//!
//! Each kind lives in its own module and has one line in [`SOURCES`]; nothing else in the code
//! knows its name. A kind that reads an existing topic has nothing to feed and opens to `None`.

mod filesystem;
mod kafka;
mod shop;

use std::collections::BTreeSet;
use std::time::Duration;

use tidemill_contract::{Error, Options, Result, Source, SourceSpec};

/// Opens a source without the units that are done.
pub type OpenSource = fn(&SourceSpec, BTreeSet<String>) -> Result<Option<Box<dyn Source>>>;

/// One kind of source.
#[derive(Debug)]
pub struct SourceKind {
    /// The names `connector` may have for it, the first one canonical.
    pub names: &'static [&'static str],
    /// Options it knows besides [`COMMON_OPTIONS`]; a trailing `*` matches a prefix.
    pub options: &'static [&'static str],
    /// Checks options and columns without touching the outside.
    pub check: fn(&SourceSpec) -> Result<()>,
    /// Opens it, leaving out the units that are done; `None` if there is nothing to feed.
    pub open: OpenSource,
}

/// All kinds.
pub const SOURCES: &[SourceKind] = &[filesystem::KIND, kafka::KIND, shop::KIND];

/// Options every source may have; the job and the feed read them.
pub const COMMON_OPTIONS: &[&str] = &[
    "connector",
    "topic",
    "topic.*",
    "scan.startup.*",
    "scan.bounded.*",
    "scan.on-data-loss",
    "scan.watermark.*",
    "watermark.*",
    "dead.max-ratio",
    "dead.window",
];

/// Checks that the kind exists, its options are known and its columns fit.
///
/// # Errors
/// `TM550` for an unknown kind, `TM111` for an unknown option, or what the kind objects to.
pub fn validate(spec: &SourceSpec) -> Result<()> {
    let kind = find(spec)?;
    let known: Vec<&str> = COMMON_OPTIONS.iter().chain(kind.options).copied().collect();
    spec.options.reject_unknown(&known, &format!("source '{}'", spec.name))?;
    (kind.check)(spec)
}

/// Opens a source for feeding, without the units in `done`. `None`: the topic is fed by others.
///
/// # Errors
/// As [`validate`], or if the outside cannot be opened.
pub fn open(spec: &SourceSpec, done: BTreeSet<String>) -> Result<Option<Box<dyn Source>>> {
    validate(spec)?;
    (find(spec)?.open)(spec, done)
}

fn find(spec: &SourceSpec) -> Result<&'static SourceKind> {
    let name = spec.options.require("connector", &format!("source '{}'", spec.name))?;
    SOURCES.iter().find(|kind| kind.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = SOURCES.iter().flat_map(|kind| kind.names).copied().collect();
        Error::invalid("TM550", format!("unknown connector '{name}'"))
            .at(spec.options.span("connector"))
            .help(format!("known source connectors: {}", known.join(", ")))
    })
}

/// A wrong value of an option.
fn bad_option(options: &Options, key: &str, wanted: &str) -> Error {
    let value = options.get(key).unwrap_or_default();
    Error::invalid("TM551", format!("option '{key}' cannot be '{value}'"))
        .at(options.span(key))
        .help(format!("write {wanted}"))
}

/// A yes-or-no option.
fn flag(options: &Options, key: &str, default: bool) -> Result<bool> {
    match options.get(key) {
        None => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(bad_option(options, key, "'true' or 'false'")),
    }
}

/// A length of time as Flink writes it: `1 s`, `500 ms`, `2 min`, `1h`.
fn duration(options: &Options, key: &str) -> Result<Option<Duration>> {
    let Some(text) = options.get(key) else {
        return Ok(None);
    };
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || bad_option(options, key, "a length of time such as '1 s' or '500 ms'");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis_per_unit = match unit.trim() {
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1000,
        "min" | "m" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis_per_unit).map(|ms| Some(Duration::from_millis(ms))).ok_or_else(wrong)
}
