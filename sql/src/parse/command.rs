//! The short statements: `SHOW`, `EXPLAIN`, `DROP`, `RECOVER`.

use tidemill_contract::{Error, Result};

use super::cursor::{Cursor, refused};
use super::{Drop, ObjectKind, Recover, RecoverPoint, ShowKind, Statement};

/// What `SHOW` knows.
const SHOWN: &[(&str, ShowKind)] = &[
    ("SOURCES", ShowKind::Sources),
    ("VIEWS", ShowKind::Views),
    ("ALERTS", ShowKind::Alerts),
    ("SINKS", ShowKind::Sinks),
    ("JOBS", ShowKind::Jobs),
    ("LOSSES", ShowKind::Losses),
    ("TABLES", ShowKind::All),
];

/// What `DROP` knows.
const DROPPED: &[(&str, ObjectKind)] = &[
    ("SOURCE", ObjectKind::Source),
    ("TABLE", ObjectKind::Source),
    ("VIEW", ObjectKind::View),
    ("ALERT", ObjectKind::Alert),
    ("SINK", ObjectKind::Sink),
];

/// Reads what follows `SHOW`.
pub(super) fn show(cursor: &mut Cursor<'_>) -> Result<ShowKind> {
    if cursor.eat("MATERIALIZED") {
        cursor.expect("VIEWS")?;
        return Ok(ShowKind::Views);
    }
    for (word, kind) in SHOWN {
        if cursor.eat(word) {
            return Ok(*kind);
        }
    }
    let words: Vec<&str> = SHOWN.iter().map(|(word, _)| *word).chain(["DEAD"]).collect();
    Err(cursor.expected_one_of(&words))
}

/// Reads what follows `EXPLAIN`.
pub(super) fn explain(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let span = cursor.span();
    for word in ["ANALYZE", "VERBOSE", "FORMAT"] {
        if cursor.is_word(0, word) {
            return Err(refused(format!("EXPLAIN {word} is not supported"), span)
                .help("write EXPLAIN and the statement"));
        }
    }
    if cursor.eat("STALL") {
        return Ok(Statement::ExplainStall(cursor.reference("the view")?));
    }
    if cursor.at_end() {
        return Err(cursor.expected("a statement to explain"));
    }
    let inner = super::parse_plain(cursor)?;
    if matches!(
        inner,
        Statement::Select(_)
            | Statement::CreateView(_)
            | Statement::CreateSink(_)
            | Statement::InsertInto(_)
            | Statement::CreateSource(_)
            | Statement::CreateAlert(_)
            | Statement::ReplayDead(_)
    ) {
        return Ok(Statement::Explain(Box::new(inner)));
    }
    Err(Error::invalid("TM102", "this statement has no plan to explain")
        .at(Some(span))
        .help("EXPLAIN takes a SELECT, INSERT, CREATE or REPLAY"))
}

/// Reads what follows `DROP`.
pub(super) fn drop_object(cursor: &mut Cursor<'_>) -> Result<Drop> {
    let kind = if cursor.eat("MATERIALIZED") {
        cursor.expect("VIEW")?;
        ObjectKind::View
    } else {
        let found = DROPPED.iter().find(|(word, _)| cursor.is_word(0, word));
        let Some((_, kind)) = found else {
            let words: Vec<&str> = DROPPED.iter().map(|(word, _)| *word).collect();
            return Err(cursor.expected_one_of(&words));
        };
        cursor.take();
        *kind
    };
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    let name = cursor.reference(&format!("the {kind}"))?;
    if cursor.is_word(0, "CASCADE") {
        return Err(refused("CASCADE is not supported", cursor.span())
            .because("dropping what depends on an object is a decision per object")
            .help("drop the objects that use it first"));
    }
    cursor.eat("RESTRICT");
    Ok(Drop { kind, name, if_exists })
}

/// Reads what follows `RECOVER`. From where is never left out: it decides what is lost.
pub(super) fn recover(cursor: &mut Cursor<'_>) -> Result<Recover> {
    if !cursor.eat("SOURCE") && !cursor.eat("TABLE") {
        return Err(cursor.expected_one_of(&["SOURCE"]));
    }
    let source = cursor.reference("the source")?;
    cursor.expect("FROM")?;
    let from = if cursor.eat("EARLIEST") {
        RecoverPoint::Earliest
    } else if cursor.eat("LATEST") {
        RecoverPoint::Latest
    } else {
        return Err(cursor.expected_one_of(&["EARLIEST", "LATEST"]));
    };
    Ok(Recover { source, from })
}
