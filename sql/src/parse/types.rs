//! Type names of Flink and Postgres to Arrow types.
//!
//! | written | Arrow |
//! |---|---|
//! | `BOOLEAN` `BOOL` | Boolean |
//! | `TINYINT` · `SMALLINT` `INT2` · `INT` `INTEGER` `INT4` · `BIGINT` `INT8` | Int8 … Int64 |
//! | `REAL` `FLOAT` `FLOAT4` · `DOUBLE [PRECISION]` `FLOAT8` | Float32 · Float64 |
//! | `DECIMAL(p, s)` `NUMERIC` `DEC` | Decimal128; alone (38, 10), `(p)` is (p, 0) |
//! | `STRING` `TEXT` `VARCHAR(n)` `CHAR(n)` | Utf8; the length is not enforced |
//! | `BYTES` `BYTEA` `VARBINARY(n)` `BINARY(n)` | Binary; the length is not enforced |
//! | `DATE` · `TIME(p)` | Date32 · Time64(µs) |
//! | `TIMESTAMP(p)` `DATETIME` `TIMESTAMP_NTZ` `… WITHOUT TIME ZONE` | Timestamp: p 0 s, ≤ 3 ms, ≤ 6 µs (default), 9 ns |
//! | `TIMESTAMP_LTZ(p)` `TIMESTAMPTZ` `… WITH [LOCAL] TIME ZONE` | the same with time zone UTC |
//! | `ARRAY<T>` `T ARRAY` `T[]` · `MAP<K, V>` · `ROW<a T, …>` `ROW(…)` `STRUCT<…>` | List · Map · Struct |
//!
//! A bare `DECIMAL` is (38, 10) and not Flink's (10, 0), which would silently drop the cents of
//! an amount of money.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_contract::{Error, Result, Span};

use super::cursor::{Cursor, cover, refused};
use super::suggest::closest;

/// Deepest nesting of arrays, maps and rows.
const MAX_TYPE_DEPTH: usize = 16;
/// The time zone of all timestamps that have one.
const UTC: &str = "UTC";

const NAMES: &[&str] = &[
    "BOOLEAN",
    "BOOL",
    "TINYINT",
    "SMALLINT",
    "INT2",
    "INT",
    "INTEGER",
    "INT4",
    "BIGINT",
    "INT8",
    "REAL",
    "FLOAT",
    "FLOAT4",
    "FLOAT8",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "DEC",
    "STRING",
    "TEXT",
    "VARCHAR",
    "CHAR",
    "CHARACTER",
    "BYTES",
    "BYTEA",
    "VARBINARY",
    "BINARY",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "DATETIME",
    "TIMESTAMP_NTZ",
    "TIMESTAMP_LTZ",
    "TIMESTAMPTZ",
    "ARRAY",
    "MAP",
    "ROW",
    "STRUCT",
];

/// Types people try that have a better name here: word, what to write.
const REPLACED: &[(&str, &str)] = &[
    ("JSON", "STRING, or ROW<…> with the fields"),
    ("JSONB", "STRING, or ROW<…> with the fields"),
    ("UUID", "STRING"),
    ("SERIAL", "BIGINT"),
    ("BIGSERIAL", "BIGINT"),
    ("MONEY", "DECIMAL(18, 2)"),
    ("MULTISET", "ARRAY<…>"),
    ("INTERVAL", "BIGINT with the number of microseconds"),
    ("NUMBER", "DECIMAL(p, s)"),
    ("BLOB", "BYTES"),
];

/// Reads a type.
pub(super) fn data_type(cursor: &mut Cursor<'_>) -> Result<DataType> {
    TypeReader { cursor, half_closed: false, depth: 0 }.read()
}

struct TypeReader<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    /// True when one `>` of a `>>` token is still to be used.
    half_closed: bool,
    depth: usize,
}

impl TypeReader<'_, '_> {
    fn read(&mut self) -> Result<DataType> {
        self.depth += 1;
        let span = self.cursor.span();
        if self.depth > MAX_TYPE_DEPTH {
            return Err(Error::invalid("TM103", "the type is nested too deeply")
                .at(Some(span))
                .because(format!("at most {MAX_TYPE_DEPTH} levels are read")));
        }
        let Some(word) = self.cursor.take_word() else {
            return Err(self.cursor.expected("a type").help("types are listed in docs/sql.md"));
        };
        let mut data_type = self.named(&word.to_ascii_uppercase(), &word, span)?;
        loop {
            // An `ARRAY` or `[` after a complete inner type belongs to the outer one.
            if self.half_closed {
                break;
            }
            if self.cursor.eat_token(&Token::LBracket) {
                self.cursor.expect_token(&Token::RBracket)?;
            } else if !self.cursor.eat("ARRAY") {
                break;
            }
            self.depth += 1;
            if self.depth > MAX_TYPE_DEPTH {
                return Err(Error::invalid("TM103", "the type is nested too deeply").at(Some(span)));
            }
            data_type = list(data_type);
        }
        self.depth -= 1;
        Ok(data_type)
    }

    fn named(&mut self, name: &str, written: &str, span: Span) -> Result<DataType> {
        Ok(match name {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" => DataType::Int8,
            "SMALLINT" | "INT2" => DataType::Int16,
            "INT" | "INTEGER" | "INT4" => DataType::Int32,
            "BIGINT" | "INT8" => DataType::Int64,
            "REAL" | "FLOAT" | "FLOAT4" => DataType::Float32,
            "FLOAT8" => DataType::Float64,
            "DOUBLE" => {
                self.cursor.eat("PRECISION");
                DataType::Float64
            }
            "DECIMAL" | "NUMERIC" | "DEC" => self.decimal(span)?,
            "STRING" | "TEXT" => DataType::Utf8,
            "VARCHAR" | "CHAR" | "CHARACTER" => {
                self.cursor.eat("VARYING");
                self.numbers()?;
                DataType::Utf8
            }
            "BYTES" | "BYTEA" => DataType::Binary,
            "VARBINARY" | "BINARY" => {
                self.numbers()?;
                DataType::Binary
            }
            "DATE" => DataType::Date32,
            "TIME" => {
                self.precision(6, span)?;
                DataType::Time64(TimeUnit::Microsecond)
            }
            "TIMESTAMP" => self.timestamp(span)?,
            "DATETIME" | "TIMESTAMP_NTZ" => DataType::Timestamp(self.unit(span)?, None),
            "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => {
                DataType::Timestamp(self.unit(span)?, Some(Arc::from(UTC)))
            }
            "ARRAY" => {
                self.cursor.expect_token(&Token::Lt)?;
                let element = self.read()?;
                self.close()?;
                list(element)
            }
            "MAP" => self.map()?,
            "ROW" | "STRUCT" => self.row(span)?,
            _ => return Err(unknown(name, written, span)),
        })
    }

    /// `(n, …)`, if there is one.
    fn numbers(&mut self) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        if !self.cursor.eat_token(&Token::LParen) {
            return Ok(numbers);
        }
        loop {
            let Token::Number(text, _) = self.cursor.peek(0) else {
                return Err(self.cursor.expected("a number"));
            };
            let Ok(number) = text.parse() else {
                return Err(self.cursor.expected("a smaller whole number"));
            };
            self.cursor.take();
            numbers.push(number);
            if self.cursor.eat_token(&Token::RParen) {
                return Ok(numbers);
            }
            self.cursor.expect_token(&Token::Comma)?;
        }
    }

    fn decimal(&mut self, span: Span) -> Result<DataType> {
        let numbers = self.numbers()?;
        let (precision, scale) = match numbers.as_slice() {
            [] => (38, 10),
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => (0, 0),
        };
        if !(1..=38).contains(&precision) || scale > precision {
            let span = cover(span, self.cursor.last_span());
            return Err(Error::invalid("TM103", "this decimal type does not exist")
                .at(Some(span))
                .because("a decimal has 1 to 38 digits, at most all of them behind the point")
                .help("write for example DECIMAL(12, 2)"));
        }
        let precision = u8::try_from(precision).unwrap_or(38);
        Ok(DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(0)))
    }

    fn precision(&mut self, most: u32, span: Span) -> Result<Option<u32>> {
        let numbers = self.numbers()?;
        match numbers.as_slice() {
            [] => Ok(None),
            [precision] if *precision <= most => Ok(Some(*precision)),
            _ => Err(Error::invalid("TM103", "this precision of a time does not exist")
                .at(Some(cover(span, self.cursor.last_span())))
                .help(format!("write a number of decimal places from 0 to {most}"))),
        }
    }

    fn unit(&mut self, span: Span) -> Result<TimeUnit> {
        Ok(match self.precision(9, span)? {
            Some(0) => TimeUnit::Second,
            Some(1..=3) => TimeUnit::Millisecond,
            None | Some(4..=6) => TimeUnit::Microsecond,
            Some(_) => TimeUnit::Nanosecond,
        })
    }

    fn timestamp(&mut self, span: Span) -> Result<DataType> {
        let unit = self.unit(span)?;
        let with_zone = self.cursor.eat_all(&["WITH", "LOCAL", "TIME", "ZONE"])
            || self.cursor.eat_all(&["WITH", "TIME", "ZONE"]);
        if with_zone {
            return Ok(DataType::Timestamp(unit, Some(Arc::from(UTC))));
        }
        self.cursor.eat_all(&["WITHOUT", "TIME", "ZONE"]);
        Ok(DataType::Timestamp(unit, None))
    }

    fn map(&mut self) -> Result<DataType> {
        self.cursor.expect_token(&Token::Lt)?;
        let span = self.cursor.span();
        let key = self.read()?;
        if key.is_nested() {
            return Err(Error::invalid("TM103", "the key of a map must be a plain type")
                .at(Some(cover(span, self.cursor.last_span())))
                .help("use STRING or a number as the key"));
        }
        self.cursor.expect_token(&Token::Comma)?;
        let value = self.read()?;
        self.close()?;
        let entries =
            Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
        let entries = Field::new("entries", DataType::Struct(entries), false);
        Ok(DataType::Map(Arc::new(entries), false))
    }

    /// `ROW<a INT, b STRING NOT NULL>` or `ROW(…)`.
    fn row(&mut self, span: Span) -> Result<DataType> {
        let in_parentheses = self.cursor.eat_token(&Token::LParen);
        if !in_parentheses {
            self.cursor.expect_token(&Token::Lt)?;
        }
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let (name, name_span) = self.cursor.identifier("a field")?;
            if fields.iter().any(|field| field.name() == &name) {
                return Err(Error::invalid("TM105", format!("field '{name}' is declared twice"))
                    .at(Some(name_span))
                    .help("rename one of them"));
            }
            let data_type = self.read()?;
            let nullable = self.half_closed || !self.cursor.eat_all(&["NOT", "NULL"]);
            fields.push(Field::new(name, data_type, nullable));
            if self.half_closed || !self.cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        if in_parentheses {
            if self.half_closed {
                return Err(refused("'>' closes nothing", cover(span, self.cursor.last_span())));
            }
            self.cursor.expect_token(&Token::RParen)?;
        } else {
            self.close()?;
        }
        Ok(DataType::Struct(fields.into()))
    }

    /// `>`, also as half of a `>>`.
    fn close(&mut self) -> Result<()> {
        if self.half_closed {
            self.half_closed = false;
            return Ok(());
        }
        if self.cursor.eat_token(&Token::ShiftRight) {
            self.half_closed = self.depth > 1;
            if self.half_closed {
                return Ok(());
            }
            return Err(refused("one '>' too many", self.cursor.last_span()));
        }
        self.cursor.expect_token(&Token::Gt)
    }
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

fn unknown(name: &str, written: &str, span: Span) -> Error {
    let error = Error::invalid("TM103", format!("unknown type '{written}'")).at(Some(span));
    if let Some((_, better)) = REPLACED.iter().find(|(word, _)| *word == name) {
        return error.help(format!("write {better}"));
    }
    match closest(name, NAMES) {
        Some(candidate) => error.help(format!("did you mean {candidate}?")),
        None => error.help("types are listed in docs/sql.md"),
    }
}
