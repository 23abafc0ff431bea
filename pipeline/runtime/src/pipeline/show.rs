//! SHOW, DESCRIBE and EXPLAIN: the catalog and the status as rows.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use tidemill_contract::{ColumnKind, Error, ErrorKind, Loss, Result};
use tidemill_sql::{
    catalog::Catalog,
    parse::{Late, ShowKind, Statement, closest},
};

use super::StatementResult;
use crate::{query, status::Status};

/// `SHOW kind`.
pub(super) fn show(kind: ShowKind, catalog: &Catalog, status: &Status) -> Result<StatementResult> {
    match kind {
        ShowKind::Sources => sources(catalog),
        ShowKind::Views => views(catalog, status),
        ShowKind::Alerts => alerts(catalog),
        ShowKind::Sinks => sinks(catalog, status),
        ShowKind::Jobs => jobs(status),
        ShowKind::Losses => losses(status),
        ShowKind::All => all(catalog),
    }
}

/// `DESCRIBE name`.
pub(super) fn describe(catalog: &Catalog, name: &str) -> Result<StatementResult> {
    let mut table = Table::new(&["column", "type", "nullable", "kind"]);
    if let Some(source) = catalog.source(name) {
        for column in &source.columns {
            let kind = match &column.kind {
                ColumnKind::Physical => "physical".to_owned(),
                ColumnKind::Metadata(field) => format!("metadata {field:?}").to_lowercase(),
                ColumnKind::Computed(text) => format!("AS {text}"),
            };
            let nullable = if column.nullable { "YES" } else { "NO" };
            table.push([
                column.name.clone(),
                column.data_type.to_string(),
                nullable.to_owned(),
                kind,
            ]);
        }
        return table.rows();
    }
    if catalog.late_relation(name).is_some() {
        for field in query::late_schema().fields() {
            let data_type = field.data_type().to_string();
            table.push([field.name().clone(), data_type, "YES".to_owned(), "late row".to_owned()]);
        }
        return table.rows();
    }
    let Some(query) = catalog.query(name) else {
        let names: Vec<&str> =
            catalog.sources().keys().chain(catalog.queries().keys()).map(String::as_str).collect();
        let error = Error::new(ErrorKind::NotFound, "TM301", format!("'{name}' does not exist"));
        return Err(match closest(name, &names) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("SHOW TABLES lists what there is"),
        });
    };
    for field in query.schema.fields() {
        let data_type = field.data_type().to_string();
        table.push([field.name().clone(), data_type, "YES".to_owned(), "result".to_owned()]);
    }
    table.rows()
}

/// `EXPLAIN statement`.
pub(super) fn explain(catalog: &Catalog, statement: &Statement) -> Result<StatementResult> {
    let plan = match statement {
        Statement::Select(query) => catalog.plan(query)?,
        Statement::CreateView(create) => catalog.plan(&create.query)?,
        Statement::CreateSink(create) => catalog.plan(&create.query)?,
        Statement::InsertInto(insert) => catalog.plan(&insert.query)?,
        _ => {
            return Err(Error::invalid("TM607", "this statement has no plan")
                .help("EXPLAIN takes a query, or the CREATE statement of a view or sink"));
        }
    };
    let mut table = Table::new(&["plan"]);
    for line in plan.logical.lines() {
        table.push([line.to_owned()]);
    }
    table.rows()
}

fn sources(catalog: &Catalog) -> Result<StatementResult> {
    let mut table = Table::new(&["name", "connector", "topic", "watermark"]);
    for source in catalog.sources().values() {
        let watermark = source
            .watermark
            .as_ref()
            .map_or_else(String::new, |mark| format!("{} - {} ms", mark.column, mark.delay / 1000));
        table.push([
            source.name.clone(),
            source.connector().to_owned(),
            source.topic().to_owned(),
            watermark,
        ]);
    }
    table.rows()
}

fn views(catalog: &Catalog, status: &Status) -> Result<StatementResult> {
    let mut table = Table::new(&["name", "source", "state", "late", "query", "error"]);
    for view in catalog.views() {
        let (state, error) = state_of(status, &view.name);
        let late = match &view.late {
            Late::Keep => "keep".to_owned(),
            Late::Drop => "drop".to_owned(),
            Late::To(name) => format!("to {name}"),
            Late::Revise(horizon) => format!("revise for {} s", horizon / 1_000_000),
        };
        let (source, text) = (view.root_source.clone(), one_line(&view.text));
        table.push([view.name.clone(), source, state, late, text, error]);
    }
    table.rows()
}

fn sinks(catalog: &Catalog, status: &Status) -> Result<StatementResult> {
    let mut table = Table::new(&["name", "source", "state", "query", "error"]);
    for sink in catalog.sinks() {
        let (state, error) = state_of(status, &sink.name);
        let text = one_line(&sink.text);
        table.push([sink.name.clone(), sink.root_source.clone(), state, text, error]);
    }
    table.rows()
}

fn alerts(catalog: &Catalog) -> Result<StatementResult> {
    let mut table = Table::new(&["name", "view", "condition", "for_windows", "by", "severity"]);
    for alert in catalog.alerts().values() {
        let spec = &alert.spec;
        table.push([
            spec.name.clone(),
            spec.view.clone(),
            one_line(&spec.condition_text),
            spec.for_windows.to_string(),
            spec.by.join(", "),
            format!("{:?}", spec.severity).to_lowercase(),
        ]);
    }
    table.rows()
}

fn jobs(status: &Status) -> Result<StatementResult> {
    let mut table = Table::new(&[
        "name",
        "source",
        "queries",
        "state",
        "epoch",
        "watermark",
        "rows_in",
        "rows_dead",
        "rows_late",
        "lag",
        "error",
    ]);
    for job in &status.jobs {
        table.push([
            job.name.clone(),
            job.source.clone(),
            job.queries.join(", "),
            job.state.clone(),
            job.epoch.to_string(),
            job.watermark_micros.map_or_else(String::new, crate::quarantine::rfc3339),
            job.rows_in.to_string(),
            job.rows_dead.to_string(),
            job.rows_late.to_string(),
            job.lag_records.to_string(),
            job.error.clone().unwrap_or_default(),
        ]);
    }
    table.rows()
}

/// Lost ranges of the log: open ones wait for `RECOVER SOURCE`.
fn losses(status: &Status) -> Result<StatementResult> {
    let mut table = Table::new(&[
        "job",
        "source",
        "partition",
        "from",
        "to",
        "reason",
        "never_read",
        "state",
        "resumed_at",
        "accepted_at",
    ]);
    for job in &status.jobs {
        for loss in &job.losses {
            let state = if loss.accepted_at.is_some() { "accepted" } else { "open" };
            table.push([
                job.name.clone(),
                job.source.clone(),
                loss.partition.to_string(),
                loss.from.to_string(),
                loss.to.to_string(),
                loss.kind.to_string(),
                loss.lost.to_string(),
                state.to_owned(),
                loss.resumed_at.map_or_else(String::new, |offset| offset.to_string()),
                loss.accepted_at.map_or_else(String::new, crate::quarantine::rfc3339),
            ]);
        }
    }
    table.rows()
}

/// What `RECOVER SOURCE` did.
pub(super) fn accepted(source: &str, jobs: &[(String, Vec<Loss>)]) -> String {
    let mut parts = vec![format!("source '{source}' goes on")];
    for (job, losses) in jobs {
        let ranges: Vec<String> = losses.iter().map(ToString::to_string).collect();
        parts.push(match ranges.as_slice() {
            [] => format!("job '{job}': nothing is lost any more"),
            ranges => format!("job '{job}': accepted {}", ranges.join(", ")),
        });
    }
    parts.join("; ")
}

fn all(catalog: &Catalog) -> Result<StatementResult> {
    let mut table = Table::new(&["name", "kind"]);
    for name in catalog.sources().keys() {
        table.push([name.clone(), "source".to_owned()]);
    }
    for view in catalog.views() {
        table.push([view.name.clone(), "view".to_owned()]);
    }
    for sink in catalog.sinks() {
        table.push([sink.name.clone(), "sink".to_owned()]);
    }
    for name in catalog.alerts().keys() {
        table.push([name.clone(), "alert".to_owned()]);
    }
    for (name, view) in catalog.late_relations() {
        table.push([name.to_owned(), format!("late rows of {view}")]);
    }
    table.rows()
}

/// The state of the job that runs a query, and why it is in it.
fn state_of(status: &Status, query: &str) -> (String, String) {
    let job = status.jobs.iter().find(|job| job.queries.iter().any(|name| name == query));
    match job {
        Some(job) => (job.state.clone(), job.error.clone().unwrap_or_default()),
        None => ("registered".to_owned(), String::new()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Rows of text.
pub(super) struct Table {
    columns: Vec<(&'static str, Vec<String>)>,
}

impl Table {
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self { columns: names.iter().map(|name| (*name, Vec::new())).collect() }
    }

    pub(super) fn push<const N: usize>(&mut self, row: [String; N]) {
        assert_eq!(N, self.columns.len(), "a row has a value for each column");
        for ((_, column), value) in self.columns.iter_mut().zip(row) {
            column.push(value);
        }
    }

    pub(super) fn rows(self) -> Result<StatementResult> {
        let fields = self.columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, false));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = self
            .columns
            .into_iter()
            .map(|(_, values)| Arc::new(StringArray::from(values)) as ArrayRef);
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect())
            .map_err(|e| Error::internal(format!("a listing has no rows: {e}")))?;
        Ok(StatementResult::Rows { schema, batches: vec![batch] })
    }
}
