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
mod workers;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use datafusion::{
    common::TableReference,
    error::DataFusionError,
    execution::{
        context::{SQLOptions, SessionContext},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    physical_plan::{ExecutionPlan, execute_stream},
    prelude::SessionConfig,
    sql::{parser::Statement, sqlparser::ast},
};
use futures::StreamExt;
use tidemill_connectors::{log::kafka::KafkaLog, store::Store};
use tidemill_contract::{Error, ErrorKind, Result, panic_text};
use tidemill_sql::{
    catalog::Catalog,
    parse::{SelectQuery, closest},
    plan::{equip_session, plan_error},
};

use crate::{job::JobProbe, memory::Memory, pipeline::StatementResult};

pub(crate) use verify::VerifiedFiles;
pub(crate) use workers::Workers;

/// Cores one query may use: the jobs need some too.
const PARTITIONS: usize = 2;
/// Rows computed at a time: little enough that a text repeated for each stays small.
const BATCH_ROWS: usize = 1024;
/// Stack of the thread that plans: planners are recursive.
const STACK_BYTES: usize = 32 << 20;

/// Most characters of the query engine's words that are passed on.
const REASON_CHARS: usize = 500;
/// What the query engine says of a regular expression it does not take.
const PATTERN_REFUSED: &str = "Regular expression did not compile";

/// Finds the job of a view.
pub(crate) type Probe = dyn Fn(&str) -> Result<JobProbe> + Send + Sync;

/// What a query may see and use.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) catalog: Arc<Catalog>,
    /// The number of the statement that created each query.
    pub(crate) created: BTreeMap<String, u64>,
    pub(crate) store: Store,
    pub(crate) log: KafkaLog,
    /// Data files that are known to be whole.
    pub(crate) verified: Arc<VerifiedFiles>,
    /// Whom to ask for a view's rows.
    pub(crate) probe: Arc<Probe>,
    pub(crate) memory: Arc<Memory>,
    /// Where the query runs.
    pub(crate) workers: tokio::runtime::Handle,
    /// Time the query may take.
    pub(crate) timeout: Duration,
}

/// The columns of a relation of late rows.
pub(crate) fn late_schema() -> arrow::datatypes::SchemaRef {
    quarantined::schema()
}

/// Runs a query to its end, but no longer than it may take: whatever still works for it then is
/// stopped at its next step, and nobody waits for that.
pub(crate) async fn select(scope: &Scope, query: &SelectQuery) -> Result<StatementResult> {
    let (scope, query) = (scope.clone(), query.clone());
    let (timeout, workers) = (scope.timeout, scope.workers.clone());
    let mut work = tokio::task::JoinSet::new();
    work.spawn_on(async move { Box::pin(run(&scope, &query)).await }, &workers);
    // Dropping the set aborts the work.
    match tokio::time::timeout(timeout, work.join_next()).await {
        Ok(Some(Ok(result))) => result,
        Ok(Some(Err(error))) if error.is_panic() => {
            Err(Error::internal("the query panicked").because(panic_text(&*error.into_panic())))
        }
        Ok(_) => Err(Error::internal("the query was stopped")),
        Err(_) => Err(Error::invalid("TM602", "the query took too long and was stopped")
            .because(format!("a query may take {} s", timeout.as_secs_f32()))
            .help("narrow it down, register it as a view, or raise query.timeout")),
    }
}

async fn run(scope: &Scope, query: &SelectQuery) -> Result<StatementResult> {
    let turn = scope.memory.turns.acquire().await;
    let _turn = turn.map_err(|_| Error::internal("queries are not taken any more"))?;
    no_shortage(scope)?;
    let session = session(scope)?;
    let statement = ast::Statement::Query(Box::new(query.ast.clone()));
    let statement = Statement::Statement(Box::new(statement));
    let tables = session.state().resolve_table_references(&statement).map_err(failed)?;
    for table in tables {
        register(scope, &session, &table).await?;
    }
    let plan = plan(&session, statement, query).await?;
    let schema = plan.schema();
    let mut stream = execute_stream(plan, session.task_ctx()).map_err(failed)?;
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        no_shortage(scope)?;
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        let values = rows.saturating_mul(batch.num_columns().max(1));
        if values > scope.memory.result_values() || bytes > scope.memory.result_limit() {
            return Err(too_large(scope));
        }
        batches.push(batch);
    }
    Ok(StatementResult::Rows { schema, batches })
}

fn no_shortage(scope: &Scope) -> Result<()> {
    if !scope.memory.is_short() {
        return Ok(());
    }
    Err(Error::unavailable("TM609", "there is no memory for a query now")
        .because("the process holds more than memory.budget")
        .help("try again in a moment, or raise memory.budget"))
}

fn too_large(scope: &Scope) -> Error {
    let (values, most) = (scope.memory.result_values(), scope.memory.result_limit() >> 20);
    Error::invalid("TM608", "the query's result is too large")
        .because(format!("a result may have {values} values and {most} MiB"))
        .help("add LIMIT or WHERE, or read the view's table in the bucket")
}

/// Plans on a thread of its own: planners recurse as deep as the query, and cannot be stopped.
async fn plan(
    session: &SessionContext,
    statement: Statement,
    query: &SelectQuery,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (session, query) = (session.clone(), query.clone());
    let executor = tokio::runtime::Handle::current();
    let (reply, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("query-plan".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let planned = executor.block_on(Box::pin(plan_here(&session, statement, &query)));
            // Whoever asked may have given up.
            let _gone = reply.send(planned).is_err();
        })
        .map_err(|e| Error::internal(format!("a query cannot get a thread: {e}")))?;
    answer.await.unwrap_or_else(|_| Err(Error::internal("planning the query panicked")))
}

async fn plan_here(
    session: &SessionContext,
    statement: Statement,
    query: &SelectQuery,
) -> Result<Arc<dyn ExecutionPlan>> {
    let state = session.state();
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| plan_error(&error, query))?;
    let options =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(&plan).map_err(failed)?;
    state.create_physical_plan(&plan).await.map_err(failed)
}

fn session(scope: &Scope) -> Result<SessionContext> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::clone(&scope.memory.queries))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(failed)?;
    let config = SessionConfig::new()
        .with_target_partitions(PARTITIONS)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false)
        .set_bool("datafusion.sql_parser.collect_spans", true);
    let session = SessionContext::new_with_config_rt(config, runtime);
    equip_session(&session)?;
    view::register_bucket(&session, &scope.store)?;
    Ok(session)
}

async fn register(scope: &Scope, session: &SessionContext, table: &TableReference) -> Result<()> {
    let name = table.table();
    if table.schema().is_some() {
        return Err(unknown(&scope.catalog, &table.to_string()));
    }
    if scope.catalog.views().any(|view| view.name == name) {
        let limit = scope.memory.look_limit();
        let rows = (scope.probe)(name)?.view(name, limit).await?;
        scope.verified.check(&scope.store, &rows.files).await?;
        return view::register(session, table, rows).await;
    }
    if let Some(relation) = quarantined::find(scope, name) {
        return quarantined::register(session, table, &scope.log, relation).await;
    }
    if scope.catalog.source(name).is_some() {
        return Err(Error::invalid(
            "TM600",
            format!("'{name}' is a source: it has no end to read"),
        )
        .because("a SELECT reads views, which hold results")
        .help(format!("CREATE MATERIALIZED VIEW v AS SELECT … FROM {name} …, then select v")));
    }
    Err(unknown(&scope.catalog, name))
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
pub(crate) fn failed(error: DataFusionError) -> Error {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(own) = inner.downcast_ref::<Error>()
    {
        return own.clone();
    }
    match root {
        DataFusionError::ResourcesExhausted(_) => {
            Error::invalid("TM603", "the query needs more memory than it may have")
                .because(shortened(&root.strip_backtrace()))
                .help("select fewer rows or groups, or register it as a view")
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("TM530", "the bucket cannot be read").because(root.strip_backtrace())
        }
        // A pattern that is too large is the user's, whatever it is wrapped in.
        DataFusionError::Internal(text) if !text.contains(PATTERN_REFUSED) => {
            Error::internal(root.strip_backtrace())
        }
        _ => Error::invalid("TM601", shortened(&root.strip_backtrace())),
    }
}

/// What the words begin with: they may quote a pattern of any length.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(REASON_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
