//! A script to tokens: size limits, byte offsets, and the cut into statements.
//!
//! sqlparser counts lines and characters; everything else here counts bytes. The tokens are
//! therefore relocated once, to "line 1, column byte offset + 1", and from then on every span in
//! every AST and in every sqlparser message is a byte offset into the script.

use datafusion::sql::sqlparser::tokenizer::{
    Location, Span as TokenSpan, Token, TokenWithSpan, Tokenizer,
};
use tidemill_contract::{Error, Result, Span};

use super::dialect::TidemillDialect;

/// Longest script: far beyond what people write, far below what hurts.
pub const MAX_SCRIPT_BYTES: usize = 256 * 1024;
/// Most tokens of one statement. Bounds the depth of a chain such as `1 + 1 + …`, whose tree is
/// as deep as it is long and is dropped recursively.
pub const MAX_STATEMENT_TOKENS: usize = 10_000;
/// Most bytes of the quoted texts of one statement.
const MAX_CONSTANT_BYTES: usize = 128 * 1024;
/// Most joins and set operations of one statement: their plans nest.
const MAX_RELATIONS: usize = 64;

/// The byte range of a span of an AST made by [`super::parse_script`], `None` if the node has none.
pub fn byte_span(span: TokenSpan) -> Option<Span> {
    if span.start.line == 0 || span.start.column == 0 {
        return None;
    }
    let start = to_byte(span.start);
    Some(Span { start, end: to_byte(span.end).max(start) })
}

/// The tokens of each statement, without white space and comments, located by byte.
pub(super) fn split(sql: &str) -> Result<Vec<Vec<TokenWithSpan>>> {
    if sql.len() > MAX_SCRIPT_BYTES {
        return Err(Error::invalid(
            "TM100",
            format!("the script has {} bytes, more than {MAX_SCRIPT_BYTES}", sql.len()),
        )
        .help("split it into several scripts"));
    }
    let tokens = tokenize(sql)?;
    let mut statements = Vec::new();
    let mut current = Vec::new();
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => {}
            // The byte order mark some editors begin a file with.
            Token::Char('\u{feff}') if to_byte(token.span.start) == 0 => {}
            Token::SemiColon => statements.push(std::mem::take(&mut current)),
            _ => current.push(token),
        }
    }
    statements.push(current);
    statements.retain(|statement| !statement.is_empty());
    for statement in &statements {
        check_limits(statement)?;
    }
    Ok(statements)
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let mut walker = Walker { text: sql, line: 1, column: 1, byte: 0 };
    let tokens = Tokenizer::new(&TidemillDialect, sql).tokenize_with_location();
    let mut tokens = tokens.map_err(|error| {
        let start = walker.byte_at(error.location);
        let length = sql[start..].chars().next().map_or(0, char::len_utf8);
        Error::invalid("TM101", lowercase_first(&error.message))
            .at(Some(Span { start, end: start + length }))
            .help("check that every quote and comment is closed")
    })?;
    for token in &mut tokens {
        let start = walker.byte_at(token.span.start);
        let end = walker.byte_at(token.span.end);
        token.span = TokenSpan::new(from_byte(start), from_byte(end));
    }
    Ok(tokens)
}

fn check_limits(statement: &[TokenWithSpan]) -> Result<()> {
    let span = statement.first().and_then(|token| byte_span(token.span));
    if statement.len() > MAX_STATEMENT_TOKENS {
        return Err(Error::invalid(
            "TM100",
            format!("the statement has more than {MAX_STATEMENT_TOKENS} tokens"),
        )
        .at(span)
        .help("make it shorter, for example with views over views"));
    }
    let mut relations = 0;
    let mut constants = 0;
    for token in statement {
        match &token.token {
            Token::SingleQuotedString(text) => constants += text.len(),
            Token::Word(word) if word.quote_style.is_none() => {
                let word = word.value.to_ascii_uppercase();
                if matches!(word.as_str(), "JOIN" | "UNION" | "EXCEPT" | "INTERSECT" | "MINUS") {
                    relations += 1;
                }
            }
            Token::Placeholder(name) => {
                return Err(Error::invalid("TM101", format!("parameter '{name}' has no value"))
                    .at(byte_span(token.span))
                    .because("statements take no parameters")
                    .help("write the value itself"));
            }
            _ => {}
        }
    }
    if constants > MAX_CONSTANT_BYTES {
        return Err(Error::invalid(
            "TM100",
            format!("the texts in the statement have more than {MAX_CONSTANT_BYTES} bytes"),
        )
        .at(span)
        .because("a text is repeated for every row it is computed with")
        .help("make them shorter"));
    }
    if relations > MAX_RELATIONS {
        return Err(Error::invalid(
            "TM100",
            format!("the statement has more than {MAX_RELATIONS} joins and set operations"),
        )
        .at(span)
        .help("split it with views over views"));
    }
    Ok(())
}

/// Walks the text once, in step with the tokens.
struct Walker<'a> {
    text: &'a str,
    line: u64,
    column: u64,
    byte: usize,
}

impl Walker<'_> {
    /// The byte at a location that is not before the last one asked for.
    fn byte_at(&mut self, location: Location) -> usize {
        while (self.line, self.column) < (location.line, location.column) {
            let Some(character) = self.text[self.byte..].chars().next() else {
                break;
            };
            self.byte += character.len_utf8();
            if character == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.byte
    }
}

fn from_byte(byte: usize) -> Location {
    Location::new(1, byte as u64 + 1)
}

fn to_byte(location: Location) -> usize {
    usize::try_from(location.column.saturating_sub(1)).unwrap_or(usize::MAX)
}

pub(super) fn lowercase_first(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
