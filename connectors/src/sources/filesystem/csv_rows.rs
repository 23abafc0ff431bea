//! CSV rows to JSON objects, by the declared columns.
//!
//! A number is written as a JSON number only if it is one, otherwise as text, so that the decoder
//! refuses it with its reason. A row with the wrong number of fields or invalid UTF-8 is a fault of
//! stage `read`; its raw bytes are the fields joined again.
//!
//! Columns are found by the header's names; a file whose first row does not hold all declared
//! names has no header, and its fields are taken in declared order. `'csv.header'` = `'true'` or
//! `'false'` settles it, `'csv.ignore-header'` = `'true'` skips a header and goes by order.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use bytes::Bytes;
use csv::{ByteRecord, Reader, ReaderBuilder};
use serde::de::IgnoredAny;
use tidemill_contract::{Error, FaultClass, Options, Result, RowFault, SourceRow, SourceSpec};

use super::super::{bad_option, flag};
use super::input::Input;
use super::{CHUNK_BYTES, CHUNK_ROWS, ROW_BYTES_MAX, RowReader, unreadable};

/// Gives bytes up to a limit and then an end, so that a quote that is never closed does not take
/// the rest of the file into memory.
struct Guard {
    input: Input,
    /// Bytes given so far.
    given: u64,
    limit: u64,
}

impl Guard {
    fn is_at_limit(&self) -> bool {
        self.given >= self.limit
    }
}

impl Read for Guard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.limit.saturating_sub(self.given)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let read = self.input.read(&mut buffer[..room])?;
        self.given += read as u64;
        Ok(read)
    }
}

const KNOWN: &[&str] = &[
    "csv.field-delimiter",
    "csv.quote-character",
    "csv.escape-character",
    "csv.null-literal",
    "csv.allow-comments",
    "csv.header",
    "csv.ignore-header",
];

/// How a CSV file says which field is which column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Detect,
    Names,
    Skip,
    None,
}

/// The `csv.*` options, named as Flink names them.
#[derive(Debug, Clone)]
pub(super) struct CsvOptions {
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    null_literal: Option<String>,
    header: Header,
}

impl CsvOptions {
    pub(super) fn read(options: &Options) -> Result<Self> {
        if let Some((key, _)) =
            options.iter().find(|(key, _)| key.starts_with("csv.") && !KNOWN.contains(key))
        {
            return Err(Error::invalid("TM111", format!("unknown option '{key}'"))
                .at(options.span(key))
                .help(format!("known options: {}", KNOWN.join(", "))));
        }
        let header = match (options.get("csv.header"), flag(options, "csv.ignore-header", false)?) {
            (_, true) => Header::Skip,
            (None | Some("auto"), false) => Header::Detect,
            (Some("true"), false) => Header::Names,
            (Some("false"), false) => Header::None,
            _ => {
                return Err(bad_option(options, "csv.header", "'true', 'false' or 'auto'"));
            }
        };
        Ok(Self {
            delimiter: one_byte(options, "csv.field-delimiter")?.unwrap_or(b','),
            quote: one_byte(options, "csv.quote-character")?.unwrap_or(b'"'),
            escape: one_byte(options, "csv.escape-character")?,
            comment: flag(options, "csv.allow-comments", false)?.then_some(b'#'),
            null_literal: options.get("csv.null-literal").map(str::to_owned),
            header,
        })
    }

    fn reader(&self, input: Guard) -> Reader<Guard> {
        ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .quote(self.quote)
            .double_quote(self.escape.is_none())
            .escape(self.escape)
            .comment(self.comment)
            .from_reader(input)
    }
}

fn one_byte(options: &Options, key: &str) -> Result<Option<u8>> {
    match options.get(key) {
        None => Ok(None),
        Some("\\t") => Ok(Some(b'\t')),
        Some(text) => match text.as_bytes() {
            [byte] => Ok(Some(*byte)),
            _ => Err(bad_option(options, key, "one ASCII character (a tab as '\\t')")),
        },
    }
}

/// How a field becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Number,
    Boolean,
    Nested,
}

/// A declared column and where its field is.
#[derive(Debug)]
struct CsvColumn {
    /// `"name":`
    label: String,
    shape: Shape,
    field: usize,
}

pub(super) struct CsvRows {
    records: Records,
    path: PathBuf,
    null_literal: Option<String>,
    delimiter: u8,
    columns: Vec<CsvColumn>,
    fields: usize,
    /// A first row that turned out to be data, and whether it is cut.
    first: Option<(ByteRecord, bool)>,
    row: u64,
}

/// The records of a file, each in bounded memory.
struct Records {
    reader: Reader<Guard>,
    options: CsvOptions,
}

impl Records {
    fn new(input: Input, options: &CsvOptions) -> Self {
        let guard = Guard { input, given: 0, limit: 0 };
        Self { reader: options.reader(guard), options: options.clone() }
    }

    /// The next record; `None` at the end of the file. True if it is longer than a row may be: it
    /// is cut, and reading goes on at the next line.
    fn next(&mut self) -> Result<Option<(ByteRecord, bool)>, csv::Error> {
        let start = self.reader.position().byte();
        self.reader.get_mut().limit = start.saturating_add(ROW_BYTES_MAX as u64);
        let mut record = ByteRecord::new();
        let found = self.reader.read_byte_record(&mut record)?;
        let is_cut = found && self.reader.get_ref().is_at_limit();
        if is_cut {
            self.skip_line()?;
        }
        Ok(found.then_some((record, is_cut)))
    }

    /// A reader that came to an end stays there: a new one takes the rest of the input.
    fn skip_line(&mut self) -> Result<(), csv::Error> {
        let Guard { input, .. } = self.reader.get_mut();
        input.skip_until(b'\n')?;
        let empty: Box<dyn Read + Send> = Box::new(io::empty());
        let rest = std::mem::replace(input, Input::new(empty));
        let guard = Guard { input: rest, given: 0, limit: 0 };
        self.reader = self.options.reader(guard);
        Ok(())
    }
}

impl CsvRows {
    pub(super) fn open(
        input: Input,
        path: &Path,
        options: &CsvOptions,
        spec: &SourceSpec,
    ) -> Result<Self> {
        let mut records = Records::new(input, options);
        let first = match options.header {
            Header::None => None,
            _ => records.next().map_err(|e| unreadable(path, &e))?,
        };
        let any = first.is_some();
        let names: Vec<String> = first
            .iter()
            .flat_map(|(record, _)| record)
            .map(|name| {
                String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned()
            })
            .collect();
        let found: Vec<Option<usize>> = spec
            .physical()
            .map(|column| names.iter().position(|name| name.eq_ignore_ascii_case(&column.name)))
            .collect();
        let all = any && found.iter().all(Option::is_some);
        let by_name = match options.header {
            Header::Detect => all,
            Header::Names => true,
            Header::Skip | Header::None => false,
        };
        if by_name && any && !all {
            return Err(header_misses(path, spec, &found));
        }
        let columns = spec
            .physical()
            .zip(&found)
            .enumerate()
            .map(|(position, (column, at))| CsvColumn {
                label: format!("{}:", serde_json::Value::from(column.name.as_str())),
                shape: shape(&column.data_type),
                field: at.filter(|_| by_name).unwrap_or(position),
            })
            .collect::<Vec<_>>();
        let fields = if by_name { names.len() } else { columns.len() };
        let is_data = any && !by_name && options.header == Header::Detect;
        Ok(Self {
            records,
            path: path.to_owned(),
            null_literal: options.null_literal.clone(),
            delimiter: options.delimiter,
            columns,
            fields,
            first: first.filter(|_| is_data),
            row: 0,
        })
    }

    fn is_null(&self, text: &str, shape: Shape) -> bool {
        match &self.null_literal {
            Some(literal) if text == literal => true,
            Some(_) => text.is_empty() && shape != Shape::Text,
            None => text.is_empty(),
        }
    }

    fn payload(&self, record: &ByteRecord, is_cut: bool) -> Result<Bytes, RowFault> {
        let fault =
            |class, reason| RowFault { raw: self.join(record), stage: "read", class, reason };
        if is_cut || record.as_slice().len() > ROW_BYTES_MAX {
            let reason = format!("the row is longer than {ROW_BYTES_MAX} bytes");
            return Err(fault(FaultClass::TooLarge, reason));
        }
        if record.len() != self.fields {
            let (has, wants) = (record.len(), self.fields);
            return Err(fault(
                FaultClass::Fields,
                format!("the row has {has} fields instead of {wants}"),
            ));
        }
        let mut json = Vec::with_capacity(record.as_slice().len() + 24 * self.columns.len());
        json.push(b'{');
        for (index, column) in self.columns.iter().enumerate() {
            let field = record.get(column.field).unwrap_or_default();
            let Ok(text) = std::str::from_utf8(field) else {
                let reason = format!("field {} is not valid UTF-8", column.field + 1);
                return Err(fault(FaultClass::NotUtf8, reason));
            };
            if index > 0 {
                json.push(b',');
            }
            json.extend_from_slice(column.label.as_bytes());
            self.value(&mut json, text, column.shape);
        }
        json.push(b'}');
        Ok(Bytes::from(json))
    }

    fn value(&self, json: &mut Vec<u8>, text: &str, shape: Shape) {
        let trimmed = text.trim();
        if self.is_null(text, shape) {
            json.extend_from_slice(b"null");
            return;
        }
        let bare = match shape {
            Shape::Text => false,
            Shape::Number => is_json_number(trimmed),
            Shape::Boolean => matches!(trimmed, "true" | "false"),
            Shape::Nested => serde_json::from_str::<IgnoredAny>(trimmed).is_ok(),
        };
        if bare {
            json.extend_from_slice(trimmed.as_bytes());
        } else {
            json.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        }
    }

    /// The row as bytes again, for the quarantine.
    fn join(&self, record: &ByteRecord) -> Bytes {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(self.delimiter)
            .flexible(true)
            .from_writer(Vec::new());
        let written = writer.write_byte_record(record).is_ok();
        let mut raw = writer.into_inner().ok().filter(|_| written).unwrap_or_default();
        raw.truncate(ROW_BYTES_MAX);
        while raw.last() == Some(&b'\n') {
            raw.pop();
        }
        Bytes::from(raw)
    }
}

impl RowReader for CsvRows {
    fn read(&mut self) -> Result<Vec<SourceRow>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let next = match self.first.take() {
                Some(first) => Some(first),
                None => self.records.next().map_err(|e| unreadable(&self.path, &e))?,
            };
            let Some((record, is_cut)) = next else { break };
            bytes += record.as_slice().len();
            let payload = self.payload(&record, is_cut);
            rows.push(SourceRow { row: self.row, key: None, payload });
            self.row += 1;
        }
        Ok(rows)
    }
}

fn header_misses(path: &Path, spec: &SourceSpec, found: &[Option<usize>]) -> Error {
    let missing: Vec<&str> = spec
        .physical()
        .zip(found)
        .filter(|(_, at)| at.is_none())
        .map(|(column, _)| column.name.as_str())
        .collect();
    Error::invalid(
        "TM557",
        format!("the header of '{}' has no {}", path.display(), missing.join(", ")),
    )
    .help("name the columns as the header does, or set 'csv.ignore-header' = 'true' to go by order")
}

fn shape(data_type: &DataType) -> Shape {
    match data_type {
        DataType::Boolean => Shape::Boolean,
        DataType::List(_) | DataType::LargeList(_) | DataType::Struct(_) | DataType::Map(_, _) => {
            Shape::Nested
        }
        // A point in time may be given as a number of milliseconds.
        DataType::Timestamp(_, _) => Shape::Number,
        other if other.is_numeric() => Shape::Number,
        _ => Shape::Text,
    }
}

/// The grammar of RFC 8259: no plus sign, no leading zeros, no bare points.
fn is_json_number(text: &str) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let bytes = text.as_bytes();
    let mut rest = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let places = digits(fraction);
        if places == 0 {
            return false;
        }
        rest = &fraction[places..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', unsigned @ ..] => unsigned,
            unsigned => unsigned,
        };
        let places = digits(exponent);
        return places > 0 && places == exponent.len();
    }
    rest.is_empty()
}
