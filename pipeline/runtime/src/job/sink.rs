//! Rows of a sink as outbox records: JSON for a topic, bytes of the declared format for a file.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tidemill_connectors::{
    format::json,
    sinks::{self, Delivery, filesystem::FileSink},
};
use tidemill_contract::{Error, Result, SinkSpec};

use crate::outbox::{Outbox, OutboxRecord, OutboxTarget, sequence_id};

/// Writes the rows of one sink.
#[derive(Debug)]
pub(super) struct SinkWriter {
    name: String,
    target: OutboxTarget,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Topic { key: Vec<usize> },
    File(FileSink),
}

impl SinkWriter {
    /// The writer of a sink whose rows have these columns.
    pub(super) fn new(spec: &SinkSpec, schema: &arrow::datatypes::Schema) -> Result<Self> {
        let object = format!("sink '{}'", spec.name);
        let (target, form) = match sinks::delivery(spec)? {
            Delivery::Topic => {
                let name = spec.options.require("topic", &object)?.to_owned();
                (OutboxTarget::Topic { name }, Form::Topic { key: key_columns(spec, schema)? })
            }
            Delivery::File => {
                let file = FileSink::new(spec)?;
                let path = file.path().to_string_lossy().into_owned();
                (OutboxTarget::File { sink: spec.name.clone(), path }, Form::File(file))
            }
        };
        Ok(Self { name: spec.name.clone(), target, form })
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&FileSink> {
        match &self.form {
            Form::File(file) => Some(file),
            Form::Topic { .. } => None,
        }
    }

    /// Adds rows to the outbox. `file_bytes` holds the length of each file sink, what waits in the
    /// outbox included.
    pub(super) fn write(
        &self,
        rows: &RecordBatch,
        job: &str,
        epoch: u64,
        outbox: &mut Outbox,
        file_bytes: &mut BTreeMap<String, u64>,
    ) -> Result<()> {
        match &self.form {
            Form::File(file) => {
                let length = file_bytes.entry(self.name.clone()).or_default();
                let bytes = file.encode(rows, *length == 0)?;
                *length += bytes.len() as u64;
                let id = sequence_id(job, epoch, outbox.len());
                outbox.push(&self.target, record(id, None, bytes))
            }
            Form::Topic { key } => {
                let mut keys = keys(rows, key)?.into_iter();
                for payload in json::encode(rows)? {
                    let id = sequence_id(job, epoch, outbox.len());
                    outbox.push(&self.target, record(id, keys.next(), payload))?;
                }
                Ok(())
            }
        }
    }
}

fn record(id: String, key: Option<Bytes>, payload: Bytes) -> OutboxRecord {
    OutboxRecord { id, key, payload: Some(payload), headers: Vec::new(), timestamp_ms: None }
}

fn key_columns(spec: &SinkSpec, schema: &arrow::datatypes::Schema) -> Result<Vec<usize>> {
    let Some(names) = spec.options.get("key.fields") else { return Ok(Vec::new()) };
    let mut columns = Vec::new();
    for name in names.split([';', ',']).map(str::trim).filter(|name| !name.is_empty()) {
        columns.push(schema.index_of(name).map_err(|_| {
            Error::invalid("TM114", format!("sink '{}' has no column '{name}'", spec.name))
                .at(spec.options.span("key.fields"))
        })?);
    }
    Ok(columns)
}

/// The key of each row, a JSON object; none without key columns.
fn keys(rows: &RecordBatch, columns: &[usize]) -> Result<Vec<Bytes>> {
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let projected = rows
        .project(columns)
        .map_err(|e| Error::internal(format!("key columns cannot be taken: {e}")))?;
    json::encode(&projected)
}
