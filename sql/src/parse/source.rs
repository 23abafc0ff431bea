//! `CREATE SOURCE | TABLE name (columns) WITH (options)`.
//!
//! Reads columns (physical, metadata, computed), the watermark and the options. It does not plan
//! computed columns: they keep their text and the type `Null` until the catalog plans them.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{
    Column, ColumnKind, Error, MetadataColumn, Result, SourceSpec, Span, WatermarkSpec,
};

use super::cursor::{Cursor, cover, normal, refused};
use super::duration::parse_interval;
use super::suggest::closest;
use super::{CreateSource, options, types};

/// Most columns of a source.
const MAX_COLUMNS: usize = 1_000;

/// Fields of a log record by their SQL names.
const METADATA: &[(&str, MetadataColumn)] = &[
    ("timestamp", MetadataColumn::Timestamp),
    ("offset", MetadataColumn::Offset),
    ("partition", MetadataColumn::Partition),
    ("key", MetadataColumn::Key),
    ("headers", MetadataColumn::Headers),
];

/// Words after a column's type that other systems know and we do not: word, what to do.
const REFUSED: &[(&str, &str)] = &[
    ("DEFAULT", "use a computed column: name AS coalesce(column, value)"),
    ("UNIQUE", "remove it: a stream cannot be checked for duplicates"),
    ("CHECK", "remove it: filter in the view with WHERE"),
    ("REFERENCES", "remove it"),
    ("COMMENT", "write the comment as -- text"),
    ("COLLATE", "remove it: text is compared by bytes"),
    ("GENERATED", "write a computed column: name AS expression"),
];

/// Reads what follows `CREATE SOURCE` or `CREATE TABLE`.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<CreateSource> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.new_name("a source")?;
    let mut table = Table::default();
    if cursor.eat_token(&Token::LParen) {
        table.read(cursor)?;
    } else if cursor.is_word(0, "AS") {
        return Err(refused("a source cannot be made from a query", cursor.span())
            .help("write CREATE MATERIALIZED VIEW name AS SELECT …"));
    } else {
        return Err(cursor
            .expected("the columns in parentheses")
            .help("write CREATE SOURCE name (column TYPE, …) WITH ('connector' = '…')"));
    }
    for (word, help) in [
        ("PARTITIONED", "remove it: tables are partitioned by the bucket"),
        ("COMMENT", "write the comment as -- text"),
        ("LIKE", "write the columns"),
        ("AS", "write CREATE MATERIALIZED VIEW name AS SELECT …"),
    ] {
        if cursor.is_word(0, word) {
            return Err(refused(format!("{word} is not supported here"), cursor.span()).help(help));
        }
    }
    if !cursor.eat("WITH") {
        return Err(cursor
            .expected("WITH and the connector's options")
            .help("add WITH ('connector' = '…')"));
    }
    let options = options::options(cursor)?;
    let Table { columns, watermark, .. } = table;
    let spec = SourceSpec { name, columns, watermark, options };
    Ok(CreateSource { spec, if_not_exists })
}

/// What stands in the parentheses.
#[derive(Default)]
struct Table {
    columns: Vec<Column>,
    watermark: Option<WatermarkSpec>,
    watermark_span: Option<Span>,
}

impl Table {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let open = cursor.last_span();
        loop {
            if cursor.eat_all(&["WATERMARK", "FOR"]) {
                self.watermark(cursor)?;
            } else {
                refuse_constraint(cursor)?;
                self.column(cursor)?;
            }
            if cursor.eat_token(&Token::RParen) {
                break;
            }
            if !cursor.eat_token(&Token::Comma) {
                return Err(cursor.expected("',' or ')' after the column"));
            }
        }
        if self.columns.is_empty() {
            return Err(Error::invalid("TM106", "the source has no columns")
                .at(Some(cover(open, cursor.last_span())))
                .help("declare at least one column: name TYPE"));
        }
        self.check_watermark()
    }

    fn column(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let (name, span) = cursor.identifier("a column")?;
        if self.columns.len() >= MAX_COLUMNS {
            return Err(Error::invalid("TM100", "the source has too many columns")
                .at(Some(span))
                .because(format!("at most {MAX_COLUMNS} are read"))
                .help("declare only the columns that queries use"));
        }
        if self.columns.iter().any(|column| column.name == name) {
            return Err(Error::invalid("TM105", format!("column '{name}' is declared twice"))
                .at(Some(span))
                .because("names are compared in lower case unless quoted")
                .help("rename one of them"));
        }
        let column = if cursor.eat("AS") {
            let start = cursor.position();
            cursor.expression()?;
            let (text, _) = cursor.text_since(start);
            let kind = ColumnKind::Computed(text.to_owned());
            Column { name, data_type: DataType::Null, nullable: true, kind }
        } else {
            stored_column(cursor, name)?
        };
        self.columns.push(column);
        Ok(())
    }

    /// `column AS column - INTERVAL …`, after `WATERMARK FOR`.
    fn watermark(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let (column, span) = cursor.identifier("the event-time column")?;
        if self.watermark.is_some() {
            return Err(Error::invalid("TM106", "there are two watermarks")
                .at(Some(span))
                .help("keep one WATERMARK FOR"));
        }
        cursor.expect("AS")?;
        let start = cursor.position();
        let expression = cursor.expression()?;
        let (_, expression_span) = cursor.text_since(start);
        let delay = delay(&expression, &column, expression_span)?;
        self.watermark = Some(WatermarkSpec { column, delay });
        self.watermark_span = Some(span);
        Ok(())
    }

    /// The watermark's column must exist and be a point in time.
    fn check_watermark(&self) -> Result<()> {
        let Some(watermark) = &self.watermark else {
            return Ok(());
        };
        let name = &watermark.column;
        let Some(column) = self.columns.iter().find(|column| &column.name == name) else {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            let error =
                Error::invalid("TM106", format!("the watermark is for unknown column '{name}'"))
                    .at(self.watermark_span);
            return Err(match closest(name, &names) {
                Some(candidate) => error.help(format!("did you mean {candidate}?")),
                None => error.help("declare the column, for example as TIMESTAMP(3)"),
            });
        };
        let is_time = matches!(column.data_type, DataType::Timestamp(..));
        if is_time || matches!(column.kind, ColumnKind::Computed(_)) {
            return Ok(());
        }
        let message = format!("the watermark's column '{name}' is not a timestamp");
        Err(Error::invalid("TM106", message).at(self.watermark_span).help(format!(
            "declare it as TIMESTAMP, or add a computed column: ts AS to_timestamp_millis({name})"
        )))
    }
}

/// `TYPE [NOT NULL] [METADATA [FROM 'field'] [VIRTUAL]]`, after the name.
fn stored_column(cursor: &mut Cursor<'_>, name: String) -> Result<Column> {
    let start = cursor.position();
    let data_type = types::data_type(cursor)?;
    let mut nullable = true;
    let mut kind = ColumnKind::Physical;
    loop {
        if cursor.eat_all(&["NOT", "NULL"]) {
            nullable = false;
        } else if cursor.is_word(0, "NULL") {
            cursor.take();
        } else if cursor.eat("METADATA") {
            let field = if cursor.eat("FROM") { metadata_name(cursor)? } else { name.clone() };
            let (_, span) = cursor.text_since(start);
            kind = ColumnKind::Metadata(metadata(&field, &data_type, span)?);
            cursor.eat("VIRTUAL");
        } else {
            refuse_attribute(cursor)?;
            return Ok(Column { name, data_type, nullable, kind });
        }
    }
}

fn metadata_name(cursor: &mut Cursor<'_>) -> Result<String> {
    match cursor.peek(0) {
        Token::SingleQuotedString(name) => {
            cursor.take();
            Ok(name)
        }
        _ => Err(cursor
            .expected("the metadata field in quotes")
            .help("write METADATA FROM 'timestamp'")),
    }
}

fn metadata(field: &str, data_type: &DataType, span: Span) -> Result<MetadataColumn> {
    let names: Vec<&str> = METADATA.iter().map(|(name, _)| *name).collect();
    let found = METADATA.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
    let Some((_, metadata)) = found else {
        let error =
            Error::invalid("TM107", format!("unknown metadata field '{field}'")).at(Some(span));
        return Err(match closest(field, &names) {
            Some(candidate) => error.help(format!("did you mean '{candidate}'?")),
            None => error.help(format!("fields are {}", names.join(", "))),
        });
    };
    let (fits, wanted) = match metadata {
        MetadataColumn::Timestamp => {
            (matches!(data_type, DataType::Timestamp(..)), "TIMESTAMP_LTZ(3) or TIMESTAMP(3)")
        }
        MetadataColumn::Offset => (*data_type == DataType::Int64, "BIGINT"),
        MetadataColumn::Partition => {
            (matches!(data_type, DataType::Int32 | DataType::Int64), "INT or BIGINT")
        }
        MetadataColumn::Key => {
            (matches!(data_type, DataType::Utf8 | DataType::Binary), "BYTES or STRING")
        }
        MetadataColumn::Headers => (is_headers(data_type), "MAP<STRING, BYTES>"),
    };
    if fits {
        return Ok(*metadata);
    }
    let message = format!("metadata field '{}' has another type", field.to_lowercase());
    Err(Error::invalid("TM107", message).at(Some(span)).help(format!("declare it as {wanted}")))
}

fn is_headers(data_type: &DataType) -> bool {
    let DataType::Map(entries, _) = data_type else {
        return false;
    };
    let DataType::Struct(fields) = entries.data_type() else {
        return false;
    };
    let types: Vec<&DataType> = fields.iter().map(|field| field.data_type()).collect();
    matches!(types.as_slice(), [DataType::Utf8, DataType::Utf8 | DataType::Binary])
}

/// The delay in `column - INTERVAL …`.
fn delay(expression: &Expr, column: &str, span: Span) -> Result<i64> {
    let wrong = || {
        Error::invalid("TM106", "this is not a watermark")
            .at(Some(span))
            .because("a watermark is the event-time column minus a fixed delay")
            .help(format!("write WATERMARK FOR {column} AS {column} - INTERVAL '5' SECOND"))
    };
    let is_column = |candidate: &Expr| {
        matches!(candidate, Expr::Identifier(Ident { value, quote_style, .. })
            if normal(value, *quote_style) == column)
    };
    match expression {
        candidate if is_column(candidate) => Ok(0),
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => {
            let interval = parse_interval(right)?;
            if interval.months != 0 || interval.micros < 0 {
                return Err(Error::invalid("TM106", "the watermark's delay cannot be used")
                    .at(Some(span))
                    .because("it must be zero or more, and of a fixed length")
                    .help("use seconds, minutes, hours or days"));
            }
            Ok(interval.micros)
        }
        _ => Err(wrong()),
    }
}

/// `PRIMARY KEY (…)` and the like in place of a column.
fn refuse_constraint(cursor: &Cursor<'_>) -> Result<()> {
    let is_constraint = (cursor.is_word(0, "PRIMARY") && cursor.is_word(1, "KEY"))
        || (cursor.is_word(0, "FOREIGN") && cursor.is_word(1, "KEY"))
        || (cursor.is_word(0, "UNIQUE") && cursor.peek(1) == Token::LParen)
        || (cursor.is_word(0, "CONSTRAINT") && matches!(cursor.peek(1), Token::Word(_)));
    if is_constraint { Err(no_keys(cursor.span())) } else { Ok(()) }
}

fn refuse_attribute(cursor: &Cursor<'_>) -> Result<()> {
    if cursor.is_word(0, "PRIMARY") {
        return Err(no_keys(cursor.span()));
    }
    for (word, help) in REFUSED {
        if cursor.is_word(0, word) {
            let message = format!("{word} is not supported on a column");
            return Err(refused(message, cursor.span()).help(*help));
        }
    }
    Ok(())
}

fn no_keys(span: Span) -> Error {
    refused("keys and constraints are not supported", span)
        .because("a source is a stream of rows; no row replaces another")
        .help("remove it")
}
