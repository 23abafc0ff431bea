//! The clauses of a `REPLAY`, run over one page of dead rows.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use bytes::Bytes;
use datafusion::{
    datasource::MemTable,
    prelude::{SessionConfig, SessionContext},
    sql::{parser::Statement, sqlparser::ast},
};
use tidemill_contract::{Error, Result};
use tidemill_sql::{
    parse::{DEAD_TABLE, SelectQuery},
    plan::plan_error,
};

use super::row::{DeadRow, table};

/// The numbers of the rows a condition holds for.
pub(super) async fn matching(
    condition: &SelectQuery,
    rows: &[&DeadRow],
    raw: &[Bytes],
) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for batch in run(condition, rows, raw).await? {
        found.extend(numbers(&batch)?);
    }
    found.sort_unstable();
    Ok(found)
}

/// The new payload of each row; `None` where the expression is NULL.
pub(super) async fn payloads(
    transform: &SelectQuery,
    rows: &[&DeadRow],
    raw: &[Bytes],
) -> Result<Vec<Option<Bytes>>> {
    let mut payloads = vec![None; rows.len()];
    for batch in run(transform, rows, raw).await? {
        let column = batch.column(1);
        let is_text =
            matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let is_bytes = matches!(
            column.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        );
        if !is_text && !is_bytes && column.data_type() != &DataType::Null {
            let span = tidemill_contract::Span {
                start: transform.offset,
                end: transform.offset + transform.text.len(),
            };
            let what = format!("WITH gives {}, not a payload", column.data_type());
            return Err(Error::invalid("TM641", what)
                .at(Some(span))
                .help("write an expression that gives text or bytes, e.g. replace(raw_text, …)"));
        }
        let bytes = cast(column, &DataType::Binary)
            .map_err(|e| Error::internal(format!("a payload has no bytes: {e}")))?;
        let bytes = bytes.as_binary::<i32>();
        for (place, number) in numbers(&batch)?.into_iter().enumerate() {
            if let Some(slot) = payloads.get_mut(number).filter(|_| bytes.is_valid(place)) {
                *slot = Some(Bytes::copy_from_slice(bytes.value(place)));
            }
        }
    }
    Ok(payloads)
}

async fn run(query: &SelectQuery, rows: &[&DeadRow], raw: &[Bytes]) -> Result<Vec<RecordBatch>> {
    let batch = table(rows, raw)?;
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(false)
        .set_bool("datafusion.sql_parser.collect_spans", true);
    let session = SessionContext::new_with_config(config);
    let memory = MemTable::try_new(batch.schema(), vec![vec![batch]]);
    let registered = memory.map(|memory| session.register_table(DEAD_TABLE, Arc::new(memory)));
    registered.and_then(|done| done).map_err(crate::query::failed)?;
    let statement = ast::Statement::Query(Box::new(query.ast.clone()));
    let statement = Statement::Statement(Box::new(statement));
    let plan = session.state().statement_to_plan(statement).await;
    let plan = plan.map_err(|error| plan_error(&error, query))?;
    let frame = session.execute_logical_plan(plan).await.map_err(crate::query::failed)?;
    frame.collect().await.map_err(crate::query::failed)
}

fn numbers(batch: &RecordBatch) -> Result<Vec<usize>> {
    let column = batch.column(0).as_primitive::<Int64Type>();
    let numbers = column.values().iter().map(|number| usize::try_from(*number));
    numbers
        .collect::<Result<_, _>>()
        .map_err(|e| Error::internal(format!("a dead row's number: {e}")))
}
