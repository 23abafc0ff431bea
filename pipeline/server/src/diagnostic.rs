//! Errors as people and programs see them: one shape for the terminal, `--json` and HTTP.
//!
//! The terminal form follows rustc: code, message, `file:line:column`, the source line with carets,
//! `= reason`, `= help`. It never prints what is not in the error or in the user's own SQL text.

use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Span};

/// One error in the words of the SQL text it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Stable code such as `TM101`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// Byte range `[start, end)` in the text.
    pub span: Option<Span>,
    /// Line of the span's start, from 1.
    pub line: Option<usize>,
    /// Column of the span's start in characters, from 1.
    pub column: Option<usize>,
    /// Why it is so.
    pub reason: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// The diagnostic of an error in `text` (the whole script its span counts from).
    #[must_use]
    pub fn new(error: &Error, text: &str) -> Self {
        let place = error.span.map(|span| place(text, span.start));
        Self {
            code: error.code.to_string(),
            message: error.message.clone(),
            span: error.span,
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            reason: error.reason.clone(),
            help: error.help.clone(),
        }
    }

    /// The terminal form; `name` is the file's name, `text` its content.
    #[must_use]
    pub fn render(&self, name: &str, text: &str, paint: Paint) -> String {
        let mut out = paint.red(&format!("error[{}]", self.code));
        out.push_str(&paint.bold(&format!(": {}", self.message)));
        let mut gutter = 1;
        if let Some(span) = self.span.filter(|span| span.start <= text.len()) {
            let (line, column) = place(text, span.start);
            gutter = line.to_string().len();
            let (arrow, bar) = (paint.blue("-->"), paint.blue("|"));
            let number = paint.blue(&line.to_string());
            let (source, carets) = underline(text, span);
            let carets = paint.red(&carets);
            let empty = " ".repeat(gutter);
            out.push_str(&format!("\n{empty}{arrow} {name}:{line}:{column}\n{empty} {bar}"));
            out.push_str(&format!("\n{number} {bar} {source}\n{empty} {bar} {carets}"));
        }
        for (label, note) in [("reason", &self.reason), ("help", &self.help)] {
            if let Some(note) = note {
                let note = note.replace('\n', &format!("\n{:gutter$}   ", ""));
                out.push_str(&format!("\n{:gutter$} {} {label}: {note}", "", paint.blue("=")));
            }
        }
        out
    }
}

/// Line and column (both from 1, the column in characters) of a byte position.
fn place(text: &str, at: usize) -> (usize, usize) {
    let head = head(text, at);
    let line = head.matches('\n').count() + 1;
    let column = head.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The text before `at`, cut back to a character boundary.
fn head(text: &str, at: usize) -> &str {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The source line of a span and the carets below it; a span over several lines is cut at the
/// end of its first.
fn underline(text: &str, span: Span) -> (String, String) {
    let before = head(text, span.start);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(start..).unwrap_or_default();
    let source = rest.split('\n').next().unwrap_or_default().trim_end();
    let indent = before.get(start..).unwrap_or_default();
    let marked = source.get(indent.len()..).unwrap_or_default();
    let inside = head(marked, span.end.saturating_sub(before.len()));
    // Tabs are kept in the padding so that the carets stand below what they mean.
    let padding: String = indent.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    (source.to_string(), format!("{padding}{}", "^".repeat(inside.chars().count().max(1))))
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Escape sequences allowed.
    Colour,
    /// Plain text.
    Plain,
}

impl Paint {
    /// Colour only on a terminal, and never against `NO_COLOR`.
    #[must_use]
    pub fn for_stream(stream: &impl std::io::IsTerminal) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !forbidden { Self::Colour } else { Self::Plain }
    }
    /// Bold text.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    /// Faint text.
    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }
    /// Bold red text.
    #[must_use]
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    /// Bold blue text.
    #[must_use]
    pub fn blue(self, text: &str) -> String {
        self.wrap("1;34", text)
    }
    /// Bold green text.
    #[must_use]
    pub fn green(self, text: &str) -> String {
        self.wrap("1;32", text)
    }
    fn wrap(self, style: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{style}m{text}\x1b[0m"),
            Self::Plain => text.to_string(),
        }
    }
}
