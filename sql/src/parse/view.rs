//! `CREATE MATERIALIZED VIEW name AS SELECT … [EMIT ON WINDOW CLOSE] [LATE …]`.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::Result;

use super::cursor::{Cursor, refused};
use super::{CreateView, late, query};

/// Reads what follows `CREATE MATERIALIZED`.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<CreateView> {
    cursor.expect("VIEW")?;
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.new_name("a view")?;
    if cursor.peek(0) == Token::LParen {
        return Err(refused("a view has no column list", cursor.span())
            .help("name the columns in the SELECT: expression AS name"));
    }
    if cursor.is_word(0, "WITH") {
        return Err(refused("a view has no options", cursor.span())
            .because("its table is always tables/<view> in the bucket")
            .help("remove the clause, or write CREATE SINK for another target"));
    }
    cursor.expect("AS")?;
    let late = late::cut(cursor)?;
    let query = query::definition(cursor)?;
    Ok(CreateView { name, query, late, if_not_exists })
}
