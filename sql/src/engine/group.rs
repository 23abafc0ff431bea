//! A group: the queries that share source, filter and keys, with their one slice store.
//!
//! **Invariants.** Every row of the group is added to at most one slice. For each query
//! `rows_in = counted + filtered + late`. A window is emitted once: when the watermark passes its
//! end; `closed` is the watermark up to which that has happened. What late rows change in it
//! afterwards is a revision (see [`super::revise`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef, UInt32Type};
use datafusion::common::{Result, cast::as_boolean_array};
use datafusion::physical_plan::aggregates::evaluate_group_by;
use tidemill_contract::{Micros, Watermark, WindowBounds};

use super::fault::{Fault, caught};
use super::receipt::{Origin, Provenance, Receipt, behind};
use super::revise::{Pending, Reopened};
use super::rows::{Rows, batch_of, evaluate, run_finite, run_steps};
use super::store::{Prepared, SliceStore};
use super::top::Top;
use super::{LateRow, NextToClose, QueryCounters};
use crate::plan::{Aggregate, OutputColumn, Windowed};
use crate::window::{Grid, WindowSpec};

/// Windows in which a row lies from which on they are merged as they move: for fewer, merging all
/// slices costs no more.
const RUNNING_OVERLAP: i64 = 4;

/// Rows emitted by one query for one window.
pub(crate) struct Closed {
    pub(crate) query: String,
    pub(crate) window: WindowBounds,
    pub(crate) rows: RecordBatch,
    /// Where what it was computed from came from, for those who read the query; only a window
    /// that closes has it.
    pub(crate) from: Provenance,
    /// What was said before, if this is a revision.
    pub(crate) revision: Option<Pending>,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) query: String,
    pub(crate) plan: Arc<Windowed>,
    pub(crate) schema: SchemaRef,
    /// Index in the store of each of the query's aggregates.
    aggregates: Vec<usize>,
    /// Index in the store of the running merge for its windows, if they overlap enough.
    running: Option<usize>,
    /// Its order, if it keeps only the first rows.
    top: Option<Top>,
    /// No window ends after `closed` and before this.
    next_edge: Micros,
    /// For how long after its end a window is revised.
    pub(super) revise: Option<Micros>,
    pub(crate) counters: QueryCounters,
}

impl Client {
    /// The first edge of a window after this time; far from any window it is not known.
    fn edge_after(&self, time: Micros) -> Micros {
        let is_near = time.unsigned_abs() < Micros::MAX.unsigned_abs() / 2;
        if is_near { self.grid().edge_after(time) } else { Micros::MIN }
    }

    pub(super) fn grid(&self) -> &dyn Grid {
        self.plan.window.grid()
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) sharing: String,
    pub(crate) clients: Vec<Client>,
    /// The different windows of the queries.
    pub(super) windows: BTreeMap<String, WindowSpec>,
    pub(crate) store: SliceStore,
    /// All windows with `end <= closed` have been emitted.
    pub(crate) closed: Watermark,
    /// How far the group's time column may lie behind the watermark of its input.
    pub(crate) behind: Micros,
    /// Closed windows that late rows were added to since they were said last.
    pub(super) pending: BTreeMap<Reopened, Pending>,
    /// Of windows said since they were asked for last.
    pub(super) receipts: Vec<Receipt>,
    /// Empty window columns, kept for the largest batch seen.
    empty_window: Option<ArrayRef>,
}

impl Group {
    pub(crate) fn new(plan: &Arc<Windowed>, behind: Micros) -> Result<Self> {
        Ok(Self {
            sharing: plan.sharing.clone(),
            clients: Vec::new(),
            windows: BTreeMap::new(),
            store: SliceStore::new(Arc::clone(&plan.key_schema))?,
            closed: Watermark::MIN,
            behind,
            pending: BTreeMap::new(),
            receipts: Vec::new(),
            empty_window: None,
        })
    }

    pub(crate) fn join(
        &mut self,
        query: &str,
        plan: &Arc<Windowed>,
        schema: &SchemaRef,
        revise: Option<Micros>,
    ) -> Result<()> {
        let aggregates: Vec<usize> =
            plan.aggregates.iter().map(|item| self.store.aggregate_index(item)).collect();
        let running = if plan.window.overlap() >= RUNNING_OVERLAP {
            self.store.running_index(plan.window.to_string(), &aggregates)?
        } else {
            None
        };
        self.windows.entry(plan.window.to_string()).or_insert_with(|| plan.window.clone());
        self.clients.push(Client {
            query: query.to_owned(),
            plan: Arc::clone(plan),
            schema: Arc::clone(schema),
            aggregates,
            running,
            top: Top::of(plan),
            next_edge: Micros::MIN,
            revise,
            counters: QueryCounters::default(),
        });
        Ok(())
    }

    /// The names of the group's queries.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.clients.iter().map(|client| client.query.clone()).collect()
    }

    /// The queries that use an aggregate of the store.
    fn users(&self, aggregate: usize) -> Vec<String> {
        let users = self.clients.iter().filter(|client| client.aggregates.contains(&aggregate));
        users.map(|client| client.query.clone()).collect()
    }

    fn plan(&self) -> &Windowed {
        &self.clients[0].plan
    }

    /// Index of the time column in the input's rows.
    pub(crate) fn time_index(&self) -> usize {
        self.plan().time_index
    }

    /// Adds rows of the input; returns the rows that are late for some query.
    pub(crate) fn push(
        &mut self,
        batch: &RecordBatch,
        time: ArrayRef,
        origin: &Origin<'_>,
    ) -> Result<Vec<LateRow>, Fault> {
        let pushed = batch.num_rows();
        let rows = Rows {
            batch: self.with_window_columns(batch)?,
            time: Some(time),
            origin: Arc::new(UInt32Array::from_iter_values(0..pushed as u32)),
        };
        let rows = run_steps(rows, &self.plan().steps)?;
        let kept = rows.batch.num_rows();
        for client in &mut self.clients {
            client.counters.rows_in += pushed as u64;
            client.counters.filtered += (pushed - kept) as u64;
        }
        let Some(time) = rows.time.as_ref().filter(|_| kept > 0) else {
            return Ok(Vec::new());
        };
        let time = time.as_primitive::<Int64Type>();
        let slices = self.assign(time);
        let mut late = Vec::new();
        let mut open = Vec::new();
        for (bounds, members) in slices {
            self.reopen(bounds.0, members.as_ref().map_or(kept, Array::len) as u64)?;
            if self.judge(bounds.0, members.as_ref(), &rows, &mut late) {
                open.push((bounds, members));
            }
        }
        if open.is_empty() {
            return Ok(late);
        }
        for prepared in self.prepare(&rows.batch)? {
            for (bounds, members) in &open {
                self.store.add(*bounds, &prepared, members.as_ref())?;
            }
        }
        let origin = Origin::Through(origin, rows.origin.as_primitive::<UInt32Type>());
        for ((start, _), members) in &open {
            let from = self.came_from(time, members.as_ref(), &origin);
            self.store.note(*start, &from);
        }
        Ok(late)
    }

    /// Where rows that are added to a slice come from: all rows, or those listed.
    fn came_from(
        &self,
        time: &Int64Array,
        members: Option<&UInt32Array>,
        origin: &Origin<'_>,
    ) -> Provenance {
        let (times, mark) = (time.values(), self.closed.0);
        let mut from = Provenance::default();
        let (first, last) = match members {
            Some(members) => {
                let rows = members.values();
                from.rows = rows.len() as u64;
                from.behind = behind(rows.iter().map(|row| times[*row as usize]), mark);
                (rows[0], rows[rows.len() - 1])
            }
            None => {
                from.rows = times.len() as u64;
                from.behind = behind(times.iter().copied(), mark);
                (0, times.len() as u32 - 1)
            }
        };
        origin.note(first, last, &mut from);
        from
    }

    /// The stream's rows with (empty) window columns appended.
    fn with_window_columns(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = Arc::clone(&self.plan().scan_schema);
        let rows = batch.num_rows();
        let data_type: &DataType = schema.field(schema.fields().len() - 1).data_type();
        let empty = match self.empty_window.take() {
            Some(array) if array.len() >= rows => array,
            _ => new_null_array(data_type, rows.max(8_192)),
        };
        let mut columns = batch.columns().to_vec();
        for _ in 0..3 {
            columns.push(empty.slice(0, rows));
        }
        self.empty_window = Some(empty);
        batch_of(&schema, columns, rows)
    }

    /// Counts the rows of a slice for each query; true if any query still has a window for them.
    fn judge(
        &mut self,
        slice: Micros,
        members: Option<&UInt32Array>,
        rows: &Rows,
        late: &mut Vec<LateRow>,
    ) -> bool {
        let count = members.map_or(rows.batch.num_rows(), Array::len) as u64;
        let mut open = false;
        for client in &mut self.clients {
            if client.horizon(client.grid().last_end(slice)) > self.closed.0 {
                client.counters.counted += count;
                open = true;
                continue;
            }
            client.counters.late += count;
            let origin = rows.origin.as_primitive::<UInt32Type>().values();
            let all: Vec<u32> = match members {
                Some(members) => members.values().iter().map(|row| origin[*row as usize]).collect(),
                None => origin.to_vec(),
            };
            late.extend(
                all.into_iter()
                    .map(|row| LateRow { query: client.query.clone(), record_index: row }),
            );
        }
        open
    }

    /// Evaluates keys, arguments and filters: one result per grouping set.
    fn prepare(&mut self, batch: &RecordBatch) -> Result<Vec<Prepared>, Fault> {
        let mut arguments = Vec::with_capacity(self.store.aggregates.len());
        let mut filters = Vec::with_capacity(self.store.aggregates.len());
        for (index, aggregate) in self.store.aggregates.iter().enumerate() {
            let evaluated = caught(|| prepare_aggregate(aggregate, batch));
            let (values, filter) =
                evaluated.map_err(|fault| fault.within(&aggregate.text).of(self.users(index)))?;
            arguments.push(values);
            filters.push(filter);
        }
        let keys = evaluate_group_by(&self.plan().group_by, batch)?;
        let mut prepared = Vec::with_capacity(keys.len());
        for columns in keys {
            let ids = self.store.keys.intern(&columns, batch.num_rows())?;
            prepared.push(Prepared { ids, arguments: arguments.clone(), filters: filters.clone() });
        }
        Ok(prepared)
    }

    /// Emits every window that ends at or before the watermark; drops slices no query needs.
    pub(crate) fn advance(&mut self, watermark: Watermark) -> Result<Vec<Closed>, Fault> {
        if watermark <= self.closed {
            return Ok(Vec::new());
        }
        let mut closed = self.revise_before(watermark)?;
        // By time first: queries with the same window move its running merge on together.
        let mut ending = Vec::new();
        for client in 0..self.clients.len() {
            if self.clients[client].next_edge > watermark.0 {
                continue;
            }
            let windows = self.ending(client, self.closed.0, watermark.0).into_iter();
            ending.extend(windows.map(|window| (window.end, window.start, client)));
            self.clients[client].next_edge = self.clients[client].edge_after(watermark.0);
        }
        ending.sort_unstable();
        let mut by_client: Vec<Vec<Closed>> = self.clients.iter().map(|_| Vec::new()).collect();
        for (end, start, client) in ending {
            let window = WindowBounds { start, end };
            let emitted = self.emit_rows(client, window, true)?;
            let rows = emitted.as_ref().map_or(0, |closed| closed.rows.num_rows());
            let from = self.write_receipt(client, window, rows, false);
            by_client[client].extend(emitted.map(|closed| Closed { from, ..closed }));
        }
        closed.extend(by_client.into_iter().flatten());
        self.closed = watermark;
        let clients = &self.clients;
        let dropped = caught(|| {
            self.store.drop_slices(|start| {
                clients
                    .iter()
                    .all(|client| client.horizon(client.grid().last_end(start)) <= watermark.0)
            })
        });
        dropped.map_err(|fault| fault.of(self.queries()))?;
        Ok(closed)
    }

    /// The rows of all open windows of a query as they stand; `None` if they, or the work for one
    /// of them, come to more than `limit` bytes.
    pub(crate) fn peek(&mut self, query: &str, limit: usize) -> Result<Option<Vec<Closed>>, Fault> {
        let Some(client) = self.clients.iter().position(|client| client.query == query) else {
            return Ok(Some(Vec::new()));
        };
        let mut open = Vec::new();
        let mut left = limit;
        for window in self.ending(client, self.closed.0, Micros::MAX) {
            if self.store.bytes_within(window) > limit {
                return Ok(None);
            }
            if let Some(rows) = self.emit(client, window)? {
                let bytes = rows.rows.get_array_memory_size();
                let Some(rest) = left.checked_sub(bytes) else { return Ok(None) };
                left = rest;
                open.push(rows);
            }
        }
        Ok(Some(open))
    }

    /// The open window of a query that ends first.
    pub(crate) fn next_to_close(&self, query: &str) -> Option<NextToClose> {
        let client = self.clients.iter().position(|client| client.query == query)?;
        let open = self.ending(client, self.closed.0, Micros::MAX);
        let window = open.iter().min_by_key(|window| window.end).copied()?;
        let closes_at = window.end.saturating_add(self.behind);
        Some(NextToClose { window, closes_at, open: open.len() })
    }

    /// The windows of a query with rows that end in `(after, through]`, ascending by end.
    fn ending(&self, client: usize, after: Micros, through: Micros) -> Vec<WindowBounds> {
        let grid = self.clients[client].grid();
        let mut windows = Vec::new();
        let mut cursor = after;
        // Older slices, kept for revisions, lie in no window that ends later.
        let oldest = after.saturating_sub(grid.longest());
        for start in self.store.slices.range(oldest..).map(|(start, _)| start) {
            let from = cursor.max(*start);
            let to = through.min(grid.last_end(*start));
            if from < to {
                windows.extend(grid.windows_ending(from, to));
                cursor = to;
            }
        }
        windows
    }

    /// The rows of a window as they stand.
    pub(super) fn emit(
        &mut self,
        client: usize,
        window: WindowBounds,
    ) -> Result<Option<Closed>, Fault> {
        self.emit_rows(client, window, false)
    }

    fn emit_rows(
        &mut self,
        client: usize,
        window: WindowBounds,
        is_next: bool,
    ) -> Result<Option<Closed>, Fault> {
        let emitted = caught(|| self.rows_of(client, window, is_next));
        emitted.map_err(|fault| fault.of([self.clients[client].query.clone()]))
    }

    /// `is_next` says that of the client's windows only those that end later are asked for from now
    /// on, so that its running merge can go there.
    fn rows_of(
        &mut self,
        client: usize,
        window: WindowBounds,
        is_next: bool,
    ) -> Result<Option<Closed>> {
        let client = &self.clients[client];
        let running = client.running.filter(|_| is_next);
        let Some((mut ids, mut values)) = self.store.window(window, &client.aggregates, running)?
        else {
            return Ok(None);
        };
        let plan = &client.plan;
        if let Some(top) = &client.top
            && let Some(rows) = top.candidates(plan, &values)?
        {
            ids = rows.values().iter().map(|row| ids.value(*row as usize)).collect();
            for column in &mut values {
                *column = take(column, &rows, None)?;
            }
        }
        let keys = self.store.keys.take(&ids)?;
        let rows = values.first().or(keys.first()).map_or(1, |column| column.len());
        let instant = |time: Micros| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_value(time, rows))
        };
        let mut columns = Vec::with_capacity(plan.layout.len());
        for column in &plan.layout {
            columns.push(match column {
                OutputColumn::WindowStart => instant(window.start),
                OutputColumn::WindowEnd => instant(window.end),
                OutputColumn::WindowTime => instant(window.end - 1_000),
                OutputColumn::Key(index) => Arc::clone(&keys[*index]),
                OutputColumn::Aggregate(index) => Arc::clone(&values[*index]),
            });
        }
        let aggregated = batch_of(&plan.aggregate_schema, columns, rows)?;
        let finished = run_finite(aggregated, &plan.post)?;
        if finished.num_rows() == 0 {
            return Ok(None);
        }
        let rows = batch_of(&client.schema, finished.columns().to_vec(), finished.num_rows())?;
        let (query, from) = (client.query.clone(), Provenance::default());
        Ok(Some(Closed { query, window, rows, from, revision: None }))
    }
}

type Evaluated = (Vec<ArrayRef>, Option<BooleanArray>);

fn prepare_aggregate(aggregate: &Aggregate, batch: &RecordBatch) -> Result<Evaluated> {
    let values = evaluate(&aggregate.arguments, batch)?;
    let filter = match &aggregate.filter {
        None => None,
        Some(filter) => Some(boolean(&evaluate(&[Arc::clone(filter)], batch)?[0])?),
    };
    Ok((values, filter))
}

fn boolean(array: &ArrayRef) -> Result<BooleanArray> {
    Ok(as_boolean_array(array)?.clone())
}
