//! How a verb fails: a diagnostic for people, an exit code for scripts.

use std::fmt::Display;
use std::io::{self, Write as _};

use tidemill_contract::{Error, ErrorKind};

use crate::config::ConfigError;
use crate::diagnostic::{Diagnostic, Paint};
use crate::routes::Problem;

/// Something failed while running.
const RUNTIME: u8 = 1;
/// Wrong usage of the command line.
pub(super) const USAGE: u8 = 2;
/// A broker, bucket or server does not answer.
const UNAVAILABLE: u8 = 69;
/// A bug of ours.
const SOFTWARE: u8 = 70;
/// Wrong SQL or configuration.
const CONFIG: u8 = 78;

/// Why a verb ended early.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    diagnostics: Vec<Diagnostic>,
    /// Name and text of the script or file the spans count in.
    source: (String, String),
}

impl Failure {
    /// Errors in a script.
    pub(super) fn in_script(errors: &[Error], name: &str, text: &str) -> Self {
        Self {
            code: errors.first().map_or(SOFTWARE, |error| code_of(error.kind)),
            diagnostics: errors.iter().map(|error| Diagnostic::new(error, text)).collect(),
            source: (name.to_string(), text.to_string()),
        }
    }

    /// A problem a server answered with, about the statement `sql`.
    pub(super) fn remote(problem: Problem, name: &str, sql: &str) -> Self {
        let code = match problem.status {
            400..=499 => CONFIG,
            500 => SOFTWARE,
            503 | 504 => UNAVAILABLE,
            _ => RUNTIME,
        };
        Self { code, diagnostics: problem.diagnostics, source: (name.to_string(), sql.to_string()) }
    }

    /// Wrong SQL that was reported on stdout already.
    pub(super) fn silent() -> Self {
        Self { code: CONFIG, diagnostics: Vec::new(), source: Default::default() }
    }

    /// What was looked for was found, and reported on stdout.
    pub(super) fn found() -> Self {
        Self { code: RUNTIME, diagnostics: Vec::new(), source: Default::default() }
    }

    /// A panic or another thing that cannot happen.
    pub(super) fn bug(error: &dyn Display) -> Self {
        Self::from(Error::internal(error.to_string()).help("please report it with this message"))
    }

    /// Prints the diagnostics to stderr and returns the exit code.
    #[must_use]
    pub(super) fn report(&self) -> u8 {
        let mut stderr = io::stderr().lock();
        let paint = Paint::for_stream(&stderr);
        let (name, text) = &self.source;
        for diagnostic in &self.diagnostics {
            // Nobody reads a closed stderr; the exit code still tells.
            writeln!(stderr, "{}", diagnostic.render(name, text, paint)).ok();
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(mut error: Error) -> Self {
        // A span without its text would point nowhere.
        error.span = None;
        Self::in_script(&[error], "", "")
    }
}

impl From<ConfigError> for Failure {
    fn from(ConfigError { error, file }: ConfigError) -> Self {
        match file {
            Some((path, text)) => Self::in_script(&[*error], &path.display().to_string(), &text),
            None => Self::from(*error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // `tidemill sql … | head` is not a failure.
            return Self { code: 0, diagnostics: Vec::new(), source: Default::default() };
        }
        let mut failure = Self::from(Error::unavailable("TM820", error.to_string()));
        failure.code = RUNTIME;
        failure
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => Self::from(error),
            Err(error) => {
                let mut failure = Self::from(Error::unavailable("TM820", format!("{error:#}")));
                failure.code = RUNTIME;
                failure
            }
        }
    }
}

/// The exit code of an error, by who must act.
fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict => CONFIG,
        ErrorKind::Unavailable => UNAVAILABLE,
        ErrorKind::Fenced | ErrorKind::Corrupt => RUNTIME,
        ErrorKind::Internal => SOFTWARE,
    }
}
