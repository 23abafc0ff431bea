//! Topics that jobs fill as tables: the newest records of the `dead` or `late` topic of a source,
//! of a view's own topic of late rows, and of what late rows changed in a view.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    json::ReaderBuilder,
};
use bytes::Bytes;
use datafusion::{common::TableReference, datasource::MemTable, prelude::SessionContext};
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{Error, RawRecord, Result};

use super::failed;

/// What follows the `$` in such a table's name.
pub(super) const KINDS: &[&str] = &["dead", "late"];
/// Records read at most from each partition, newest first counted: a look, not an export.
const RECORDS_MAX: i64 = 100_000;

/// What follows the `$` for the changes of a view.
pub(super) const REVISIONS: &str = "revisions";

/// Registers the newest records of a topic.
pub(super) async fn register(
    session: &SessionContext,
    table: &TableReference,
    log: &KafkaLog,
    topic: &str,
    schema: SchemaRef,
) -> Result<()> {
    let mut lines = Vec::new();
    if log.partitions(topic).await?.is_some() {
        let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
        for (partition, (low, high)) in log.watermarks(topic).await? {
            from.insert(partition, low.max(high.saturating_sub(RECORDS_MAX)));
            to.insert(partition, high);
        }
        let mut known = HashSet::new();
        for (_, record) in log.read_range(topic, &from, &to).await? {
            // A process that was stopped half way may have appended a row a second time.
            if identity(&record).is_some_and(|identity| !known.insert(identity)) {
                continue;
            }
            lines.extend_from_slice(&record.payload.unwrap_or_default());
            lines.push(b'\n');
        }
    }
    let batches = decode(&schema, &lines)
        .map_err(|e| Error::internal(format!("topic '{topic}' holds other records: {e}")))?;
    let memory = MemTable::try_new(schema, vec![batches]).map_err(failed)?;
    session.register_table(table.clone(), Arc::new(memory)).map_err(failed)?;
    Ok(())
}

/// What is the same for every copy of a row: its unit and number, or its id in the outbox.
fn identity(record: &RawRecord) -> Option<Vec<Bytes>> {
    let own = record.headers.iter().filter(|(name, _)| name.starts_with("tm-"));
    let parts: Vec<Bytes> = own.map(|(_, value)| value.clone()).collect();
    (!parts.is_empty()).then_some(parts)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn instant(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

/// The columns of changes.
pub(crate) fn revisions() -> SchemaRef {
    Arc::new(Schema::new(vec![
        instant("window_start"),
        instant("window_end"),
        text("key"),
        text("before"),
        text("after"),
        number("epoch"),
        number("late_rows"),
    ]))
}

/// The columns of quarantined rows.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("source"),
        text("query"),
        text("stage"),
        text("reason"),
        text("unit"),
        number("row"),
        number("partition"),
        number("offset"),
        text("watermark"),
        text("raw_text"),
        text("raw_base64"),
        number("raw_bytes"),
        instant("at"),
    ]))
}

fn decode(schema: &SchemaRef, lines: &[u8]) -> Result<Vec<arrow::array::RecordBatch>, ArrowError> {
    ReaderBuilder::new(Arc::clone(schema)).build(lines)?.collect()
}
