//! Who is at fault: an error or panic of the operators with the queries whose work it was.
//!
//! Why: queries share an engine, and one that cannot be computed from its data must not take the
//! others with it. Work that several queries share blames all of them; whoever moves them apart
//! learns which one it was. It never decides what becomes of a query.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use tidemill_contract::{Error, ErrorKind, panic_text};

/// Work of some queries failed. Unless [`Fault::is_harmless`], the engine is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    queries: Vec<String>,
    panicked: bool,
    reason: String,
    /// The expression, if it is known.
    place: Option<String>,
}

impl Fault {
    /// The queries whose work it was, at least one of them the cause.
    pub fn queries(&self) -> &[String] {
        &self.queries
    }

    /// A failed [`super::Engine::peek`] that left the state as it was.
    pub fn is_harmless(&self) -> bool {
        !self.panicked
    }

    /// Names the queries, unless they are known more closely.
    pub(super) fn of(mut self, queries: impl IntoIterator<Item = String>) -> Self {
        if self.queries.is_empty() {
            self.queries.extend(queries);
        }
        self
    }

    /// Says where, unless it is known more closely.
    pub(super) fn within(mut self, place: &str) -> Self {
        self.place.get_or_insert_with(|| place.to_owned());
        self
    }

    fn told(&self) -> String {
        match &self.place {
            Some(place) => format!("{} in {place}", self.reason),
            None => self.reason.clone(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Error::from(self.clone()).fmt(f)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let queries = fault.queries.join("', '");
        if fault.panicked {
            let what = format!("the computation of '{queries}' panicked");
            return Self::new(ErrorKind::Internal, "TM341", what)
                .because(fault.told())
                .help("report this with the query; drop it, or create it anew in other words");
        }
        Self::invalid("TM340", format!("'{queries}' cannot be computed from its rows"))
            .because(fault.told())
            .help("drop it and create it with an expression that holds for every row, e.g. with NULLIF or TRY_CAST")
    }
}

impl From<DataFusionError> for Fault {
    fn from(error: DataFusionError) -> Self {
        let (mut place, mut inner) = (None, &error);
        while let DataFusionError::Context(description, next) = inner {
            place = Some(description.clone());
            inner = next;
        }
        Self { queries: Vec::new(), panicked: false, reason: reason(inner), place }
    }
}

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

/// Runs work of some queries; a panic in it is their fault like an error. Whatever was changed
/// half must not be used again.
pub(super) fn caught<T, E: Into<Fault>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(panic) => {
            let text = panic_text(&*panic);
            let reason = if text.is_empty() { "no reason is given".to_owned() } else { text };
            Err(Fault { queries: Vec::new(), panicked: true, reason, place: None })
        }
    }
}

/// Why the computation failed, without the values it failed on.
fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => match &**error {
            ArrowError::DivideByZero => "division by zero".to_owned(),
            ArrowError::ArithmeticOverflow(_) => "a number is out of range".to_owned(),
            ArrowError::CastError(_) => "a value cannot be cast".to_owned(),
            ArrowError::ParseError(_) => "a text cannot be read".to_owned(),
            other => without_quoted(&other.to_string()),
        },
        other => without_quoted(&other.strip_backtrace()),
    }
}

/// What stands in quotes may come from a row.
fn without_quoted(text: &str) -> String {
    let parts = text.split('\'').enumerate();
    let parts: Vec<&str> = parts.map(|(n, part)| if n % 2 == 0 { part } else { "…" }).collect();
    parts.join("'")
}
