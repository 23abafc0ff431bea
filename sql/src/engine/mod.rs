//! The operators of one job: rows in, finished windows out.
//!
//! Sans-I/O and synchronous. Queries with the same source, filter and keys share one slice store;
//! a view over a view is fed from the view's emissions inside the same engine.
//!
//! **Invariants.** For each query `rows in = counted + filtered + late`. What is emitted depends
//! only on the rows and the watermarks, never on batch boundaries or on time. A snapshot taken
//! between calls and restored into an engine built from the same queries gives the same future.
//! How many revisions a window has depends on when they are asked for; the last one does not.

mod assign;
mod fault;
mod group;
mod keys;
mod merge;
mod metadata;
mod program;
mod receipt;
mod revise;
mod rows;
mod running;
mod slice;
mod state;
mod store;
mod top;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::array::{UInt32Array, UInt32Builder};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, UInt32Type};
use datafusion::common::DataFusionError;
use serde::{Deserialize, Serialize};
use tidemill_contract::{
    Emission, EmissionKind, Error, EventBatch, Micros, Result, Watermark, WindowBounds,
};

pub use fault::Fault;
pub use program::SourceProgram;
pub use receipt::{Provenance, Receipt};
pub use state::{Snapshot, StatePart};

use crate::catalog::Catalog;
use crate::parse::Late;
use crate::plan::{QueryPlan, Shape, run_error};
use fault::caught;
use group::{Closed, Group};
use receipt::Origin;
use rows::{Rows, run_steps};

/// What became of a query's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryCounters {
    /// Rows given to the query.
    pub rows_in: u64,
    /// Rows that reached a result (or an open window).
    pub counted: u64,
    /// Rows a WHERE clause dropped.
    pub filtered: u64,
    /// Rows with no open window left.
    pub late: u64,
    /// Rows among the counted ones that changed a closed window.
    #[serde(default)]
    pub revised: u64,
}

/// State that queries with the same source, filter and keys share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The queries.
    pub queries: Vec<String>,
    /// Bytes held.
    pub bytes: usize,
}

/// A row with no open window left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    /// The query it is late for.
    pub query: String,
    /// Index of its record in the raw batch it came from.
    pub record_index: u32,
}

/// A window that is open, and when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextToClose {
    /// The window.
    pub window: WindowBounds,
    /// The source's watermark that closes it: its end, and for a view over a view what the views
    /// below it lie behind.
    pub closes_at: Micros,
    /// Open windows of the query with rows, this one included.
    pub open: usize,
}

/// What a push gave.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Rows of stateless queries.
    pub emissions: Vec<Emission>,
    /// Rows that came too late for some query.
    pub late: Vec<LateRow>,
}

#[derive(Debug)]
struct Stateless {
    query: String,
    plan: Arc<QueryPlan>,
    counters: QueryCounters,
}

/// The queries that read one stream.
#[derive(Debug, Default)]
struct Readers {
    groups: Vec<Group>,
    stateless: Vec<Stateless>,
}

/// The operators of one job.
#[derive(Debug)]
pub struct Engine {
    source: String,
    readers: BTreeMap<String, Readers>,
    watermark: Watermark,
    /// Number of the newest part of the state.
    last_part: u64,
}

fn wrap(error: DataFusionError) -> Error {
    run_error(&error)
}

impl Engine {
    /// Builds the operators of `queries`, all of which read `source` or a view among them.
    ///
    /// # Errors
    /// If a query is unknown or reads a view that is not among `queries`.
    pub fn build(catalog: &Catalog, source: &str, queries: &[String]) -> Result<Self> {
        let mut engine = Self {
            source: source.to_owned(),
            readers: BTreeMap::new(),
            watermark: Watermark::MIN,
            last_part: 0,
        };
        for name in queries {
            let query = catalog
                .query(name)
                .ok_or_else(|| Error::internal(format!("query '{name}' is not registered")))?;
            let input = &query.plan.input;
            if input != source && !queries.contains(input) {
                return Err(Error::internal(format!("'{name}' reads '{input}' of another job")));
            }
            let readers = engine.readers.entry(input.clone()).or_default();
            match &query.plan.shape {
                Shape::Stateless { .. } => readers.stateless.push(Stateless {
                    query: name.clone(),
                    plan: Arc::clone(&query.plan),
                    counters: QueryCounters::default(),
                }),
                Shape::Windowed(windowed) => {
                    let behind = catalog.behind(input, windowed.time_index);
                    let known =
                        readers.groups.iter().position(|group| group.sharing == windowed.sharing);
                    let index = match known {
                        Some(index) => index,
                        None => {
                            readers.groups.push(Group::new(windowed, behind).map_err(wrap)?);
                            readers.groups.len() - 1
                        }
                    };
                    let revise = match query.late {
                        Late::Revise(horizon) => Some(horizon),
                        _ => None,
                    };
                    let group = &mut readers.groups[index];
                    group.join(name, windowed, &query.schema, revise).map_err(wrap)?;
                }
            }
        }
        Ok(engine)
    }

    /// Adds rows of the source. Stateless queries give their rows at once.
    ///
    /// # Errors
    /// If an expression fails on the data or panics; the engine is then unusable.
    pub fn push(&mut self, batch: &EventBatch) -> Result<Pushed, Fault> {
        let mut pushed = Pushed::default();
        let time = batch.event_time.as_ref().map(|time| Arc::new(time.clone()) as ArrayRef);
        let source = self.source.clone();
        self.push_rows(&source, &batch.rows, time, &Origin::Records(batch), &mut pushed)?;
        for late in &mut pushed.late {
            if let Some(record) = batch.record_index.get(late.record_index as usize) {
                late.record_index = *record;
            }
        }
        Ok(pushed)
    }

    fn push_rows(
        &mut self,
        input: &str,
        batch: &RecordBatch,
        time: Option<ArrayRef>,
        origin: &Origin<'_>,
        pushed: &mut Pushed,
    ) -> Result<(), Fault> {
        let Some(mut readers) = self.readers.remove(input) else { return Ok(()) };
        for group in &mut readers.groups {
            let late = caught(|| {
                let time = match &time {
                    Some(time) => Arc::clone(time),
                    None => event_time(batch.column(group.time_index()))?,
                };
                group.push(batch, time, origin)
            });
            pushed.late.extend(late.map_err(|fault| fault.of(group.queries()))?);
        }
        for stateless in &mut readers.stateless {
            let rows = caught(|| stateless.push(batch));
            let rows = rows.map_err(|fault| fault.of([stateless.query.clone()]))?;
            if let Some((rows, from)) = rows {
                let known = pushed.late.len();
                let origin = Origin::Through(origin, &from);
                self.push_rows(&stateless.query, &rows, None, &origin, pushed)?;
                for late in &mut pushed.late[known..] {
                    late.record_index = from.value(late.record_index as usize);
                }
                pushed.emissions.push(emission(&stateless.query, rows));
            }
        }
        self.readers.insert(input.to_owned(), readers);
        Ok(())
    }

    /// Moves the watermark: closes windows and gives their rows, of views over views too.
    ///
    /// # Errors
    /// If an expression fails on the data or panics; the engine is then unusable.
    pub fn advance(&mut self, watermark: Watermark) -> Result<Vec<Emission>, Fault> {
        if watermark <= self.watermark {
            return Ok(Vec::new());
        }
        self.watermark = watermark;
        let mut emissions = Vec::new();
        let source = self.source.clone();
        self.advance_input(&source, watermark, &mut emissions)?;
        Ok(emissions)
    }

    fn advance_input(
        &mut self,
        input: &str,
        watermark: Watermark,
        emissions: &mut Vec<Emission>,
    ) -> Result<(), Fault> {
        let Some(mut readers) = self.readers.remove(input) else { return Ok(()) };
        for group in &mut readers.groups {
            let reached = behind(watermark, group.behind);
            for closed in group.advance(reached)? {
                let mut pushed = Pushed::default();
                // Nothing reads a view that is revised.
                if closed.revision.is_none() {
                    let origin = Origin::Window(&closed.from);
                    self.push_rows(&closed.query, &closed.rows, None, &origin, &mut pushed)?;
                }
                emissions.push(closed.into());
                emissions.extend(pushed.emissions);
            }
            for client in &group.clients {
                self.advance_input(&client.query, reached, emissions)?;
            }
        }
        for stateless in &readers.stateless {
            self.advance_input(&stateless.query, watermark, emissions)?;
        }
        self.readers.insert(input.to_owned(), readers);
        Ok(())
    }

    /// The rows of a query's open windows as they stand; the state's value does not change. `None`
    /// if they come to more than `limit` bytes.
    ///
    /// # Errors
    /// If an expression fails on the data or panics; [`Fault::is_harmless`] says whether the engine
    /// can still be used.
    pub fn peek(&mut self, query: &str, limit: usize) -> Result<Option<Vec<Emission>>, Fault> {
        let mut live = Vec::new();
        for readers in self.readers.values_mut() {
            for group in &mut readers.groups {
                let Some(windows) = group.peek(query, limit)? else {
                    return Ok(None);
                };
                live.extend(windows.into_iter().map(Emission::from));
            }
        }
        Ok(Some(live))
    }

    /// What the state of each group of queries holds in memory.
    pub fn usage(&self) -> Vec<Usage> {
        let groups = self.readers.values().flat_map(|readers| &readers.groups);
        groups
            .map(|group| Usage {
                queries: group.clients.iter().map(|client| client.query.clone()).collect(),
                bytes: group.bytes(),
            })
            .collect()
    }

    /// The window of a query that closes next, among those with rows.
    pub fn next_to_close(&self, query: &str) -> Option<NextToClose> {
        let groups = self.readers.values().flat_map(|readers| &readers.groups);
        groups.into_iter().find_map(|group| group.next_to_close(query))
    }

    /// What late rows changed in closed windows of views with `LATE REVISE` since it was asked
    /// last. Windows whose time for revisions is over say so with [`Self::advance`].
    ///
    /// # Errors
    /// If an expression fails on the data.
    pub fn revise(&mut self) -> Result<Vec<Emission>, Fault> {
        let mut emissions = Vec::new();
        for group in self.readers.values_mut().flat_map(|readers| &mut readers.groups) {
            emissions.extend(group.revise()?.into_iter().map(Emission::from));
        }
        Ok(emissions)
    }

    /// What [`Self::revise`] would say of one query, without saying it.
    ///
    /// # Errors
    /// If an expression fails on the data.
    pub fn peek_revisions(&mut self, query: &str) -> Result<Vec<Emission>, Fault> {
        let mut emissions = Vec::new();
        for group in self.readers.values_mut().flat_map(|readers| &mut readers.groups) {
            let revised = group.peek_revisions(query)?;
            emissions.extend(revised.into_iter().map(Emission::from));
        }
        Ok(emissions)
    }

    /// The receipts of the windows said since they were asked for last. A snapshot has none of
    /// them: ask before it.
    pub fn take_receipts(&mut self) -> Vec<Receipt> {
        let groups = self.readers.values_mut().flat_map(|readers| &mut readers.groups);
        groups.flat_map(|group| std::mem::take(&mut group.receipts)).collect()
    }

    /// Slices held, over all groups: of open windows, and of closed ones that may be revised.
    pub fn open_slices(&self) -> usize {
        self.readers
            .values()
            .flat_map(|readers| &readers.groups)
            .map(|group| group.store.slices.len())
            .sum()
    }

    /// What became of each query's rows.
    pub fn counters(&self) -> BTreeMap<String, QueryCounters> {
        let mut counters = BTreeMap::new();
        for readers in self.readers.values() {
            for client in readers.groups.iter().flat_map(|group| &group.clients) {
                counters.insert(client.query.clone(), client.counters);
            }
            for stateless in &readers.stateless {
                counters.insert(stateless.query.clone(), stateless.counters);
            }
        }
        counters
    }
}

impl Stateless {
    /// The rows it gives, and for each the index of the row it comes from.
    fn push(
        &mut self,
        batch: &RecordBatch,
    ) -> Result<Option<(RecordBatch, UInt32Array)>, DataFusionError> {
        let Shape::Stateless { expand, steps } = &self.plan.shape else { return Ok(None) };
        let pushed = batch.num_rows();
        let rows = match expand {
            None => Rows {
                batch: batch.clone(),
                time: None,
                origin: Arc::new(UInt32Array::from_iter_values(0..pushed as u32)),
            },
            Some((window, time_index)) => expanded(batch, window, *time_index)?,
        };
        let rows = run_steps(rows, steps)?;
        let origin: UInt32Array = rows.origin.as_primitive::<UInt32Type>().clone();
        let kept = distinct(&origin);
        self.counters.rows_in += pushed as u64;
        self.counters.counted += kept;
        self.counters.filtered += pushed as u64 - kept;
        if rows.batch.num_rows() == 0 {
            return Ok(None);
        }
        let columns = rows.batch.columns().to_vec();
        let given = rows::batch_of(&self.plan.schema, columns, rows.batch.num_rows())?;
        Ok(Some((given, origin)))
    }
}

/// Each row once per window it lies in, with the window's bounds.
fn expanded(
    batch: &RecordBatch,
    window: &crate::window::WindowSpec,
    time_index: usize,
) -> Result<Rows, DataFusionError> {
    let times = event_time(batch.column(time_index))?;
    let times = times.as_primitive::<Int64Type>();
    let mut origin = UInt32Builder::new();
    let (mut starts, mut ends, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    for (row, time) in times.iter().enumerate() {
        for bounds in time.map(|time| window.windows_at(time)).unwrap_or_default() {
            origin.append_value(row as u32);
            starts.push(bounds.start);
            ends.push(bounds.end);
            lasts.push(bounds.end - 1_000);
        }
    }
    let origin = origin.finish();
    let taken = take_record_batch(batch, &origin)?;
    let mut columns = taken.columns().to_vec();
    let mut fields: Vec<_> = taken.schema().fields().iter().map(Arc::clone).collect();
    for (name, values) in [("window_start", starts), ("window_end", ends), ("window_time", lasts)] {
        let zone = match batch.column(time_index).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let array = TimestampMicrosecondArray::from(values).with_timezone_opt(zone);
        let field = Field::new(name, array.data_type().clone(), true);
        fields.push(Arc::new(field));
        columns.push(Arc::new(array));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = rows::batch_of(&schema, columns, origin.len())?;
    Ok(Rows { batch, time: None, origin: Arc::new(origin) })
}

/// How many different values an ascending list has.
fn distinct(ascending: &UInt32Array) -> u64 {
    let values = ascending.values();
    let steps = values.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    steps + u64::from(!values.is_empty())
}

/// A time column as microseconds.
fn event_time(column: &ArrayRef) -> Result<ArrayRef, DataFusionError> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    Ok(cast(&micros, &DataType::Int64)?)
}

fn behind(watermark: Watermark, distance: Micros) -> Watermark {
    if watermark == Watermark::MAX {
        return watermark;
    }
    Watermark(watermark.0.saturating_sub(distance))
}

/// Rows of a stateless query.
fn emission(query: &str, rows: RecordBatch) -> Emission {
    Emission { query: query.to_owned(), window: None, kind: EmissionKind::Final, rows }
}

impl From<Closed> for Emission {
    fn from(closed: Closed) -> Self {
        let kind = match closed.revision {
            None => EmissionKind::Final,
            Some(pending) => {
                EmissionKind::Revision { before: pending.before, late_rows: pending.late_rows }
            }
        };
        Self { query: closed.query, window: Some(closed.window), kind, rows: closed.rows }
    }
}
