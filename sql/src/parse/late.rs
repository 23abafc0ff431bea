//! The last clause of a view: `LATE DROP | LATE TO name | LATE REVISE FOR interval`.
//!
//! It stands behind the query (and behind `EMIT ON WINDOW CLOSE`), where sqlparser would read
//! `LATE` as an alias: so it is found from the end, read, and cut off before the query is parsed.
//! A column or table that is named `late` stays what it is.

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Micros, Result, Span};

use super::cursor::{Cursor, cover, refused};
use super::duration::parse_interval;
use super::suggest::closest;

/// Words that follow `LATE`.
const ACTIONS: &[&str] = &["DROP", "TO", "REVISE"];

/// What becomes of rows that come when their window is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Late {
    /// They are kept in `<source>$late`.
    #[default]
    Keep,
    /// They are counted and not kept.
    Drop,
    /// They are kept in the topic and relation of this name.
    To(String),
    /// For so long after its end a window is computed anew; later rows are kept.
    Revise(Micros),
}

/// A `LATE` clause and its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LateClause {
    /// What it says.
    pub late: Late,
    /// Where it stands; `None` if it is not there.
    pub span: Option<Span>,
}

/// Takes a trailing `LATE …` off the statement.
pub(super) fn cut(cursor: &mut Cursor<'_>) -> Result<LateClause> {
    let Some(index) = find(cursor) else { return Ok(LateClause::default()) };
    let here = cursor.position();
    cursor.jump(index);
    let late = read(cursor)?;
    let (_, span) = cursor.text_since(index);
    if cursor.is_word(0, "EMIT") {
        return Err(cursor
            .expected("the end of the statement")
            .help("write EMIT ON WINDOW CLOSE before LATE"));
    }
    cursor.finish()?;
    cursor.jump(here);
    cursor.cut(index);
    Ok(LateClause { late, span: Some(span) })
}

/// Refuses a `LATE` clause where there is no view.
pub(super) fn refuse(cursor: &Cursor<'_>) -> Result<()> {
    let Some(span) = find(cursor).and_then(|index| cursor.span_of(index)) else { return Ok(()) };
    Err(refused("LATE is a clause of CREATE MATERIALIZED VIEW", span)
        .help("register a view with it, or remove the clause"))
}

/// Index of the last unquoted `LATE` outside parentheses that begins a clause.
fn find(cursor: &Cursor<'_>) -> Option<usize> {
    let tokens = cursor.tokens();
    let word = |index: usize| match tokens.get(index).map(|token| &token.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => Some(word.value.as_str()),
        _ => None,
    };
    let mut depth = 0_usize;
    let mut found = None;
    for (index, token) in tokens.iter().enumerate().skip(cursor.position()) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if depth == 0
                && word(index).is_some_and(|word| word.eq_ignore_ascii_case("LATE"))
                && word(index + 1).is_some_and(is_action) =>
            {
                found = Some(index);
            }
            _ => {}
        }
    }
    found
}

/// An action, or one that is misspelled; `late GROUP BY` is a table named `late`.
fn is_action(word: &str) -> bool {
    let is_known = ACTIONS.iter().any(|action| action.eq_ignore_ascii_case(word));
    is_known || (word.len() > 4 && closest(word, &["REVISE"]).is_some())
}

fn read(cursor: &mut Cursor<'_>) -> Result<Late> {
    cursor.expect("LATE")?;
    if cursor.eat("DROP") {
        return Ok(Late::Drop);
    }
    if cursor.eat("TO") {
        return cursor.new_name("a topic of late rows").map(Late::To);
    }
    if !cursor.eat("REVISE") {
        return Err(cursor.expected_one_of(ACTIONS));
    }
    cursor.expect("FOR")?;
    if cursor.at_end() {
        return Err(cursor.expected("an interval").help("write FOR INTERVAL '1' HOUR"));
    }
    let start = cursor.position();
    let expression = cursor.expression()?;
    let (_, span) = cursor.text_since(start);
    horizon(&expression, span).map(Late::Revise)
}

fn horizon(expression: &Expr, span: Span) -> Result<Micros> {
    let interval = parse_interval(expression)?;
    if interval.months == 0 && interval.micros > 0 {
        return Ok(interval.micros);
    }
    Err(Error::invalid("TM127", "a view cannot be revised for this long")
        .at(Some(cover(span, span)))
        .because("the time must be above zero and of a fixed length")
        .help("use seconds, minutes, hours or days"))
}
