//! Formats: bytes of a log record to rows of the declared columns.
//!
//! A format never decides what happens to a bad row: it hands it back as a fault, with its bytes
//! and a reason, and goes on with the rest of the batch.

pub mod json;

use tidemill_contract::{Error, Options, Result};

/// Checks the option `format` of a source or sink.
///
/// # Errors
/// `TM540` for a format that does not exist.
pub fn validate(options: &Options) -> Result<()> {
    match options.get("format") {
        None | Some("json") => Ok(()),
        Some(other) => Err(Error::invalid("TM540", format!("unknown format '{other}'"))
            .at(options.span("format"))
            .help("known formats: json")),
    }
}
