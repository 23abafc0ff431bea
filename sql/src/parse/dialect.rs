//! The sqlparser dialect: DataFusion's generic one without its exotic corners, plus `TABLE name`
//! as a function argument.
//!
//! Flink passes the input of a windowing function as `TABLE orders`. sqlparser has no expression
//! for that, so the prefix hook reads it into a call of the marker function [`TABLE_MARKER`], which
//! [`super::window_call()`] takes apart again. Nothing else ever sees the marker: whatever is left of
//! it in a query fails to plan as an unknown function.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName,
};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Name of the function that stands for `TABLE name` in an expression.
pub(crate) const TABLE_MARKER: &str = "__table";

/// The dialect.
#[derive(Debug, Clone, Copy, Default)]
pub struct TidemillDialect;

impl Dialect for TidemillDialect {
    /// sqlparser asks for dialects by type in places; there we are the generic one, as DataFusion.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        character == '"' || character == '`'
    }

    fn is_identifier_start(&self, character: char) -> bool {
        character.is_alphabetic() || character == '_'
    }

    /// `$` is part of names such as `orders$dead`.
    fn is_identifier_part(&self, character: char) -> bool {
        character.is_alphanumeric() || character == '_' || character == '$'
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let [first, second] = parser.peek_tokens_ref();
        let is_table = matches!(&first.token, Token::Word(word)
            if word.keyword == Keyword::TABLE && word.quote_style.is_none());
        if !is_table || !matches!(second.token, Token::Word(_)) {
            return None;
        }
        parser.next_token();
        Some(parser.parse_object_name(false).map(marker))
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
    fn supports_group_by_expr(&self) -> bool {
        true
    }
    fn supports_left_associative_joins_without_parens(&self) -> bool {
        true
    }
    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }
    fn supports_window_clause_named_window_reference(&self) -> bool {
        true
    }
    fn supports_dictionary_syntax(&self) -> bool {
        true
    }
    fn support_map_literal_syntax(&self) -> bool {
        true
    }
    fn supports_struct_literal(&self) -> bool {
        true
    }
    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }
    fn supports_select_wildcard_except(&self) -> bool {
        true
    }
    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }
    fn supports_select_wildcard_replace(&self) -> bool {
        true
    }
    fn allow_extract_custom(&self) -> bool {
        true
    }
    fn allow_extract_single_quotes(&self) -> bool {
        true
    }
    fn supports_extract_comma_syntax(&self) -> bool {
        true
    }
    fn supports_parens_around_table_factor(&self) -> bool {
        true
    }
    fn supports_values_as_table_factor(&self) -> bool {
        true
    }
    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }
    fn supports_nested_comments(&self) -> bool {
        true
    }
    fn supports_string_escape_constant(&self) -> bool {
        true
    }
    fn supports_unicode_string_literal(&self) -> bool {
        true
    }
    fn supports_comma_separated_trim(&self) -> bool {
        true
    }
    fn supports_table_versioning(&self) -> bool {
        true
    }
}

fn marker(table: ObjectName) -> Expr {
    let parts = table.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
    let argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(TABLE_MARKER)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument],
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
