//! From a SELECT to what the operators run: DataFusion parses types, resolves names and coerces;
//! the result is cut into row steps (before the window), keys and aggregates (in the window) and
//! steps over the finite rows of a closed window.
//!
//! Planning happens once, at registration. It never executes anything and never touches data.

mod computed;
mod context;
mod error;
mod functions;
mod lower;
mod relation;
mod volatile;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::PhysicalGroupBy;
use datafusion::sql::planner::SqlToRel;
use tidemill_contract::{Micros, Result};

pub(crate) use computed::plan_computed;
pub(crate) use context::{Context, Stream};
pub use error::plan_error;
pub(crate) use error::run_error;
pub use functions::equip_session;
pub(crate) use functions::rewritten;

use crate::parse::SelectQuery;
use crate::window::WindowSpec;

/// A planned query: where it reads, what it gives, and how its operators work.
#[derive(Debug, Clone)]
pub struct QueryPlan {
    /// The stream it reads: a source or a view.
    pub input: String,
    /// Its output columns; all nullable.
    pub schema: SchemaRef,
    /// Output columns that carry time, each with how far its values may lie behind the watermark
    /// of the input: what a view over this view can put a window on.
    pub time_columns: BTreeMap<String, Micros>,
    /// Output columns that are start and end of the window, if both are there as they are.
    pub window_columns: Option<(usize, usize)>,
    /// Output columns that are keys of the aggregation as they are.
    pub key_columns: Vec<usize>,
    /// Its window, `None` for a stateless query.
    pub window: Option<WindowSpec>,
    /// The logical plan, for `EXPLAIN`.
    pub logical: String,
    pub(crate) shape: Shape,
}

/// How a query is run.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    /// Row by row; `expand` gives each row once per window it lies in.
    Stateless { expand: Option<(WindowSpec, usize)>, steps: Vec<RowStep> },
    /// Aggregated per window.
    Windowed(Arc<Windowed>),
}

/// A step over rows.
#[derive(Debug, Clone)]
pub(crate) enum RowStep {
    /// Keeps the rows for which the expression is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes new columns.
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    /// Sorts, then skips and keeps a number of rows; only over the rows of one closed window.
    Sort { by: Vec<PhysicalSortExpr>, skip: usize, keep: Option<usize> },
}

/// One aggregate of a windowed query.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    /// Equal text = equal aggregate: shared in a group.
    pub(crate) text: String,
    pub(crate) function: Arc<AggregateFunctionExpr>,
    pub(crate) arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

/// Where a column of the aggregated rows comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputColumn {
    WindowStart,
    WindowEnd,
    WindowTime,
    /// Column of the key store.
    Key(usize),
    /// Aggregate of the query.
    Aggregate(usize),
}

/// A windowed aggregation.
#[derive(Debug)]
pub(crate) struct Windowed {
    pub(crate) window: WindowSpec,
    /// Steps before the window, over the stream's rows with (empty) window columns appended.
    pub(crate) steps: Vec<RowStep>,
    /// The keys (grouping sets included).
    pub(crate) group_by: PhysicalGroupBy,
    /// Types of the key store's columns.
    pub(crate) key_schema: SchemaRef,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) layout: Vec<OutputColumn>,
    /// The aggregated rows as `layout` gives them.
    pub(crate) aggregate_schema: SchemaRef,
    /// Steps over the rows of one closed window.
    pub(crate) post: Vec<RowStep>,
    /// Scan schema: the stream's columns and the window columns.
    pub(crate) scan_schema: SchemaRef,
    pub(crate) time_index: usize,
    /// Queries with equal text share one slice store.
    pub(crate) sharing: String,
}

/// Plans a registered query over the given streams.
pub(crate) fn plan_query(
    query: &SelectQuery,
    streams: BTreeMap<String, Stream>,
) -> Result<QueryPlan> {
    let plan = logical_plan(query, streams.clone()).map_err(|error| plan_error(&error, query))?;
    lower::lower(&plan, &streams).map_err(|error| plan_error(&error, query))
}

fn logical_plan(
    query: &SelectQuery,
    streams: BTreeMap<String, Stream>,
) -> DataFusionResult<LogicalPlan> {
    let context = Context::new(streams);
    let planner = SqlToRel::new_with_options(&context, (&context::options().sql_parser).into());
    let statement = datafusion::sql::sqlparser::ast::Statement::Query(Box::new(query.ast.clone()));
    let plan = planner.sql_statement_to_plan(statement)?;
    volatile::refuse(&plan)?;
    prepare(plan)
}

/// Checked operators, type coercion and constant folding; nothing that moves or removes operators.
pub(crate) fn prepare(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let options = context::options();
    let mut analyzer = Analyzer::new();
    functions::rewrites().into_iter().for_each(|rewrite| analyzer.add_function_rewrite(rewrite));
    let analyzed = analyzer.execute_and_check(plan, options, |_, _| {})?;
    let optimizer = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    let config = OptimizerContext::new_with_config_options(Arc::new(options.clone()));
    optimizer.optimize(analyzed, &config, |_, _| {})
}

/// The schema with every field nullable: operators carry empty window columns.
pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true).with_metadata(Default::default()))
        .collect();
    Arc::new(Schema::new(fields))
}
