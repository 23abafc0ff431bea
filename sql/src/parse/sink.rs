//! `CREATE SINK name WITH (…) AS SELECT …`, `CREATE SINK name FROM view WITH (…)` and
//! `INSERT INTO table SELECT …`.

use datafusion::sql::sqlparser::ast::{Ident, Query};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use tidemill_contract::{Error, Options, Result, SinkSpec};

use super::cursor::{Cursor, refused};
use super::dialect::TidemillDialect;
use super::{CreateSink, InsertInto, SelectQuery, options, query};

/// Reads what follows `CREATE SINK`.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<CreateSink> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.new_name("a sink")?;
    let (options, query) = if cursor.eat("FROM") {
        let query = whole_view(cursor)?;
        expect_with(cursor)?;
        (options::options(cursor)?, query)
    } else if cursor.eat("WITH") {
        let options = options::options(cursor)?;
        cursor.expect("AS")?;
        (options, query::definition(cursor)?)
    } else if cursor.eat("AS") {
        options_last(cursor)?
    } else {
        return Err(cursor
            .expected_one_of(&["WITH", "AS", "FROM"])
            .help("write CREATE SINK name WITH ('connector' = '…') AS SELECT …"));
    };
    Ok(CreateSink { spec: SinkSpec { name, options }, query, if_not_exists })
}

/// Reads what follows `INSERT`.
pub(super) fn insert(cursor: &mut Cursor<'_>) -> Result<InsertInto> {
    if cursor.is_word(0, "OVERWRITE") {
        return Err(refused("INSERT OVERWRITE is not supported", cursor.span())
            .because("sinks only append")
            .help("write INSERT INTO"));
    }
    cursor.expect("INTO")?;
    let table = cursor.reference("a table")?;
    let is_column_list = cursor.peek(0) == Token::LParen
        && !["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.is_word(1, word))
        && cursor.peek(1) != Token::LParen;
    if is_column_list {
        return Err(refused("INSERT takes no column list", cursor.span())
            .help("select the columns in the order the table declares them"));
    }
    if cursor.is_word(0, "VALUES") {
        return Err(refused("INSERT takes no VALUES", cursor.span())
            .because("INSERT INTO starts a continuous query")
            .help("write INSERT INTO table SELECT … FROM source"));
    }
    Ok(InsertInto { table, query: query::definition(cursor)? })
}

/// `SELECT … WITH (options)`: the options are read first, then cut off.
fn options_last(cursor: &mut Cursor<'_>) -> Result<(Options, SelectQuery)> {
    let start = cursor.position();
    let Some(index) = last_with(cursor) else {
        let end = Error::invalid("TM101", "the sink has no options").at(Some(cursor.last_span()));
        return Err(end.help("add WITH ('connector' = '…') before AS or at the end"));
    };
    cursor.jump(index);
    expect_with(cursor)?;
    let options = options::options(cursor)?;
    cursor.finish()?;
    cursor.jump(start);
    cursor.cut(index);
    Ok((options, query::definition(cursor)?))
}

/// Index of the last `WITH (` outside parentheses whose parenthesis begins with an option.
fn last_with(cursor: &Cursor<'_>) -> Option<usize> {
    let tokens = cursor.tokens();
    let mut depth = 0_usize;
    let mut found = None;
    for (index, token) in tokens.iter().enumerate().skip(cursor.position()) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("WITH") => {
                let opens = tokens.get(index + 1).is_some_and(|next| next.token == Token::LParen);
                if opens {
                    found = Some(index);
                }
            }
            _ => {}
        }
    }
    found
}

fn expect_with(cursor: &mut Cursor<'_>) -> Result<()> {
    if cursor.eat("WITH") {
        return Ok(());
    }
    Err(cursor.expected("WITH and the connector's options").help("add WITH ('connector' = '…')"))
}

/// `SELECT * FROM view` for the name at the cursor. The name keeps its place.
fn whole_view(cursor: &mut Cursor<'_>) -> Result<SelectQuery> {
    let token = cursor.tokens().get(cursor.position()).cloned();
    let span = cursor.span();
    cursor.reference("a view")?;
    let Some(token) = token else {
        return Err(cursor.expected("the name of a view"));
    };
    let (name, _) = cursor.text_since(cursor.position().saturating_sub(1));
    let Token::Word(word) = &token.token else {
        return Err(cursor.expected("the name of a view"));
    };
    let ident = word.clone().into_ident(token.span);
    let ast = select_all(ident, &token)?;
    Ok(SelectQuery { ast, text: format!("SELECT * FROM {name}"), offset: span.start })
}

/// Builds the tree of `SELECT * FROM name` from tokens, so that later versions of the AST need no
/// change here.
fn select_all(name: Ident, place: &TokenWithSpan) -> Result<Query> {
    let token = |token: Token| TokenWithSpan { token, span: place.span };
    let tokens = vec![
        token(Token::make_keyword("SELECT")),
        token(Token::Mul),
        token(Token::make_keyword("FROM")),
        token(Token::make_word(&name.value, name.quote_style)),
    ];
    Parser::new(&TidemillDialect)
        .with_tokens_with_locations(tokens)
        .parse_query()
        .map(|query| *query)
        .map_err(|error| {
            Error::invalid("TM101", format!("'{name}' cannot be read from: {error}"))
                .at(super::byte_span(place.span))
                .help("quote the name if it is a reserved word")
        })
}
