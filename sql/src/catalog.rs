//! The catalog: every registered object, checked and planned when it is registered.
//!
//! Pure: the same statements in the same order give the same catalog. It never reads or writes
//! anything; durability is the catalog log's.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_contract::{Error, ErrorKind, Micros, Result, SinkSpec, SourceSpec};

use crate::alert::AlertProgram;
use crate::engine::SourceProgram;
use crate::parse::{
    AlertSpec, CreateAlert, CreateSink, CreateSource, CreateView, Drop, InsertInto, Late,
    LateClause, ObjectKind, Parsed, SelectQuery, Statement, closest,
};
use crate::plan::{QueryPlan, Stream, nullable, plan_query};

mod late;

/// What a statement did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A new object.
    Created {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// `IF [NOT] EXISTS` made it a no-op, or the statement only reads.
    Unchanged,
    /// An object is gone.
    Dropped {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// A query is paused.
    Paused(String),
    /// A query runs again.
    Resumed(String),
}

/// Where a query's rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its table in the bucket.
    View,
    /// A sink.
    Sink(SinkSpec),
}

/// A registered query: a view, or what flows into a sink.
#[derive(Debug, Clone)]
pub struct RegisteredQuery {
    /// Name of the view or sink.
    pub name: String,
    /// Where its rows go.
    pub target: Target,
    /// The source at the root of its inputs.
    pub root_source: String,
    /// Its direct inputs.
    pub inputs: Vec<String>,
    /// Output columns.
    pub schema: SchemaRef,
    /// What becomes of its late rows.
    pub late: Late,
    /// Paused by the user.
    pub paused: bool,
    /// Text of its SELECT.
    pub text: String,
    /// The plan.
    pub plan: Arc<QueryPlan>,
}

/// A registered alert.
#[derive(Debug, Clone)]
pub struct RegisteredAlert {
    /// The declaration.
    pub spec: AlertSpec,
    /// Statements applied before it: part of its events' ids.
    pub version: u64,
}

/// Every registered object.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    sources: BTreeMap<String, SourceSpec>,
    queries: BTreeMap<String, RegisteredQuery>,
    alerts: BTreeMap<String, RegisteredAlert>,
    /// Statements applied so far.
    version: u64,
}

impl Catalog {
    /// An empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks and applies one statement; on an error nothing has changed.
    ///
    /// # Errors
    /// `TM3xx` for names that are taken, unknown or still used; the planner's errors otherwise.
    pub fn apply(&mut self, parsed: &Parsed) -> Result<Applied> {
        let applied = match &parsed.statement {
            Statement::CreateSource(create) => self.create_source(create),
            Statement::CreateView(create) => self.create_view(create),
            Statement::CreateAlert(create) => self.create_alert(create),
            Statement::CreateSink(create) => self.create_sink(create),
            Statement::InsertInto(insert) => self.insert_into(insert),
            Statement::Drop(drop) => self.drop_object(drop),
            Statement::Pause(name) => self.set_paused(name, true),
            Statement::Resume(name) => self.set_paused(name, false),
            Statement::Recover(recover) => match self.sources.contains_key(&recover.source) {
                true => Ok(Applied::Unchanged),
                false => Err(self.unknown("source", &recover.source)),
            },
            Statement::Explain(_)
            | Statement::ExplainStall(_)
            | Statement::Show(_)
            | Statement::ShowDead(_)
            | Statement::ReplayDead(_)
            | Statement::Describe(_)
            | Statement::Select(_) => Ok(Applied::Unchanged),
        }?;
        if applied != Applied::Unchanged {
            self.version += 1;
        }
        Ok(applied)
    }

    /// Declared sources by name.
    pub fn sources(&self) -> &BTreeMap<String, SourceSpec> {
        &self.sources
    }

    /// All views and sink queries by name.
    pub fn queries(&self) -> &BTreeMap<String, RegisteredQuery> {
        &self.queries
    }

    /// The views.
    pub fn views(&self) -> impl Iterator<Item = &RegisteredQuery> {
        self.queries.values().filter(|query| query.target == Target::View)
    }

    /// The queries that flow into sinks.
    pub fn sinks(&self) -> impl Iterator<Item = &RegisteredQuery> {
        self.queries.values().filter(|query| query.target != Target::View)
    }

    /// The alerts by name.
    pub fn alerts(&self) -> &BTreeMap<String, RegisteredAlert> {
        &self.alerts
    }

    /// A source by name.
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.sources.get(name)
    }

    /// A query by name.
    pub fn query(&self, name: &str) -> Option<&RegisteredQuery> {
        self.queries.get(name)
    }

    /// Number of statements that changed something.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Plans a SELECT as if it were registered.
    ///
    /// # Errors
    /// The planner's.
    pub fn plan(&self, query: &SelectQuery) -> Result<QueryPlan> {
        plan_query(query, self.streams()?)
    }

    /// How far a time column of a stream may lie behind the stream's watermark.
    pub(crate) fn behind(&self, input: &str, time_index: usize) -> Micros {
        let Some(query) = self.queries.get(input) else { return 0 };
        let name = query.schema.field(time_index).name();
        query.plan.time_columns.get(name).copied().unwrap_or(0)
    }

    /// Everything a query can read.
    fn streams(&self) -> Result<BTreeMap<String, Stream>> {
        let mut streams = BTreeMap::new();
        for (name, spec) in &self.sources {
            let schema = source_schema(spec);
            let time_columns = spec.watermark.iter().map(|mark| (mark.column.clone(), 0)).collect();
            streams.insert(name.clone(), Stream { schema, time_columns });
        }
        for view in self.views() {
            let stream = Stream {
                schema: nullable(&view.schema),
                time_columns: view.plan.time_columns.clone(),
            };
            streams.insert(view.name.clone(), stream);
        }
        Ok(streams)
    }

    fn kind_of(&self, name: &str) -> Option<ObjectKind> {
        if self.sources.contains_key(name) {
            return Some(ObjectKind::Source);
        }
        if self.alerts.contains_key(name) {
            return Some(ObjectKind::Alert);
        }
        self.queries.get(name).map(|query| match query.target {
            Target::View => ObjectKind::View,
            Target::Sink(_) => ObjectKind::Sink,
        })
    }

    /// True if the object is there already and that is fine.
    fn is_taken(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        self.check_late_name(name)?;
        match self.kind_of(name) {
            None => Ok(false),
            Some(_) if if_not_exists => Ok(true),
            Some(kind) => Err(Error::new(
                ErrorKind::Conflict,
                "TM300",
                format!("{kind} '{name}' exists already"),
            )
            .help(format!("DROP {} {name} first, or add IF NOT EXISTS", sql_kind(kind)))),
        }
    }

    fn create_source(&mut self, create: &CreateSource) -> Result<Applied> {
        let name = create.spec.name.clone();
        if self.is_taken(&name, create.if_not_exists)? {
            return Ok(Applied::Unchanged);
        }
        self.check_topic(&create.spec.options)?;
        let mut spec = create.spec.clone();
        let schema = SourceProgram::new(&spec)?.schema();
        for (column, field) in spec.columns.iter_mut().zip(schema.fields()) {
            column.data_type = field.data_type().clone();
        }
        check_watermark(&spec)?;
        self.sources.insert(name.clone(), spec);
        Ok(Applied::Created { kind: ObjectKind::Source, name })
    }

    fn create_view(&mut self, create: &CreateView) -> Result<Applied> {
        if self.is_taken(&create.name, create.if_not_exists)? {
            return Ok(Applied::Unchanged);
        }
        self.register(&create.name, Target::View, &create.query, &create.late)?;
        Ok(Applied::Created { kind: ObjectKind::View, name: create.name.clone() })
    }

    fn create_sink(&mut self, create: &CreateSink) -> Result<Applied> {
        let name = &create.spec.name;
        if self.is_taken(name, create.if_not_exists)? {
            return Ok(Applied::Unchanged);
        }
        self.check_topic(&create.spec.options)?;
        let target = Target::Sink(create.spec.clone());
        self.register(name, target, &create.query, &LateClause::default())?;
        Ok(Applied::Created { kind: ObjectKind::Sink, name: name.clone() })
    }

    /// `INSERT INTO t` makes the declared table a sink named `t$insert`. The same statement again
    /// changes nothing, so that a script can be run again.
    fn insert_into(&mut self, insert: &InsertInto) -> Result<Applied> {
        let Some(table) = self.sources.get(&insert.table).cloned() else {
            return Err(self.unknown("table", &insert.table));
        };
        let name = format!("{}$insert", insert.table);
        if let Some(known) = self.queries.get(&name) {
            if known.text == insert.query.text {
                return Ok(Applied::Unchanged);
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                "TM300",
                format!("'{}' is written by another INSERT already", insert.table),
            )
            .help("declare a second table over the same target, or join both with one query"));
        }
        let plan = plan_query(&insert.query, self.streams()?)?;
        check_insert(&table, &plan)?;
        let spec = SinkSpec { name: name.clone(), options: table.options.clone() };
        self.register(&name, Target::Sink(spec), &insert.query, &LateClause::default())?;
        Ok(Applied::Created { kind: ObjectKind::Sink, name })
    }

    fn register(
        &mut self,
        name: &str,
        target: Target,
        query: &SelectQuery,
        late: &LateClause,
    ) -> Result<()> {
        let plan = plan_query(query, self.streams()?)?;
        self.check_late(name, &plan, late)?;
        let root_source = match self.queries.get(&plan.input) {
            Some(view) => view.root_source.clone(),
            None => plan.input.clone(),
        };
        let registered = RegisteredQuery {
            name: name.to_owned(),
            target,
            root_source,
            inputs: vec![plan.input.clone()],
            schema: Arc::clone(&plan.schema),
            late: late.late.clone(),
            paused: false,
            text: query.text.clone(),
            plan: Arc::new(plan),
        };
        self.queries.insert(name.to_owned(), registered);
        Ok(())
    }

    fn create_alert(&mut self, create: &CreateAlert) -> Result<Applied> {
        let name = create.spec.name.clone();
        if self.is_taken(&name, create.if_not_exists)? {
            return Ok(Applied::Unchanged);
        }
        let view = self.queries.get(&create.spec.view).filter(|q| q.target == Target::View);
        let Some(view) = view else { return Err(self.unknown("view", &create.spec.view)) };
        AlertProgram::new(&create.spec, &view.schema, self.version, view.plan.window.clone())?;
        let alert = RegisteredAlert { spec: create.spec.clone(), version: self.version };
        self.alerts.insert(name.clone(), alert);
        Ok(Applied::Created { kind: ObjectKind::Alert, name })
    }

    fn drop_object(&mut self, drop: &Drop) -> Result<Applied> {
        let insert = format!("{}$insert", drop.name);
        if self.kind_of(&drop.name) != Some(drop.kind) {
            if drop.if_exists {
                return Ok(Applied::Unchanged);
            }
            return Err(self.unknown(&drop.kind.to_string(), &drop.name));
        }
        let mut users: Vec<String> = self
            .queries
            .values()
            .filter(|query| query.inputs.contains(&drop.name) || query.name == insert)
            .map(|query| query.name.clone())
            .collect();
        users.extend(
            self.alerts.values().filter(|a| a.spec.view == drop.name).map(|a| a.spec.name.clone()),
        );
        if !users.is_empty() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "TM302",
                format!("{} '{}' is still used", drop.kind, drop.name),
            )
            .because(format!("by {}", users.join(", ")))
            .help("drop those first"));
        }
        self.sources.remove(&drop.name);
        self.queries.remove(&drop.name);
        self.alerts.remove(&drop.name);
        Ok(Applied::Dropped { kind: drop.kind, name: drop.name.clone() })
    }

    fn set_paused(&mut self, name: &str, paused: bool) -> Result<Applied> {
        let insert = format!("{name}$insert");
        let key = if self.queries.contains_key(name) { name } else { &insert };
        let Some(query) = self.queries.get_mut(key) else {
            return Err(self.unknown("view or sink", name));
        };
        if query.paused == paused {
            return Ok(Applied::Unchanged);
        }
        query.paused = paused;
        let name = key.to_owned();
        Ok(if paused { Applied::Paused(name) } else { Applied::Resumed(name) })
    }

    fn unknown(&self, kind: &str, name: &str) -> Error {
        let names: Vec<&str> = self
            .sources
            .keys()
            .chain(self.queries.keys())
            .chain(self.alerts.keys())
            .map(String::as_str)
            .collect();
        let error =
            Error::new(ErrorKind::NotFound, "TM301", format!("{kind} '{name}' does not exist"));
        match closest(name, &names) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("SHOW TABLES lists what there is"),
        }
    }
}

/// All declared columns of a source; all nullable.
fn source_schema(spec: &SourceSpec) -> SchemaRef {
    let fields: Vec<_> = spec
        .columns
        .iter()
        .map(|column| Field::new(&column.name, column.data_type.clone(), true))
        .collect();
    Arc::new(Schema::new(fields))
}

fn check_watermark(spec: &SourceSpec) -> Result<()> {
    let Some(mark) = &spec.watermark else { return Ok(()) };
    let Some(column) = spec.columns.iter().find(|column| column.name == mark.column) else {
        return Err(Error::invalid(
            "TM202",
            format!("WATERMARK FOR '{}': no such column in '{}'", mark.column, spec.name),
        ));
    };
    if !matches!(column.data_type, DataType::Timestamp(..)) {
        return Err(Error::invalid(
            "TM209",
            format!("the watermark column '{}' is {}", mark.column, column.data_type),
        )
        .because("event time is a TIMESTAMP")
        .help(format!(
            "add a computed column: ts AS to_timestamp_millis({}), and declare the watermark on it",
            mark.column
        )));
    }
    Ok(())
}

/// The columns of an INSERT are matched by position, as standard SQL does.
fn check_insert(table: &SourceSpec, plan: &QueryPlan) -> Result<()> {
    let declared: Vec<_> = table.physical().collect();
    if declared.len() != plan.schema.fields().len() {
        return Err(Error::invalid(
            "TM303",
            format!(
                "'{}' has {} columns, the query gives {}",
                table.name,
                declared.len(),
                plan.schema.fields().len()
            ),
        ));
    }
    for (column, field) in declared.iter().zip(plan.schema.fields()) {
        if column.name != *field.name() {
            return Err(Error::invalid(
                "TM303",
                format!("column '{}' of '{}' gets '{}'", column.name, table.name, field.name()),
            )
            .help(format!("write … AS {}", column.name)));
        }
    }
    Ok(())
}

fn sql_kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Source => "SOURCE",
        ObjectKind::View => "VIEW",
        ObjectKind::Alert => "ALERT",
        ObjectKind::Sink => "SINK",
    }
}
