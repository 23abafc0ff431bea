//! The whole product on a topic, as a user would run it: statements, start, end, answers.

use std::sync::Arc;

use anyhow::{Result, bail};
use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimeUnit};
use tidemill_runtime::{Pipeline, Settings, StatementResult};

use crate::digest::Cell;
use crate::measure::{Stopwatch, cpu_ns};
use crate::{Digest, Measured};

/// Whether opening and registration count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The clock runs from the opening on.
    FromOpening,
    /// It runs from the start on; what was before is told apart.
    FromStart,
}

/// Runs scripts until the end of its bounded source is committed and published; then, with the
/// clock stopped, reads the answer.
///
/// # Errors
/// If anything fails on the way.
pub fn run(
    brokers: &str,
    scripts: &[String],
    clock: Clock,
    answer: impl AsyncFnOnce(&Pipeline) -> Result<Digest>,
) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let before = cpu_ns()?;
        let mut watch = Stopwatch::start()?;
        let pipeline = Pipeline::open(Settings {
            data_dir: folder.path().to_path_buf(),
            kafka_brokers: Some(brokers.to_string()),
            ..Settings::default()
        })
        .await?;
        for script in scripts {
            pipeline.execute(script).await?;
        }
        let mut setup_cpu_ns = 0;
        if clock == Clock::FromStart {
            setup_cpu_ns = cpu_ns()? - before;
            watch = Stopwatch::start()?;
        }
        pipeline.start().await?;
        if !pipeline.wait_drained().await? {
            bail!("the source is not bounded");
        }
        let mut measured = watch.stop()?;
        measured.setup_cpu_ns = setup_cpu_ns;
        if let Some(job) = pipeline.status().jobs.iter().find(|job| job.error.is_some()) {
            bail!("job {}: {:?}", job.name, job.error);
        }
        measured.digest = Some(answer(&pipeline).await?);
        pipeline.stop().await?;
        Ok(measured)
    })
}

/// The rows that some queries give; a query's number is its place.
///
/// # Errors
/// If a query fails or gives a type that no benchmark uses.
pub async fn rows(pipeline: &Pipeline, queries: &[String]) -> Result<Digest> {
    let mut digest = Digest::default();
    for (query, statement) in (0..).zip(queries) {
        for result in pipeline.execute(statement).await? {
            if let StatementResult::Rows { batches, .. } = result {
                for batch in &batches {
                    add_rows(&mut digest, query, batch)?;
                }
            }
        }
    }
    Ok(digest)
}

/// Adds the rows of a batch to the answer of a query.
///
/// # Errors
/// If a column has a type that no benchmark uses.
pub fn add_rows(digest: &mut Digest, query: u64, batch: &RecordBatch) -> Result<()> {
    let columns: Result<Vec<ArrayRef>> = batch.columns().iter().map(plain).collect();
    let columns = columns?;
    let mut cells = Vec::with_capacity(columns.len());
    for row in 0..batch.num_rows() {
        cells.clear();
        for column in &columns {
            cells.push(match column.data_type() {
                _ if column.is_null(row) => Cell::Null,
                DataType::Utf8 => Cell::Text(column.as_string::<i32>().value(row)),
                DataType::Int64 => {
                    Cell::Number(column.as_primitive::<Int64Type>().value(row).into())
                }
                _ => Cell::Number(column.as_primitive::<Decimal128Type>().value(row)),
            });
        }
        digest.row(query, &cells);
    }
    Ok(())
}

/// The column as text, 64-bit integers (instants in milliseconds) or decimals.
///
/// # Errors
/// If it has a type that no benchmark uses.
pub fn plain(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Utf8 => cast(column, &DataType::Utf8)?,
        DataType::Timestamp(..) => {
            let millis = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
            cast(&millis, &DataType::Int64)?
        }
        kind if kind.is_integer() => cast(column, &DataType::Int64)?,
        DataType::Decimal128(..) => Arc::clone(column),
        other => bail!("no benchmark reads a column of type {other}"),
    })
}
