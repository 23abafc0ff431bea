//! `WITH ('key' = 'value', …)`.
//!
//! Keys may also be bare words with dots (RisingWave), values also numbers and booleans. What the
//! options mean is not known here; connectors check them.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Options, Result, Span};

use super::cursor::{Cursor, cover};

/// Reads the parenthesis after `WITH`.
pub(super) fn options(cursor: &mut Cursor<'_>) -> Result<Options> {
    let mut options = Options::default();
    cursor.expect_token(&Token::LParen)?;
    if cursor.eat_token(&Token::RParen) {
        return Ok(options);
    }
    loop {
        let (key, key_span) = key(cursor)?;
        cursor.expect_token(&Token::Eq)?;
        let value = value(cursor, &key)?;
        let span = cover(key_span, cursor.last_span());
        if options.get(&key).is_some() {
            return Err(Error::invalid("TM108", format!("option '{key}' is given twice"))
                .at(Some(span))
                .help("remove one of them"));
        }
        options.insert(&key, value, Some(span));
        if cursor.eat_token(&Token::RParen) {
            return Ok(options);
        }
        if !cursor.eat_token(&Token::Comma) {
            return Err(cursor.expected("',' or ')' after the option"));
        }
    }
}

fn key(cursor: &mut Cursor<'_>) -> Result<(String, Span)> {
    let span = cursor.span();
    if let Token::SingleQuotedString(key) = cursor.peek(0) {
        cursor.take();
        return Ok((key.to_ascii_lowercase(), span));
    }
    let Some(mut key) = cursor.take_word() else {
        return Err(cursor.expected("an option such as 'connector' = 'kafka'"));
    };
    while cursor.eat_token(&Token::Period) {
        let Some(part) = cursor.take_word() else {
            return Err(cursor.expected("the rest of the option's name"));
        };
        key.push('.');
        key.push_str(&part);
    }
    Ok((key.to_ascii_lowercase(), cover(span, cursor.last_span())))
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<String> {
    match cursor.peek(0) {
        Token::SingleQuotedString(text) | Token::Number(text, _) => {
            cursor.take();
            Ok(text)
        }
        Token::Word(word) if ["true", "false"].contains(&word.value.to_lowercase().as_str()) => {
            cursor.take();
            Ok(word.value.to_lowercase())
        }
        _ => Err(cursor
            .expected(&format!("a value in quotes for option '{key}'"))
            .help(format!("write '{key}' = '…'"))),
    }
}
