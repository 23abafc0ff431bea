//! A cursor over one statement's tokens: sqlparser's parser plus words that are no keywords of its
//! own, names, places and errors.
//!
//! It never skips a token silently; [`Cursor::finish`] refuses what is left over.

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use tidemill_contract::{Error, Result, Span};

use super::dialect::TidemillDialect;
use super::script::{byte_span, lowercase_first};
use super::suggest::closest;

/// How deep expressions and queries may nest: what fits a 2 MiB stack several times over.
const MAX_NESTING: usize = 50;
/// Longest name of an object or column: names become topics, folders and file columns.
const MAX_NAME_BYTES: usize = 128;

/// Words that clauses begin with, for suggestions at a syntax error.
const CLAUSES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "UNION",
    "JOIN",
    "WITH",
    "WHEN",
    "WINDOWS",
    "SEVERITY",
    "NOTIFY",
    "EMIT",
    "METADATA",
    "WATERMARK",
    "VIEW",
    "EXISTS",
    "INTERVAL",
    "VALUES",
    "DISTINCT",
    "BETWEEN",
    "CLOSE",
];

/// The tokens of one statement and a position in them.
pub(super) struct Cursor<'a> {
    script: &'a str,
    parser: Parser<'static>,
    tokens: Vec<TokenWithSpan>,
    /// Byte ranges of all tokens, also of those cut off the end.
    spans: Vec<Span>,
    /// Number of tokens the parser has.
    length: usize,
    /// Number of tokens consumed.
    position: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor before the first token.
    pub(super) fn new(script: &'a str, tokens: Vec<TokenWithSpan>) -> Result<Self> {
        let mut spans = Vec::with_capacity(tokens.len());
        for token in &tokens {
            let span = byte_span(token.span)
                .ok_or_else(|| Error::internal("a token of the script has no place"))?;
            spans.push(span);
        }
        let length = tokens.len();
        let parser = new_parser(tokens.clone());
        Ok(Self { script, parser, tokens, spans, length, position: 0 })
    }

    /// Byte range of the whole statement.
    pub(super) fn extent(&self) -> (usize, usize) {
        let start = self.spans.first().map_or(0, |span| span.start);
        (start, self.spans.last().map_or(start, |span| span.end))
    }

    /// Place of the next token; at the end, of the last one.
    pub(super) fn span(&self) -> Span {
        let last = self.spans.len().saturating_sub(1);
        self.spans.get(self.position.min(last)).copied().unwrap_or(Span { start: 0, end: 0 })
    }

    /// Place of the token at `index`.
    pub(super) fn span_of(&self, index: usize) -> Option<Span> {
        self.spans.get(index).copied()
    }

    /// Place of the token consumed last.
    pub(super) fn last_span(&self) -> Span {
        self.spans.get(self.position.saturating_sub(1)).copied().unwrap_or(self.span())
    }

    /// Text and place from the token at `start` (a value of [`Self::position`]) to the last one.
    pub(super) fn text_since(&self, start: usize) -> (&'a str, Span) {
        let first = self.spans.get(start).copied().unwrap_or(self.span());
        let span = cover(first, self.last_span());
        (&self.script[span.start..span.end], span)
    }

    /// Number of tokens consumed.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// True when nothing is left.
    pub(super) fn at_end(&self) -> bool {
        self.position >= self.length
    }

    /// The token `ahead` tokens after the next one.
    pub(super) fn peek(&self, ahead: usize) -> Token {
        self.parser.peek_nth_token(ahead).token
    }

    /// True if the unquoted word `ahead` tokens after the next one is `word` (upper case).
    pub(super) fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.peek(ahead), Token::Word(found) if is(&found, word))
    }

    /// Consumes the next token if it is the unquoted word.
    pub(super) fn eat(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        if found {
            self.advance();
        }
        found
    }

    /// Consumes the next tokens if they are all the given words.
    pub(super) fn eat_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(ahead, word)| self.is_word(ahead, word));
        if found {
            words.iter().for_each(|_| self.advance());
        }
        found
    }

    /// Consumes the unquoted word or fails.
    pub(super) fn expect(&mut self, word: &str) -> Result<()> {
        if self.eat(word) {
            return Ok(());
        }
        Err(self.expected_one_of(&[word]))
    }

    /// Consumes the next token if it is `token`.
    pub(super) fn eat_token(&mut self, token: &Token) -> bool {
        let found = self.peek(0) == *token;
        if found {
            self.advance();
        }
        found
    }

    /// Consumes `token` or fails.
    pub(super) fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) {
            return Ok(());
        }
        Err(self.expected(&format!("'{token}'")))
    }

    /// Consumes and returns the next token.
    pub(super) fn take(&mut self) -> Token {
        let token = self.peek(0);
        self.advance();
        token
    }

    /// Consumes the next token if it is an unquoted word.
    pub(super) fn take_word(&mut self) -> Option<String> {
        match self.peek(0) {
            Token::Word(word) if word.quote_style.is_none() => {
                self.advance();
                Some(word.value)
            }
            _ => None,
        }
    }

    /// Consumes an identifier, lower-cased unless quoted. `what` is for the error.
    pub(super) fn identifier(&mut self, what: &str) -> Result<(String, Span)> {
        let span = self.span();
        let Token::Word(word) = self.peek(0) else {
            return Err(self.expected(what));
        };
        self.advance();
        let name = normal(&word.value, word.quote_style);
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::invalid(
                "TM104",
                format!("{what} has a name of {} bytes", name.len()),
            )
            .at(Some(span))
            .help(format!("names have 1 to {MAX_NAME_BYTES} bytes")));
        }
        Ok((name, span))
    }

    /// Consumes the name of a new object: it becomes a topic and a folder, so its letters are few.
    pub(super) fn new_name(&mut self, what: &str) -> Result<String> {
        let (name, span) = self.identifier(what)?;
        self.refuse_qualified(span)?;
        let mut characters = name.chars();
        let begins = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let goes_on = characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if begins && goes_on {
            return Ok(name);
        }
        Err(Error::invalid("TM104", format!("'{name}' cannot be the name of {what}"))
            .at(Some(span))
            .because("the name becomes a topic and a folder of the bucket")
            .help("use letters a-z, digits, _ and -, beginning with a letter"))
    }

    /// Consumes the name of an object that should exist.
    pub(super) fn reference(&mut self, what: &str) -> Result<String> {
        let (name, span) = self.identifier(&format!("the name of {what}"))?;
        self.refuse_qualified(span)?;
        Ok(name)
    }

    /// `IF NOT EXISTS`.
    pub(super) fn if_not_exists(&mut self) -> bool {
        self.eat_all(&["IF", "NOT", "EXISTS"])
    }

    /// Parses with sqlparser; errors get our form.
    pub(super) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>,
    ) -> Result<T> {
        match parse(&mut self.parser) {
            Ok(value) => {
                // The parser's index is that of the token consumed last.
                self.position = (self.parser.get_current_index() + 1).min(self.length);
                Ok(value)
            }
            Err(error) => Err(self.syntax(&error)),
        }
    }

    /// Parses an expression.
    pub(super) fn expression(&mut self) -> Result<Expr> {
        let start = self.position;
        let expression = self.parse(Parser::parse_expr)?;
        let (_, span) = self.text_since(start);
        super::query::check_expression(&expression).map_err(|error| error.at(Some(span)))?;
        Ok(expression)
    }

    /// All tokens before the cut.
    pub(super) fn tokens(&self) -> &[TokenWithSpan] {
        &self.tokens[..self.length]
    }

    /// Takes the tokens from `index` on away: they count as never there.
    pub(super) fn cut(&mut self, index: usize) {
        self.length = index.min(self.length);
        self.parser = new_parser(self.tokens[..self.length].to_vec());
        for _ in 0..self.position {
            self.parser.advance_token();
        }
    }

    /// Moves to the token at `index`, which may be one that was cut off.
    pub(super) fn jump(&mut self, index: usize) {
        self.length = self.tokens.len();
        self.position = index;
        self.cut(self.length);
    }

    /// Fails if tokens are left.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        Err(self.expected("the end of the statement"))
    }

    /// "expected …, found …" at the next token.
    pub(super) fn expected(&self, what: &str) -> Error {
        let found = if self.at_end() {
            "the end of the statement".to_owned()
        } else {
            format!("'{}'", self.peek(0))
        };
        let error = Error::invalid("TM101", format!("expected {what}, found {found}"))
            .at(Some(self.span()));
        self.with_suggestion(error, self.position)
    }

    /// As [`Self::expected`], naming the words that may stand here.
    pub(super) fn expected_one_of(&self, words: &[&str]) -> Error {
        let error = self.expected(&words.join(" or "));
        match self.peek(0) {
            Token::Word(found) if !self.at_end() => match closest(&found.value, words) {
                Some(word) => Error { help: Some(format!("did you mean {word}?")), ..error },
                None => error,
            },
            _ => error,
        }
    }

    fn advance(&mut self) {
        if !self.at_end() {
            self.parser.advance_token();
            self.position += 1;
        }
    }

    fn refuse_qualified(&mut self, first: Span) -> Result<()> {
        if self.peek(0) != Token::Period {
            return Ok(());
        }
        Err(refused("qualified names are not supported", cover(first, self.span()))
            .because("all objects live in one catalog without schemas")
            .help("write the name alone"))
    }

    /// sqlparser's error in our form: its "at Line: 1, Column: n" is a byte offset.
    fn syntax(&self, error: &ParserError) -> Error {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Error::invalid("TM100", "the statement is nested too deeply")
                    .at(Some(self.span()))
                    .because(format!("at most {MAX_NESTING} levels are read"))
                    .help("take parts of it out into views or WITH queries");
            }
        };
        let (message, start) = match text.rsplit_once(" at Line: 1, Column: ") {
            Some((message, column)) => (message, column.trim().parse::<usize>().ok()),
            None => (text.as_str(), None),
        };
        let index = start
            .and_then(|start| self.spans.iter().position(|span| span.start + 1 == start))
            .unwrap_or(self.length);
        let last = self.spans.len().saturating_sub(1);
        let message = lowercase_first(message)
            .replacen("expected: ", "expected ", 1)
            .replace("found: EOF", "found the end of the statement");
        let error = Error::invalid("TM101", quote_found(&message))
            .at(self.spans.get(index.min(last)).copied());
        self.with_suggestion(error, index)
    }

    /// Looks for a misspelled clause word at the offending token or just before it.
    fn with_suggestion(&self, error: Error, index: usize) -> Error {
        for back in 0..=2 {
            let Some(place) = index.checked_sub(back) else {
                break;
            };
            if place >= self.length {
                continue;
            }
            let Some(span) = self.spans.get(place) else {
                continue;
            };
            let word = &self.script[span.start..span.end];
            let is_clause = CLAUSES.iter().any(|clause| clause.eq_ignore_ascii_case(word));
            if is_clause || word.len() < 4 || !word.chars().all(|c| c.is_ascii_alphabetic()) {
                continue;
            }
            let found = closest(word, CLAUSES);
            // `orders` is no misspelled ORDER.
            let found = found.filter(|clause| !word.to_ascii_uppercase().starts_with(clause));
            if let Some(clause) = found {
                return error.help(format!("did you mean {clause} instead of {word}?"));
            }
        }
        error
    }
}

/// `found: x` as `found 'x'`.
fn quote_found(message: &str) -> String {
    match message.split_once(", found: ") {
        Some((before, found)) => format!("{before}, found '{found}'"),
        None => message.to_owned(),
    }
}

fn new_parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&TidemillDialect)
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(tokens)
}

/// `TM109`: a clause that is read but not taken.
pub(super) fn refused(message: impl Into<String>, span: Span) -> Error {
    Error::invalid("TM109", message).at(Some(span))
}

/// The range from the first to the last span.
pub(super) fn cover(first: Span, last: Span) -> Span {
    Span { start: first.start.min(last.start), end: first.end.max(last.end) }
}

/// An identifier as stored: lower case unless quoted.
pub(super) fn normal(value: &str, quote: Option<char>) -> String {
    if quote.is_some() { value.to_owned() } else { value.to_lowercase() }
}

fn is(found: &Word, word: &str) -> bool {
    found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word)
}
