//! A source: what the user declared, and the connector that reads it.

use std::collections::BTreeMap;

use arrow_schema::DataType;
use bytes::Bytes;

use crate::{Error, Micros, Result, RowFault, Span};

/// Options of a `WITH (…)` clause: key → value, with the place of each key for errors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    values: BTreeMap<String, (String, Option<Span>)>,
}

impl Options {
    /// Adds an option. Keys are lower-cased.
    pub fn insert(&mut self, key: &str, value: impl Into<String>, span: Option<Span>) {
        self.values.insert(key.to_ascii_lowercase(), (value.into(), span));
    }
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str())
    }
    /// The place of a key in the SQL text.
    pub fn span(&self, key: &str) -> Option<Span> {
        self.values.get(key).and_then(|(_, span)| *span)
    }
    /// All options in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, (value, _))| (key.as_str(), value.as_str()))
    }
    /// The value of a key that must be there.
    ///
    /// # Errors
    /// `TM110` if the key is missing.
    pub fn require(&self, key: &str, object: &str) -> Result<&str> {
        self.get(key).ok_or_else(|| {
            Error::invalid("TM110", format!("{object}: option '{key}' is missing"))
                .help(format!("add '{key}' = '…' to the WITH clause"))
        })
    }
    /// Fails on the first key that is not in `known` (a trailing `*` matches a prefix).
    ///
    /// # Errors
    /// `TM111` naming the key and the known ones.
    pub fn reject_unknown(&self, known: &[&str], object: &str) -> Result<()> {
        for (key, (_, span)) in &self.values {
            let fits = known.iter().any(|candidate| match candidate.strip_suffix('*') {
                Some(prefix) => key.starts_with(prefix),
                None => candidate == key,
            });
            if !fits {
                return Err(Error::invalid("TM111", format!("{object}: unknown option '{key}'"))
                    .at(*span)
                    .help(format!("known options: {}", known.join(", "))));
            }
        }
        Ok(())
    }
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnKind {
    /// A field of the payload.
    Physical,
    /// A field of the log record.
    Metadata(MetadataColumn),
    /// An SQL expression over the other columns (its text).
    Computed(String),
}

/// Fields of a log record that `METADATA FROM` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataColumn {
    /// Record timestamp.
    Timestamp,
    /// Offset in the partition.
    Offset,
    /// Partition number.
    Partition,
    /// Key bytes.
    Key,
    /// Headers as a map.
    Headers,
}

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, as stored (lower case unless quoted).
    pub name: String,
    /// Type. For a computed column the type its expression was planned to.
    pub data_type: DataType,
    /// False for `NOT NULL`: a row without it is quarantined.
    pub nullable: bool,
    /// Where the value comes from.
    pub kind: ColumnKind,
}

/// `WATERMARK FOR column AS column - delay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkSpec {
    /// The event-time column.
    pub column: String,
    /// How far rows may be out of order.
    pub delay: Micros,
}

/// A declared source (or sink table: the same statement makes both).
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSpec {
    /// Name; also the name of the topic unless option `topic` says otherwise.
    pub name: String,
    /// Declared columns in order.
    pub columns: Vec<Column>,
    /// The event-time declaration.
    pub watermark: Option<WatermarkSpec>,
    /// The `WITH` options.
    pub options: Options,
}

impl SourceSpec {
    /// The topic this source is read from by jobs.
    pub fn topic(&self) -> &str {
        self.options.get("topic").unwrap_or(&self.name)
    }
    /// The connector kind, e.g. `kafka`.
    pub fn connector(&self) -> &str {
        self.options.get("connector").unwrap_or_default()
    }
    /// The physical columns in order.
    pub fn physical(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.kind == ColumnKind::Physical)
    }
}

/// A row read from an outside source, to be appended to the topic.
#[derive(Debug, Clone)]
pub struct SourceRow {
    /// Row number inside the unit, from 0, dense: the row's identity for exactly-once feeding.
    pub row: u64,
    /// Key bytes for the log record.
    pub key: Option<Bytes>,
    /// JSON payload, or why there is none.
    pub payload: Result<Bytes, RowFault>,
}

/// An outside source that is fed into a topic, read as a sequence of units (files).
///
/// Contract: the same unit yields the same rows in the same order every time it is read, so that
/// a restarted feed can skip what the topic already has. Units in `done` are never read again.
#[async_trait::async_trait]
pub trait Source: Send {
    /// The next unit that is not done: its name. `None`: a bounded source is drained.
    async fn next_unit(&mut self) -> Result<Option<String>>;
    /// Tells, after `next_unit`, how many rows of the unit the topic has already. They must still
    /// be given out, but a source that paces its rows need not pace these.
    fn already_fed(&mut self, _rows: u64) {}
    /// The next rows of the current unit; empty when the unit is finished.
    async fn next_rows(&mut self) -> Result<Vec<SourceRow>>;
}
