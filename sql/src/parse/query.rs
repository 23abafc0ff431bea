//! Queries: sqlparser's AST plus the text it came from, checked for what no query may hold.
//!
//! Data changes, locks and `INTO` inside a query are refused here, and so are expression trees so
//! deep that later recursive passes could exhaust a thread's stack, and queries larger than
//! [`super::limits`] allows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, SetExpr, Statement, Visit, Visitor,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Result};

use super::cursor::{Cursor, refused};
use super::limits::{Limits, flow};

/// Deepest expression tree; `a OR b OR c` is as deep as it is long.
const MAX_EXPRESSION_DEPTH: usize = 128;

/// A query and its text. Spans in the AST are byte offsets into the script (see
/// [`super::byte_span`]).
#[derive(Debug, Clone)]
pub struct SelectQuery {
    /// The query, without `EMIT`.
    pub ast: Query,
    /// Its text. For `CREATE SINK … FROM view` it is `SELECT * FROM view`.
    pub text: String,
    /// Byte offset of the text in the script.
    pub offset: usize,
}

/// True if the next tokens begin a query.
pub(super) fn starts_query(cursor: &Cursor<'_>) -> bool {
    let is_parenthesis = cursor.peek(0) == Token::LParen;
    is_parenthesis || ["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.is_word(0, word))
}

/// Reads a query that stands alone.
pub(super) fn select(cursor: &mut Cursor<'_>) -> Result<SelectQuery> {
    super::late::refuse(cursor)?;
    cut_emit(cursor)?;
    read(cursor)
}

/// Reads the query that defines a view or a sink, after `AS`.
pub(super) fn definition(cursor: &mut Cursor<'_>) -> Result<SelectQuery> {
    if !starts_query(cursor) {
        return Err(cursor.expected_one_of(&["SELECT", "WITH"]));
    }
    super::late::refuse(cursor)?;
    cut_emit(cursor)?;
    read(cursor)
}

fn read(cursor: &mut Cursor<'_>) -> Result<SelectQuery> {
    let start = cursor.position();
    let ast = *cursor.parse(Parser::parse_query)?;
    let (text, span) = cursor.text_since(start);
    // sqlparser's own spans are found by recursion: not before the depth is known to be bounded.
    verdict(ast.visit(&mut Checker::default())).map_err(|error| error.at(Some(span)))?;
    Ok(SelectQuery { ast, text: text.to_owned(), offset: span.start })
}

/// Takes a trailing `EMIT …` off, so that sqlparser does not read `EMIT` as an alias.
fn cut_emit(cursor: &mut Cursor<'_>) -> Result<()> {
    let mut depth = 0_usize;
    let mut found = None;
    for (index, token) in cursor.tokens().iter().enumerate().skip(cursor.position()) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(word)
                if depth == 0
                    && word.quote_style.is_none()
                    && word.value.eq_ignore_ascii_case("EMIT") =>
            {
                found = Some(index);
            }
            _ => {}
        }
    }
    let Some(index) = found else { return Ok(()) };
    let clause = emit_clause(cursor, index);
    if clause.is_empty() {
        return Ok(());
    }
    let here = cursor.position();
    if clause.join(" ") != "ON WINDOW CLOSE" {
        cursor.jump(index);
        let error = refused(format!("EMIT {} is not supported", clause.join(" ")), cursor.span());
        return Err(error
            .because("a view's rows become final when their window closes and never change again")
            .help("write EMIT ON WINDOW CLOSE, or leave it out: it is the default"));
    }
    cursor.jump(here);
    cursor.cut(index);
    Ok(())
}

/// The words after `EMIT` up to the end of the statement, upper case; empty if it is no clause.
fn emit_clause(cursor: &Cursor<'_>, index: usize) -> Vec<String> {
    let mut words = Vec::new();
    for token in cursor.tokens().iter().skip(index + 1) {
        match &token.token {
            Token::Word(word) if word.quote_style.is_none() => {
                words.push(word.value.to_ascii_uppercase());
            }
            Token::SingleQuotedString(_) | Token::Number(..) => words.push("…".to_owned()),
            _ => return Vec::new(),
        }
    }
    let known = ["ON", "CHANGES", "FINAL", "AFTER", "EVERY", "WITH"];
    let is_clause = words.first().is_some_and(|first| known.contains(&first.as_str()));
    if is_clause { words } else { Vec::new() }
}

/// Refuses expressions that are too deep or hold what no query may hold.
pub(super) fn check_expression(expression: &Expr) -> Result<()> {
    verdict(expression.visit(&mut Checker::default()))
}

fn verdict(flow: ControlFlow<Error>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

#[derive(Default)]
struct Checker {
    depth: usize,
    limits: Limits,
}

impl Visitor for Checker {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let changes_data = matches!(
            query.body.as_ref(),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        );
        if changes_data {
            return ControlFlow::Break(no_changes());
        }
        let is_locking = !query.locks.is_empty() || query.for_clause.is_some();
        if is_locking || query.settings.is_some() || query.format_clause.is_some() {
            let error = Error::invalid("TM109", "a query cannot lock, format or change settings");
            return ControlFlow::Break(error.help("remove the clause after the query"));
        }
        flow(self.limits.enter(query))
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Error> {
        flow(self.limits.leave())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Error> {
        self.limits.relation(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        if select.into.is_none() {
            return flow(self.limits.select(select));
        }
        let error = Error::invalid("TM109", "SELECT INTO is not supported")
            .help("write INSERT INTO table SELECT …, or CREATE MATERIALIZED VIEW");
        ControlFlow::Break(error)
    }

    fn pre_visit_statement(&mut self, _statement: &Statement) -> ControlFlow<Error> {
        ControlFlow::Break(no_changes())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        self.depth += 1;
        // `a[1][2]` and `a.b.c` are flat here but nest when planned.
        let steps = match expr {
            Expr::CompoundFieldAccess { access_chain, .. } => access_chain.len(),
            Expr::CompoundIdentifier(parts) => parts.len(),
            _ => 0,
        };
        if self.depth + steps <= MAX_EXPRESSION_DEPTH {
            return flow(self.limits.expression(expr));
        }
        let error = Error::invalid("TM100", "the expression is nested too deeply")
            .because(format!("chains count too: at most {MAX_EXPRESSION_DEPTH} levels are read"))
            .help("write x IN (…) for many comparisons, or split the query with views");
        ControlFlow::Break(error)
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<Error> {
        self.depth = self.depth.saturating_sub(1);
        ControlFlow::Continue(())
    }
}

fn no_changes() -> Error {
    Error::invalid("TM109", "a query cannot change data")
        .help("use INSERT INTO table SELECT … as a statement of its own")
}
