//! Sinks: where rows go, in idempotent steps.
//!
//! Each kind a `CREATE SINK` can name has one line in [`SINKS`]. The Delta table of a view needs
//! no declaration and is here too. A sink never decides that something is true: it is told what a
//! commit made true, and may be told so again.

pub mod delta;
pub mod filesystem;
mod kafka;

use tidemill_contract::{Error, Options, Result, SinkSpec};

/// One kind of sink.
#[derive(Debug)]
pub struct SinkKind {
    /// The names `connector` may have for it, the first one canonical.
    pub names: &'static [&'static str],
    /// What becomes of rows.
    pub delivery: Delivery,
    /// Options it knows; a trailing `*` matches a prefix.
    pub options: &'static [&'static str],
    /// Checks the options without touching the outside.
    pub check: fn(&Options, &str) -> Result<()>,
}

/// How the rows of a sink are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As JSON records appended to the topic of option `topic`.
    Topic,
    /// As bytes of one file, see [`filesystem::FileSink`].
    File,
}

/// All kinds.
pub const SINKS: &[SinkKind] = &[filesystem::KIND, kafka::KIND];

/// Checks that the kind exists and its options are known and sane.
///
/// # Errors
/// `TM550` for an unknown kind, `TM111` for an unknown option, or what the kind objects to.
pub fn validate(spec: &SinkSpec) -> Result<()> {
    let kind = find(spec)?;
    let object = format!("sink '{}'", spec.name);
    spec.options.reject_unknown(kind.options, &object)?;
    (kind.check)(&spec.options, &object)
}

/// How a sink's rows are published.
///
/// # Errors
/// `TM550` for an unknown kind.
pub fn delivery(spec: &SinkSpec) -> Result<Delivery> {
    find(spec).map(|kind| kind.delivery)
}

fn find(spec: &SinkSpec) -> Result<&'static SinkKind> {
    let name = spec.options.require("connector", &format!("sink '{}'", spec.name))?;
    SINKS.iter().find(|kind| kind.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = SINKS.iter().flat_map(|kind| kind.names).copied().collect();
        Error::invalid("TM550", format!("unknown connector '{name}'"))
            .at(spec.options.span("connector"))
            .help(format!("known sink connectors: {}", known.join(", ")))
    })
}
