//! Ad-hoc SELECT over views: what is closed and what is live, as of one moment per view.
//!
//! A session of its own for each query, with a memory limit, a deadline and nothing in it but the
//! views the query names: no files, no URLs, no statements that change anything. A view has one
//! more column here, `is_final`: false for the rows of windows that are still open.
//!
//! Also reads the quarantine of a source (`"orders$dead"`, `"orders$late"`), newest part only.

mod quarantined;
mod verify;
mod view;

use std::{sync::Arc, time::Duration};

use datafusion::{
    common::TableReference,
    error::DataFusionError,
    execution::{
        context::{SQLOptions, SessionContext},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::SessionConfig,
    sql::{parser::Statement, sqlparser::ast},
};
use tidemill_connectors::{log::kafka::KafkaLog, store::Store};
use tidemill_contract::{Error, ErrorKind, Result};
use tidemill_sql::{
    catalog::Catalog,
    parse::{SelectQuery, closest},
    plan::plan_error,
};

use crate::{job::JobProbe, pipeline::StatementResult};

pub(crate) use verify::VerifiedFiles;

/// Memory one query may use.
const MEMORY_BYTES: usize = 512 << 20;
/// Time one query may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Cores one query may use: the jobs need some too.
const PARTITIONS: usize = 2;

/// What a query may see.
pub(crate) struct Scope<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) store: &'a Store,
    pub(crate) log: &'a KafkaLog,
    /// Data files that are known to be whole.
    pub(crate) verified: &'a VerifiedFiles,
    /// Whom to ask for a view's rows.
    pub(crate) probe: &'a (dyn Fn(&str) -> Result<JobProbe> + Send + Sync),
}

/// Runs a query to its end.
pub(crate) async fn select(scope: &Scope<'_>, query: &SelectQuery) -> Result<StatementResult> {
    let work = Box::pin(run(scope, query));
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::invalid("TM602", "the query took too long and was stopped")
            .because(format!("a query may take {} s", DEADLINE.as_secs()))
            .help("narrow it down, or register it as a view")),
    }
}

async fn run(scope: &Scope<'_>, query: &SelectQuery) -> Result<StatementResult> {
    let session = session(scope)?;
    let statement = ast::Statement::Query(Box::new(query.ast.clone()));
    let statement = Statement::Statement(Box::new(statement));
    let tables = session.state().resolve_table_references(&statement).map_err(failed)?;
    for table in tables {
        register(scope, &session, &table).await?;
    }
    let plan = session.state().statement_to_plan(statement).await;
    let plan = plan.map_err(|error| plan_error(&error, query))?;
    let options =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(&plan).map_err(failed)?;
    let frame = session.execute_logical_plan(plan).await.map_err(failed)?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(failed)?;
    Ok(StatementResult::Rows { schema, batches })
}

fn session(scope: &Scope<'_>) -> Result<SessionContext> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(MEMORY_BYTES, 1.0)
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(failed)?;
    let config = SessionConfig::new()
        .with_target_partitions(PARTITIONS)
        .with_information_schema(false)
        .set_bool("datafusion.sql_parser.collect_spans", true);
    let session = SessionContext::new_with_config_rt(config, runtime);
    session.register_udaf(tidemill_sql::plan::wide_sum().as_ref().clone());
    view::register_bucket(&session, scope.store)?;
    Ok(session)
}

async fn register(
    scope: &Scope<'_>,
    session: &SessionContext,
    table: &TableReference,
) -> Result<()> {
    let name = table.table();
    if table.schema().is_some() {
        return Err(unknown(scope.catalog, &table.to_string()));
    }
    if scope.catalog.views().any(|view| view.name == name) {
        let rows = (scope.probe)(name)?.view(name).await?;
        scope.verified.check(scope.store, &rows.files).await?;
        return view::register(session, table, rows).await;
    }
    if let Some((source, kind)) = name.rsplit_once('$')
        && scope.catalog.source(source).is_some()
        && quarantined::KINDS.contains(&kind)
    {
        return quarantined::register(session, table, scope.log, &format!("{source}.{kind}")).await;
    }
    if scope.catalog.source(name).is_some() {
        return Err(Error::invalid(
            "TM600",
            format!("'{name}' is a source: it has no end to read"),
        )
        .because("a SELECT reads views, which hold results")
        .help(format!("CREATE MATERIALIZED VIEW v AS SELECT … FROM {name} …, then select v")));
    }
    Err(unknown(scope.catalog, name))
}

pub(crate) fn unknown(catalog: &Catalog, name: &str) -> Error {
    let views: Vec<&str> = catalog.views().map(|view| view.name.as_str()).collect();
    let error = Error::new(ErrorKind::NotFound, "TM301", format!("view '{name}' does not exist"));
    match closest(name, &views) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None if views.is_empty() => error.help("there are no views yet"),
        None => error.help(format!("the views are {}", views.join(", "))),
    }
}

/// A failure of the query engine in the contract's words.
fn failed(error: DataFusionError) -> Error {
    let root = error.find_root();
    match root {
        DataFusionError::ResourcesExhausted(_) => {
            Error::invalid("TM603", "the query needs more memory than it may have")
                .because(root.strip_backtrace())
                .help("select fewer rows or groups, or register it as a view")
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("TM530", "the bucket cannot be read").because(root.strip_backtrace())
        }
        DataFusionError::Internal(_) => Error::internal(root.strip_backtrace()),
        _ => Error::invalid("TM601", root.strip_backtrace()),
    }
}
