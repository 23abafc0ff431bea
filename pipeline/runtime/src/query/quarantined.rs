//! Topics that jobs fill as tables: the newest records of the `dead` or `late` topic of a source,
//! of a view's own topic of late rows, of the receipts of a view's windows, and of what late rows
//! changed in them.

use std::sync::Arc;

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    json::ReaderBuilder,
};
use datafusion::{common::TableReference, datasource::MemTable, prelude::SessionContext};
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{Error, Result};

use super::failed;
use crate::dead;

/// What follows the `$` in such a table's name.
pub(super) const KINDS: &[&str] = &["dead", "late"];
/// Records read at most from each partition, newest first counted: a look, not an export.
const RECORDS_MAX: i64 = 100_000;
/// Bytes of records read at most, for the same reason.
const BYTES_MAX: usize = 128 << 20;
/// Bytes decoded at once.
const CHUNK_BYTES: usize = 4 << 20;

/// What follows the `$` for the changes of a view.
pub(super) const REVISIONS: &str = "revisions";

/// What follows the `$` for the receipts of a view's windows.
pub(super) const RECEIPTS: &str = "receipts";

/// Registers the newest records of a topic.
pub(super) async fn register(
    session: &SessionContext,
    table: &TableReference,
    log: &KafkaLog,
    topic: &str,
    schema: SchemaRef,
) -> Result<()> {
    let mut batches = Vec::new();
    let mut lines = Vec::new();
    let foreign =
        |e: ArrowError| Error::internal(format!("topic '{topic}' holds other records: {e}"));
    for record in dead::newest(log, topic, RECORDS_MAX, BYTES_MAX).await? {
        lines.extend_from_slice(&record.payload.unwrap_or_default());
        lines.push(b'\n');
        if lines.len() >= CHUNK_BYTES {
            batches.extend(decode(&schema, &lines).map_err(foreign)?);
            lines.clear();
        }
    }
    batches.extend(decode(&schema, &lines).map_err(foreign)?);
    let memory = MemTable::try_new(schema, vec![batches]).map_err(failed)?;
    session.register_table(table.clone(), Arc::new(memory)).map_err(failed)?;
    Ok(())
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

/// The columns of receipts.
pub(crate) fn receipts() -> SchemaRef {
    Arc::new(Schema::new(vec![
        instant("window_start"),
        instant("window_end"),
        text("reason"),
        instant("watermark"),
        number("rows_in"),
        number("on_time"),
        number("behind"),
        number("rows_out"),
        number("late"),
        number("dead"),
        number("duplicates"),
        text("offsets"),
        number("epoch"),
        instant("at"),
    ]))
}

/// The columns of quarantined rows.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(dead::columns()))
}

fn decode(schema: &SchemaRef, lines: &[u8]) -> Result<Vec<arrow::array::RecordBatch>, ArrowError> {
    ReaderBuilder::new(Arc::clone(schema)).build(lines)?.collect()
}
