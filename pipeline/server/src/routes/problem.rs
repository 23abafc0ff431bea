//! Errors over HTTP: RFC 9457 `application/problem+json`, with diagnostics for SQL.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, ErrorKind};

use crate::diagnostic::Diagnostic;

/// A problem as sent and as the command-line client reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:tidemill:error:<code>`.
    #[serde(rename = "type")]
    pub problem_type: Box<str>,
    /// Who must act, in words.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// Stable code such as `TM101`.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// The error with its place, reason and help.
    pub diagnostics: Vec<Diagnostic>,
}

impl Problem {
    /// A problem that is not about SQL text.
    pub(super) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        let diagnostic = Diagnostic::new(&Error::invalid(code, message), "");
        Self::from_diagnostic(status, diagnostic)
    }

    /// The problem of an error in the statement `sql`.
    pub(super) fn of(error: &Error, sql: &str) -> Self {
        Self::from_diagnostic(status_of(error.kind), Diagnostic::new(error, sql))
    }

    /// Adds the reason.
    pub(super) fn because(mut self, reason: &str) -> Self {
        self.diagnostics.iter_mut().for_each(|found| found.reason = Some(reason.to_string()));
        self
    }

    /// Adds what to do.
    pub(super) fn help(mut self, help: &str) -> Self {
        self.diagnostics.iter_mut().for_each(|found| found.help = Some(help.to_string()));
        self
    }

    fn from_diagnostic(status: StatusCode, diagnostic: Diagnostic) -> Self {
        Self {
            problem_type: format!("urn:tidemill:error:{}", diagnostic.code).into(),
            title: status.canonical_reason().unwrap_or("error").into(),
            status: status.as_u16(),
            code: diagnostic.code.clone(),
            detail: diagnostic.message.clone(),
            diagnostics: vec![diagnostic],
        }
    }
}

/// The HTTP status of an error, by who must act.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unavailable | ErrorKind::Fenced => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem);
        response
    }
}
