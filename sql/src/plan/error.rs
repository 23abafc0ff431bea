//! DataFusion's errors in our words, with the place in the statement.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser;
use tidemill_contract::{Error, ErrorKind, Span};

use crate::parse::{SelectQuery, byte_span};

/// Converts an error of planning `query`; spans point into the script the query came from. For
/// sessions that plan a [`SelectQuery`] themselves.
pub fn plan_error(error: &DataFusionError, query: &SelectQuery) -> Error {
    let whole = Span { start: query.offset, end: query.offset + query.text.len() };
    convert(error).at(Some(whole))
}

fn convert(error: &DataFusionError) -> Error {
    if let DataFusionError::External(inner) = error.find_root()
        && let Some(own) = inner.downcast_ref::<Error>()
    {
        return own.clone();
    }
    let mut span = None;
    let mut message = None;
    let mut notes = Vec::new();
    if let Some(diagnostic) = error.diagnostic() {
        span = diagnostic.span.and_then(|span| {
            let location = |place: datafusion::common::Location| {
                sqlparser::tokenizer::Location::new(place.line, place.column)
            };
            byte_span(sqlparser::tokenizer::Span::new(location(span.start), location(span.end)))
        });
        message = Some(diagnostic.message.clone());
        notes.extend(diagnostic.notes.iter().map(|note| note.message.clone()));
        notes.extend(diagnostic.helps.iter().map(|help| help.message.clone()));
    }
    let text = error.find_root().strip_backtrace();
    let text = text
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("Schema error: ")
        .trim_start_matches("SQL error: ");
    let code = if text.contains("not found") || text.starts_with("No field") {
        "TM201"
    } else if text.starts_with("This feature is not implemented") {
        "TM220"
    } else {
        "TM200"
    };
    let mut converted = Error::invalid(code, message.unwrap_or_else(|| lower_first(text)));
    converted.span = span;
    if converted.message != lower_first(text) {
        converted = converted.because(lower_first(text));
    }
    if notes.is_empty() { converted } else { converted.help(notes.join("; ")) }
}

/// An error inside the operators: not the user's fault unless the data made an expression fail.
pub(crate) fn run_error(error: &DataFusionError) -> Error {
    Error::new(ErrorKind::Internal, "TM901", lower_first(&error.strip_backtrace()))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
