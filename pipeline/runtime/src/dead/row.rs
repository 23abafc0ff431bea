//! A dead row as read back from its topic, and dead rows as a table.

use std::sync::Arc;

use arrow::{
    array::TimestampMicrosecondArray,
    array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tidemill_contract::{Error, FaultClass, Result};
use tidemill_sql::parse::DEAD_ROW;

use crate::quarantine::dead_id;

/// One row of a topic `<source>.dead`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeadRow {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) stage: String,
    pub(crate) class: String,
    pub(crate) reason: String,
    pub(crate) unit: Option<String>,
    pub(crate) row: Option<u64>,
    pub(crate) partition: Option<i32>,
    pub(crate) offset: Option<i64>,
    pub(crate) replay_of: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key_base64: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// Key and headers were too long to keep.
    pub(crate) envelope_cut: bool,
    pub(crate) raw_bytes: u64,
    pub(crate) raw_base64: String,
    pub(crate) raw_text: Option<String>,
    pub(crate) at: String,
}

impl DeadRow {
    /// Reads a record of the topic.
    pub(crate) fn read(source: &str, payload: &[u8]) -> Result<Self> {
        let mut row: Self = serde_json::from_slice(payload).map_err(|e| {
            Error::corrupt("TM744", format!("topic '{source}.dead' holds another record"))
                .because(e.to_string())
                .help("something else writes to it: let it write elsewhere")
        })?;
        if row.id.is_empty() {
            // A row of an older version: it had a place, but no id.
            row.id = dead_id(source, &row.place(), &row.kept()?);
        }
        Ok(row)
    }

    /// Where it came from, as it stands in the row.
    pub(super) fn place(&self) -> serde_json::Value {
        match &self.unit {
            Some(unit) => json!({ "unit": unit, "row": self.row }),
            None => json!({ "partition": self.partition, "offset": self.offset }),
        }
    }

    /// The place in words.
    pub(crate) fn place_text(&self) -> String {
        match (&self.unit, self.row, self.partition, self.offset) {
            (Some(unit), Some(row), ..) => format!("{unit}, row {row}"),
            (_, _, Some(partition), Some(offset)) => {
                format!("partition {partition}, offset {offset}")
            }
            _ => "unknown".to_owned(),
        }
    }

    /// The raw bytes that were kept.
    pub(crate) fn kept(&self) -> Result<Bytes> {
        decode(&self.raw_base64)
    }

    /// Not everything of the record was kept.
    pub(crate) fn is_cut(&self, kept: &[u8]) -> bool {
        self.envelope_cut || (kept.len() as u64) < self.raw_bytes
    }

    /// A feed cut it before it was quarantined: nobody has the whole of it.
    pub(crate) fn was_cut_at_the_source(&self) -> bool {
        self.unit.is_some() && self.class == FaultClass::TooLarge.name()
    }

    /// The key of the record.
    pub(crate) fn key(&self) -> Result<Option<Bytes>> {
        self.key_base64.as_deref().map(decode).transpose()
    }

    /// The headers of the record, without ours.
    pub(crate) fn headers(&self) -> Result<Vec<(String, Bytes)>> {
        self.headers.iter().map(|(name, value)| Ok((name.clone(), decode(value)?))).collect()
    }
}

/// Base64 that we wrote.
pub(crate) fn decode(text: &str) -> Result<Bytes> {
    let bytes = STANDARD.decode(text);
    bytes.map(Bytes::from).map_err(|e| Error::internal(format!("a dead row's base64: {e}")))
}

/// The columns of `"<source>$dead"`.
pub(crate) fn columns() -> Vec<Field> {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let number = |name| Field::new(name, DataType::Int64, true);
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        text("id"),
        text("source"),
        text("query"),
        text("stage"),
        text("class"),
        text("reason"),
        text("unit"),
        number("row"),
        number("partition"),
        number("offset"),
        text("replay_of"),
        number("attempt"),
        number("timestamp_ms"),
        text("watermark"),
        text("raw_text"),
        text("raw_base64"),
        number("raw_bytes"),
        Field::new("at", micros, true),
    ]
}

/// Dead rows with their full bytes as the table that the clauses of a `REPLAY` are over: the
/// columns of `"<source>$dead"`, the bytes as `raw`, and the number of each row.
pub(crate) fn table(rows: &[&DeadRow], raw: &[Bytes]) -> Result<RecordBatch> {
    let mut fields = columns();
    fields.push(Field::new("raw", DataType::Binary, true));
    fields.push(Field::new(DEAD_ROW, DataType::Int64, false));
    let text = |value: &dyn Fn(&DeadRow) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| value(row)).collect::<StringArray>())
    };
    let number = |value: &dyn Fn(&DeadRow) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| value(row)).collect::<Int64Array>())
    };
    let whole = |bytes: &Bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let at = rows.iter().map(|row| {
        chrono::DateTime::parse_from_rfc3339(&row.at).ok().map(|time| time.timestamp_micros())
    });
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(row.id.clone())),
        text(&|row| Some(row.source.clone())),
        text(&|_| None),
        text(&|row| Some(row.stage.clone())),
        text(&|row| Some(row.class.clone())),
        text(&|row| Some(row.reason.clone())),
        text(&|row| row.unit.clone()),
        number(&|row| row.row.and_then(|row| i64::try_from(row).ok())),
        number(&|row| row.partition.map(i64::from)),
        number(&|row| row.offset),
        text(&|row| row.replay_of.clone()),
        number(&|row| Some(i64::from(row.attempt))),
        number(&|row| row.timestamp_ms),
        text(&|_| None),
        Arc::new(raw.iter().map(whole).collect::<StringArray>()),
        text(&|row| Some(row.raw_base64.clone())),
        number(&|row| i64::try_from(row.raw_bytes).ok()),
        Arc::new(at.collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new(raw.iter().map(Some).collect::<BinaryArray>()),
        Arc::new((0_i64..).take(rows.len()).collect::<Int64Array>()),
    ];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    RecordBatch::try_new(schema, columns)
        .map_err(|e| Error::internal(format!("dead rows make no table: {e}")))
}
