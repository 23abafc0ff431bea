//! Topics that jobs fill as tables: the newest records of the `dead` or `late` topic of a source,
//! of a view's own topic of late rows, of the receipts of a view's windows, and of what late rows
//! changed in them.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, UInt64Array},
    compute::{filter_record_batch, kernels::cmp::eq},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    json::ReaderBuilder,
};
use datafusion::{common::TableReference, datasource::MemTable, prelude::SessionContext};
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{Error, Result};
use tidemill_sql::parse::Late;

use super::{Scope, failed};
use crate::{
    dead,
    job::{self, QUERY_NUMBER},
};

/// What follows the `$` in such a table's name.
const KINDS: &[&str] = &["dead", "late"];
/// Records read at most from each partition, newest first counted: a look, not an export.
const RECORDS_MAX: i64 = 100_000;
/// Bytes of records read at most, for the same reason.
const BYTES_MAX: usize = 128 << 20;
/// Bytes decoded at once.
const CHUNK_BYTES: usize = 4 << 20;

/// A topic that reads as a table.
pub(super) struct Relation {
    topic: String,
    schema: SchemaRef,
    /// Only the records of the query with this number: those of a view that was dropped are of
    /// another one by the same name.
    of_query: Option<u64>,
}

/// The topic behind a name.
pub(super) fn find(scope: &Scope, name: &str) -> Option<Relation> {
    let rows = |topic: String| Relation { topic, schema: schema(), of_query: None };
    if scope.catalog.late_relation(name).is_some() {
        return Some(rows(name.to_owned()));
    }
    let (object, kind) = name.rsplit_once('$')?;
    if KINDS.contains(&kind) && scope.catalog.source(object).is_some() {
        return Some(rows(format!("{object}.{kind}")));
    }
    let view = scope.catalog.views().find(|view| view.name == object)?;
    let (topic, schema) = match kind {
        "receipts" if view.plan.window.is_some() => (job::receipts_topic(object), receipts()),
        "revisions" if matches!(view.late, Late::Revise(_)) => {
            (job::revisions_topic(object), revisions())
        }
        _ => return None,
    };
    Some(Relation { topic, schema, of_query: scope.created.get(object).copied() })
}

/// Registers the newest records of a topic.
pub(super) async fn register(
    session: &SessionContext,
    table: &TableReference,
    log: &KafkaLog,
    relation: Relation,
) -> Result<()> {
    let Relation { topic, schema, of_query } = relation;
    let mut batches = Vec::new();
    let mut lines = Vec::new();
    let foreign =
        |e: ArrowError| Error::internal(format!("topic '{topic}' holds other records: {e}"));
    let decode = |lines: &[u8]| decode(&schema, of_query, lines);
    for record in dead::newest(log, &topic, RECORDS_MAX, BYTES_MAX).await? {
        lines.extend_from_slice(&record.payload.unwrap_or_default());
        lines.push(b'\n');
        if lines.len() >= CHUNK_BYTES {
            batches.extend(decode(&lines).map_err(foreign)?);
            lines.clear();
        }
    }
    batches.extend(decode(&lines).map_err(foreign)?);
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

/// The rows of JSON lines; if a query's number is given, only those that have it.
fn decode(
    schema: &SchemaRef,
    of_query: Option<u64>,
    lines: &[u8],
) -> Result<Vec<RecordBatch>, ArrowError> {
    let Some(wanted) = of_query else {
        return ReaderBuilder::new(Arc::clone(schema)).build(lines)?.collect();
    };
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| (**field).clone()).collect();
    fields.push(Field::new(QUERY_NUMBER, DataType::UInt64, true));
    let mut kept = Vec::new();
    for batch in ReaderBuilder::new(Arc::new(Schema::new(fields))).build(lines)? {
        let batch = batch?;
        let last = batch.num_columns() - 1;
        let mine = eq(batch.column(last), &UInt64Array::new_scalar(wanted))?;
        let columns: Vec<usize> = (0..last).collect();
        kept.push(filter_record_batch(&batch.project(&columns)?, &mine)?);
    }
    Ok(kept)
}
