//! One view as a table: its files, its closed rows that are not in a file yet, its live rows.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray},
    compute::cast as cast_array,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::{
    common::{JoinType, TableReference},
    datasource::{
        MemTable,
        file_format::parquet::ParquetFormat,
        listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl},
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{cast, ident, lit},
    prelude::{DataFrame, SessionContext},
};
use tidemill_connectors::{sinks::delta, store::Store};
use tidemill_contract::{Error, Result};

use super::failed;
use crate::job::ViewSnapshot;

/// The column that tells closed rows from live ones.
const IS_FINAL: &str = "is_final";
/// The bucket's URL inside a session.
const BUCKET: &str = "bucket://bucket";

/// Makes the bucket's files readable for the tables registered here. No SQL can name a file.
pub(super) fn register_bucket(session: &SessionContext, store: &Store) -> Result<()> {
    let url = ObjectStoreUrl::parse(BUCKET).map_err(failed)?;
    session.register_object_store(url.as_ref(), Store::clone(store));
    Ok(())
}

/// Registers a view's rows under its name.
pub(super) async fn register(
    session: &SessionContext,
    table: &TableReference,
    rows: ViewSnapshot,
) -> Result<()> {
    let schema = with_is_final(&rows.schema);
    let mut batches = Vec::with_capacity(rows.closed.rows.len() + rows.live.len());
    for batch in &rows.closed.rows {
        batches.push(marked(batch, &schema, true)?);
    }
    for batch in &rows.live {
        batches.push(marked(batch, &schema, false)?);
    }
    let memory = MemTable::try_new(Arc::clone(&schema), vec![batches]).map_err(failed)?;
    let mut frame = session.read_table(Arc::new(memory)).map_err(failed)?;
    if !rows.files.is_empty() {
        let files = read_files(session, &rows.schema, &rows.files)?;
        let files = without_replaced(session, files, &rows)?;
        frame = files.union(frame).map_err(failed)?;
    }
    session.register_table(table.clone(), frame.into_view()).map_err(failed)?;
    Ok(())
}

/// The rows of Parquet files in the view's own types, marked as closed.
fn read_files(session: &SessionContext, schema: &SchemaRef, files: &[String]) -> Result<DataFrame> {
    let mut urls = Vec::with_capacity(files.len());
    for file in files {
        urls.push(ListingTableUrl::parse(format!("{BUCKET}/{file}")).map_err(failed)?);
    }
    let format = ParquetFormat::default().with_force_view_types(false);
    let options = ListingOptions::new(Arc::new(format)).with_file_extension("");
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(options)
        .with_schema(delta::lake_schema(schema)?);
    let table = ListingTable::try_new(config).map_err(failed)?;
    let mut columns = Vec::with_capacity(schema.fields().len() + 1);
    for field in schema.fields() {
        columns.push(cast(ident(field.name()), field.data_type().clone()).alias(field.name()));
    }
    columns.push(lit(true).alias(IS_FINAL));
    session.read_table(Arc::new(table)).and_then(|frame| frame.select(columns)).map_err(failed)
}

/// The rows of files without those of windows that were revised since.
fn without_replaced(
    session: &SessionContext,
    files: DataFrame,
    rows: &ViewSnapshot,
) -> Result<DataFrame> {
    let closed = &rows.closed;
    let Some((start, end)) = closed.columns.as_ref().filter(|_| !closed.replaced.is_empty()) else {
        return Ok(files);
    };
    let instants = |name: &str, values: Vec<i64>| -> Result<(Field, ArrayRef), ArrowError> {
        let data_type = rows.schema.field_with_name(name)?.data_type().clone();
        let column = cast_array(&TimestampMicrosecondArray::from(values), &data_type)?;
        Ok((Field::new(format!("replaced.{name}"), data_type, false), column))
    };
    let windows = &closed.replaced;
    let table = instants(start, windows.iter().map(|window| window.start).collect())
        .and_then(|start| {
            let end = instants(end, windows.iter().map(|window| window.end).collect())?;
            let schema = Arc::new(Schema::new(vec![start.0, end.0]));
            RecordBatch::try_new(schema, vec![start.1, end.1])
        })
        .map_err(|e| Error::internal(format!("windows are no table: {e}")))?;
    let memory = MemTable::try_new(table.schema(), vec![vec![table]]).map_err(failed)?;
    let replaced = session.read_table(Arc::new(memory)).map_err(failed)?;
    let same = [(start, "replaced."), (end, "replaced.")]
        .map(|(name, prefix)| ident(name).eq(ident(format!("{prefix}{name}"))));
    files.join_on(replaced, JoinType::LeftAnti, same).map_err(failed)
}

fn with_is_final(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Field> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    fields.push(Field::new(IS_FINAL, DataType::Boolean, true));
    Arc::new(Schema::new(fields))
}

fn marked(batch: &RecordBatch, schema: &SchemaRef, is_final: bool) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns.push(Arc::new(BooleanArray::from(vec![is_final; batch.num_rows()])));
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|e| Error::internal(format!("rows of a view do not fit its columns: {e}")))
}
