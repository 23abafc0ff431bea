//! What can be done with the rows a source could not take: `SHOW DEAD [FROM source] [LIMIT n]` and
//! `REPLAY DEAD FROM source [WHERE condition] [WITH expression] [LIMIT n] [FORCE]`.
//!
//! Condition and expression are over the columns of `"source$dead"`. They become queries over a
//! table named [`DEAD_TABLE`], so that the engine plans them like any other; their parts keep their
//! places in the script. Which columns there are is not known here.

use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Result, Span};

use super::SelectQuery;
use super::cursor::{Cursor, refused};
use super::dialect::TidemillDialect;

/// The table that the queries of [`ReplayDead`] read.
pub const DEAD_TABLE: &str = "dead";
/// Its column with the number of each row, the first that the queries give.
pub const DEAD_ROW: &str = "n";

/// `SHOW DEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowDead {
    /// Of this source only.
    pub source: Option<String>,
    /// Most lines shown.
    pub limit: Option<usize>,
}

/// `REPLAY DEAD`.
#[derive(Debug, Clone)]
pub struct ReplayDead {
    /// The source whose rows are submitted again.
    pub source: String,
    /// `WHERE`: gives the number of each row that is meant.
    pub condition: Option<SelectQuery>,
    /// `WITH`: gives the number of each row and its new payload.
    pub transform: Option<SelectQuery>,
    /// `LIMIT`: most rows submitted.
    pub limit: Option<usize>,
    /// `FORCE`: also rows that were submitted before.
    pub force: bool,
}

/// Reads what follows `SHOW DEAD`.
pub(super) fn show(cursor: &mut Cursor<'_>) -> Result<ShowDead> {
    let source = if cursor.eat("FROM") { Some(cursor.reference("a source")?) } else { None };
    Ok(ShowDead { source, limit: limit(cursor)? })
}

/// Reads what follows `REPLAY`.
pub(super) fn replay(cursor: &mut Cursor<'_>) -> Result<ReplayDead> {
    cursor.expect("DEAD")?;
    cursor.expect("FROM")?;
    let source = cursor.reference("a source")?;
    let condition = if cursor.eat("WHERE") { Some(clause(cursor, filter)?) } else { None };
    let transform = if cursor.eat("WITH") { Some(clause(cursor, projection)?) } else { None };
    if transform.is_some() && cursor.is_word(0, "WHERE") {
        return Err(cursor.expected("WHERE before WITH"));
    }
    let limit = limit(cursor)?;
    let force = cursor.eat("FORCE");
    Ok(ReplayDead { source, condition, transform, limit, force })
}

fn limit(cursor: &mut Cursor<'_>) -> Result<Option<usize>> {
    if !cursor.eat("LIMIT") {
        return Ok(None);
    }
    match cursor.peek(0) {
        Token::Number(text, false) if text.parse::<usize>().is_ok_and(|limit| limit > 0) => {
            cursor.take();
            Ok(text.parse().ok())
        }
        _ => Err(cursor.expected("a number of rows above 0")),
    }
}

/// An expression as a query over the dead rows.
fn clause(
    cursor: &mut Cursor<'_>,
    place: fn(Expr) -> (Option<Expr>, Option<SelectItem>),
) -> Result<SelectQuery> {
    let start = cursor.position();
    let expression = cursor.expression()?;
    let (text, span) = cursor.text_since(start);
    if has_query(&expression) {
        return Err(refused("a query inside the expression is not supported", span)
            .because("the rows are looked at one by one, and there is no other table")
            .help("use the columns of the $dead table and scalar functions"));
    }
    query(place(expression), text, span)
}

fn filter(expression: Expr) -> (Option<Expr>, Option<SelectItem>) {
    (Some(expression), None)
}

fn projection(expression: Expr) -> (Option<Expr>, Option<SelectItem>) {
    (None, Some(SelectItem::UnnamedExpr(expression)))
}

fn query(
    (selection, item): (Option<Expr>, Option<SelectItem>),
    text: &str,
    span: Span,
) -> Result<SelectQuery> {
    let frame = format!("SELECT {DEAD_ROW} FROM {DEAD_TABLE}");
    let parsed = Parser::parse_sql(&TidemillDialect, &frame);
    let frame = parsed.ok().and_then(|mut statements| statements.pop());
    let Some(Statement::Query(mut ast)) = frame else {
        return Err(Error::internal("the frame of a query over dead rows does not parse"));
    };
    let SetExpr::Select(select) = ast.body.as_mut() else {
        return Err(Error::internal("the frame of a query over dead rows is no SELECT"));
    };
    select.selection = selection;
    select.projection.extend(item);
    Ok(SelectQuery { ast: *ast, text: text.to_owned(), offset: span.start })
}

fn has_query(expression: &Expr) -> bool {
    use datafusion::sql::sqlparser::ast::visit_expressions;
    use std::ops::ControlFlow;
    visit_expressions(expression, |part| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}
