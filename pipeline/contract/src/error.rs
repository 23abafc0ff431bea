//! The one error type. Its kind says who must act; code, span, reason and help make it readable.
//!
//! It never carries payload values or secrets: messages name objects and positions only.

use std::fmt;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an error, and so how callers treat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user's SQL, option or configuration is wrong; retrying is useless. Exit code 78.
    Invalid,
    /// The named object does not exist.
    NotFound,
    /// The named object exists already.
    Conflict,
    /// A broker, store or server does not answer; retrying may help. Exit code 69.
    Unavailable,
    /// Another writer owns this job: stop at once, nothing of ours became true.
    Fenced,
    /// Bytes read back are not what was written, or log data is gone. Needs an operator.
    Corrupt,
    /// A bug of ours. Exit code 70.
    Internal,
}

/// A half-open byte range `[start, end)` in the statement text the error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// An error with what is wrong, where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// Who must act.
    pub kind: ErrorKind,
    /// Stable code such as `TM101`; each is documented in `docs/errors.md`.
    pub code: &'static str,
    /// What is wrong: lowercase, no full stop, names the object.
    pub message: String,
    /// Where in the SQL text, if it is about SQL.
    pub span: Option<Span>,
    /// Why it is so, one sentence, if the message does not say.
    pub reason: Option<String>,
    /// What to do, one sentence.
    pub help: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        Ok(())
    }
}

impl Error {
    /// An error of the given kind and code.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), span: None, reason: None, help: None }
    }
    /// The user's input is wrong.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, message)
    }
    /// A dependency does not answer.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, code, message)
    }
    /// Stored bytes are wrong or gone.
    pub fn corrupt(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, code, message)
    }
    /// A bug of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, "TM900", message)
    }
    /// Adds the place in the SQL text.
    #[must_use]
    pub fn at(mut self, span: Option<Span>) -> Self {
        self.span = self.span.or(span);
        self
    }
    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What a caught panic said; empty if it said nothing that is text.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
