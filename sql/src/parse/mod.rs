//! SQL text to statements: the dialect, one file per statement family, errors that point at the
//! text.
//!
//! The parser is a thin layer over sqlparser's: statements of ours are read token by token here,
//! expressions and queries are sqlparser's own AST, in a dialect that also knows `TABLE orders` as
//! an argument. No text is ever rewritten, so every token keeps its place: token locations are
//! byte offsets into the script (see [`byte_span`]).
//!
//! It never looks at a catalog, never plans, never touches a file, and refuses whatever it does
//! not know: `COPY`, `SET`, `CREATE EXTERNAL TABLE`, `UPDATE` and the like are errors.

mod alert;
mod command;
mod cursor;
mod dead;
mod dialect;
mod duration;
mod late;
mod limits;
mod options;
mod query;
mod script;
mod sink;
mod source;
mod suggest;
mod types;
mod view;
mod window_call;

use datafusion::sql::sqlparser::ast::Expr;
use tidemill_contract::{Result, Severity, SinkSpec, SourceSpec, Span};

pub use dead::{DEAD_ROW, DEAD_TABLE, ReplayDead, ShowDead};
pub use dialect::TidemillDialect;
pub use duration::{Interval, parse_interval};
pub use late::{Late, LateClause};
pub use query::SelectQuery;
pub use script::{MAX_SCRIPT_BYTES, MAX_STATEMENT_TOKENS, byte_span};
pub use suggest::closest;
pub use window_call::{WindowCall, window_call};

use cursor::Cursor;

/// One statement of a script.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it says.
    pub statement: Statement,
    /// Its text, without surrounding white space and semicolon.
    pub text: String,
    /// Byte offset of the text in the script.
    pub offset: usize,
}

/// A statement of the dialect.
#[derive(Debug, Clone)]
pub enum Statement {
    /// `CREATE SOURCE | TABLE … WITH (…)`.
    CreateSource(CreateSource),
    /// `CREATE MATERIALIZED VIEW … AS SELECT …`.
    CreateView(CreateView),
    /// `CREATE ALERT … ON … WHEN …`.
    CreateAlert(CreateAlert),
    /// `CREATE SINK … WITH (…) AS SELECT …`.
    CreateSink(CreateSink),
    /// `INSERT INTO … SELECT …`.
    InsertInto(InsertInto),
    /// `SHOW …`.
    Show(ShowKind),
    /// `SHOW DEAD …`.
    ShowDead(ShowDead),
    /// `REPLAY DEAD FROM …`.
    ReplayDead(Box<ReplayDead>),
    /// `DESCRIBE name`.
    Describe(String),
    /// `EXPLAIN statement`.
    Explain(Box<Statement>),
    /// `EXPLAIN STALL view`: why its next window is still open.
    ExplainStall(String),
    /// `DROP kind name`.
    Drop(Drop),
    /// `PAUSE name`.
    Pause(String),
    /// `RESUME name`.
    Resume(String),
    /// `RECOVER SOURCE name FROM EARLIEST | LATEST`.
    Recover(Recover),
    /// `SELECT …`, `WITH …`, `VALUES …`.
    Select(SelectQuery),
}

/// `CREATE SOURCE` and `CREATE TABLE`: also declares the table an `INSERT INTO` writes to.
#[derive(Debug, Clone)]
pub struct CreateSource {
    /// The declaration. Computed columns have the type `Null` until they are planned.
    pub spec: SourceSpec,
    /// Do nothing if the name is taken.
    pub if_not_exists: bool,
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Name.
    pub name: String,
    /// Definition, without the `EMIT` and `LATE` clauses.
    pub query: SelectQuery,
    /// What becomes of late rows.
    pub late: LateClause,
    /// Do nothing if the name is taken.
    pub if_not_exists: bool,
}

/// `CREATE ALERT`.
#[derive(Debug, Clone)]
pub struct CreateAlert {
    /// The declaration.
    pub spec: AlertSpec,
    /// Do nothing if the name is taken.
    pub if_not_exists: bool,
}

/// A declared alert.
#[derive(Debug, Clone)]
pub struct AlertSpec {
    /// Name.
    pub name: String,
    /// The view it watches.
    pub view: String,
    /// `WHEN`.
    pub condition: Expr,
    /// `WHEN`, as written.
    pub condition_text: String,
    /// `FOR n WINDOWS`; 1 if not given.
    pub for_windows: u32,
    /// `BY`; empty: all rows of a window are one key.
    pub by: Vec<String>,
    /// `SEVERITY`; warning if not given.
    pub severity: Severity,
    /// `NOTIFY`: names of channels.
    pub notify: Vec<String>,
    /// Place of the condition in the script.
    pub span: Option<Span>,
}

/// `CREATE SINK`.
#[derive(Debug, Clone)]
pub struct CreateSink {
    /// The declaration.
    pub spec: SinkSpec,
    /// What flows into it.
    pub query: SelectQuery,
    /// Do nothing if the name is taken.
    pub if_not_exists: bool,
}

/// `INSERT INTO`.
#[derive(Debug, Clone)]
pub struct InsertInto {
    /// The table written to.
    pub table: String,
    /// What flows into it.
    pub query: SelectQuery,
}

/// `DROP`.
#[derive(Debug, Clone)]
pub struct Drop {
    /// What kind of object.
    pub kind: ObjectKind,
    /// Name.
    pub name: String,
    /// Do nothing if there is none.
    pub if_exists: bool,
}

/// `RECOVER SOURCE`: accepts a loss of log data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recover {
    /// The source.
    pub source: String,
    /// From where its jobs go on.
    pub from: RecoverPoint,
}

/// From where a source is read on after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverPoint {
    /// The first record that was not read.
    Earliest,
    /// The log's end.
    Latest,
}

/// The kinds of named objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A source or sink table.
    Source,
    /// A materialized view.
    View,
    /// An alert.
    Alert,
    /// A sink.
    Sink,
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::View => "view",
            Self::Alert => "alert",
            Self::Sink => "sink",
        })
    }
}

/// What `SHOW` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShowKind {
    /// `SHOW SOURCES`.
    Sources,
    /// `SHOW VIEWS`.
    Views,
    /// `SHOW ALERTS`.
    Alerts,
    /// `SHOW SINKS`.
    Sinks,
    /// `SHOW JOBS`.
    Jobs,
    /// `SHOW LOSSES`: lost ranges of the log.
    Losses,
    /// `SHOW TABLES`: everything with rows.
    All,
}

/// Reads a script of statements separated by semicolons. Spans of errors are byte ranges of `sql`.
///
/// # Errors
/// `TM100` for a script or statement beyond the limits, `TM101` for a syntax error, `TM102` for a
/// statement that is not part of the dialect, and the codes of the statement families.
pub fn parse_script(sql: &str) -> Result<Vec<Parsed>> {
    let mut parsed = Vec::new();
    for tokens in script::split(sql)? {
        let mut cursor = Cursor::new(sql, tokens)?;
        let (offset, end) = cursor.extent();
        let statement = parse_statement(&mut cursor)?;
        cursor.finish()?;
        parsed.push(Parsed { statement, text: sql[offset..end].to_owned(), offset });
    }
    Ok(parsed)
}

/// First words of statements, for suggestions.
const VERBS: &[&str] = &[
    "CREATE", "DROP", "SHOW", "DESCRIBE", "EXPLAIN", "PAUSE", "RESUME", "REPLAY", "RECOVER",
    "INSERT", "SELECT", "WITH",
];

fn parse_statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat("EXPLAIN") {
        return command::explain(cursor);
    }
    parse_plain(cursor)
}

/// Any statement but `EXPLAIN`.
fn parse_plain(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let span = cursor.span();
    if query::starts_query(cursor) {
        return query::select(cursor).map(Statement::Select);
    }
    let Some(verb) = cursor.take_word() else {
        return Err(cursor.expected("a statement").help(statement_help()));
    };
    match verb.to_ascii_uppercase().as_str() {
        "CREATE" => parse_create(cursor, span),
        "INSERT" => sink::insert(cursor).map(Statement::InsertInto),
        "SHOW" if cursor.eat("DEAD") => dead::show(cursor).map(Statement::ShowDead),
        "REPLAY" => dead::replay(cursor).map(|replay| Statement::ReplayDead(Box::new(replay))),
        "SHOW" => command::show(cursor).map(Statement::Show),
        "DESCRIBE" | "DESC" => cursor.reference("an object").map(Statement::Describe),
        "DROP" => command::drop_object(cursor).map(Statement::Drop),
        "PAUSE" => cursor.reference("a view or sink").map(Statement::Pause),
        "RESUME" => cursor.reference("a view or sink").map(Statement::Resume),
        "RECOVER" => command::recover(cursor).map(Statement::Recover),
        other => Err(unsupported(other, span, VERBS, &statement_help())),
    }
}

/// Kinds that `CREATE` and `DROP` know, for suggestions.
const CREATABLE: &[&str] = &["SOURCE", "TABLE", "MATERIALIZED", "VIEW", "ALERT", "SINK"];

fn parse_create(cursor: &mut Cursor<'_>, start: Span) -> Result<Statement> {
    let span = cursor.span();
    if cursor.eat_all(&["OR", "REPLACE"]) {
        return Err(cursor::refused("OR REPLACE is not supported", cursor::cover(start, span))
            .because("replacing a running query would silently drop its state")
            .help("DROP the object first, or create one under a new name"));
    }
    let Some(kind) = cursor.take_word() else {
        return Err(cursor.expected("what to create").help(create_help()));
    };
    match kind.to_ascii_uppercase().as_str() {
        "SOURCE" | "TABLE" => source::create(cursor).map(Statement::CreateSource),
        "MATERIALIZED" => view::create(cursor).map(Statement::CreateView),
        "VIEW" => Err(cursor::refused("a plain view is not supported", span)
            .because("every view is kept up to date in the bucket")
            .help("write CREATE MATERIALIZED VIEW")),
        "ALERT" => alert::create(cursor).map(Statement::CreateAlert),
        "SINK" => sink::create(cursor).map(Statement::CreateSink),
        other => Err(unsupported(&format!("CREATE {other}"), span, CREATABLE, &create_help())),
    }
}

fn unsupported(what: &str, span: Span, known: &[&str], help: &str) -> tidemill_contract::Error {
    let word = what.rsplit(' ').next().unwrap_or(what);
    let error =
        tidemill_contract::Error::invalid("TM102", format!("{what} is not a known statement"))
            .at(Some(span));
    match closest(word, known) {
        Some(candidate) => error.help(format!("did you mean {candidate}?")),
        None => error.help(help),
    }
}

fn statement_help() -> String {
    format!("statements begin with {}", VERBS.join(", "))
}

fn create_help() -> String {
    "CREATE makes a SOURCE, TABLE, MATERIALIZED VIEW, ALERT or SINK".to_owned()
}
