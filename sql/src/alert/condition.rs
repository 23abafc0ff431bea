//! The `WHEN` condition: planned once by DataFusion over the view's columns, evaluated per batch.
//!
//! It may use what a row holds and deterministic scalar functions; no aggregates, no subqueries,
//! no clock. A condition that is NULL does not hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, TableReference};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::planner::ContextProvider;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan};
use tidemill_contract::{Error, Result, Span};

use crate::parse::{AlertSpec, byte_span};
use crate::plan::{Context, rewritten};

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Condition {
    expr: Arc<dyn PhysicalExpr>,
    columns: usize,
}

impl Condition {
    /// Compiles the condition of an alert over the columns of its view.
    pub(super) fn compile(spec: &AlertSpec, view: &SchemaRef) -> Result<Self> {
        let compiled = plan(spec, view).map_err(|error| plan_error(&error, spec))?;
        let (expr, data_type) = compiled;
        if data_type != DataType::Boolean {
            let message = format!("the condition of alert '{}' is not true or false", spec.name);
            return Err(Error::invalid("TM124", message)
                .at(spec.span)
                .because(format!("it has the type {data_type}"))
                .help("write a comparison, such as revenue < 100"));
        }
        Ok(Self { expr, columns: view.fields().len() })
    }

    /// For each row whether the condition holds; never null.
    pub(super) fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        if rows.num_columns() != self.columns {
            return Err(Error::internal("an alert was given rows of another view"));
        }
        let values = self
            .expr
            .evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
            .map_err(|error| {
            Error::invalid("TM124", "the condition of an alert cannot be computed from a row")
                .because(error.strip_backtrace())
                .help("drop the alert and create it with a condition that holds for every row")
        })?;
        let Some(met) = values.as_boolean_opt() else {
            return Err(Error::internal("an alert's condition gave no booleans"));
        };
        Ok(if met.null_count() == 0 { met.clone() } else { prep_null_mask_filter(met) })
    }
}

type Compiled = (Arc<dyn PhysicalExpr>, DataType);

fn plan(spec: &AlertSpec, view: &SchemaRef) -> datafusion::common::Result<Compiled> {
    let name = TableReference::bare(spec.view.as_str());
    let schema = Arc::new(DFSchema::try_from_qualified_schema(name, view)?);
    let context = Context::new(BTreeMap::new());
    let planner = SqlToRel::new_with_options(&context, (&context.options().sql_parser).into());
    let expr = planner.sql_to_expr(spec.condition.clone(), &schema, &mut PlannerContext::new())?;
    check(&expr)?;
    let expr = rewritten(expr, &schema)?;
    let simplify = SimplifyContext::builder()
        .with_schema(Arc::clone(&schema))
        .with_config_options(Arc::new(context.options().clone()))
        .build();
    let simplifier = ExprSimplifier::new(simplify);
    let expr = simplifier.simplify(simplifier.coerce(expr, &schema)?)?;
    let physical = create_physical_expr(
        &expr,
        &schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )?;
    let data_type = physical.data_type(view)?;
    Ok((physical, data_type))
}

/// Refuses what cannot be computed from one row.
fn check(expr: &Expr) -> datafusion::common::Result<()> {
    expr.apply(|inner| {
        let what = match inner {
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => "an aggregate",
            Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => "a subquery",
            // The clock's functions are the stable ones without arguments.
            Expr::ScalarFunction(call) => match call.func.signature().volatility {
                Volatility::Volatile => "a random function",
                Volatility::Stable if call.args.is_empty() => "the clock",
                _ => return Ok(TreeNodeRecursion::Continue),
            },
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let error = Error::invalid("TM124", format!("the condition of an alert cannot use {what}"))
            .because("it is computed from one row of the view, the same on every run")
            .help("compute the value in the view and compare it here");
        Err(DataFusionError::External(Box::new(error)))
    })?;
    Ok(())
}

fn plan_error(error: &DataFusionError, spec: &AlertSpec) -> Error {
    if let DataFusionError::External(own) = error.find_root()
        && let Some(own) = own.downcast_ref::<Error>()
    {
        return own.clone().at(spec.span);
    }
    let root = error.find_root().strip_backtrace();
    let reason = root
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("Schema error: ")
        .to_owned();
    let message = format!("the condition of alert '{}' cannot be computed", spec.name);
    Error::invalid("TM124", message)
        .at(place(error).or(spec.span))
        .because(reason)
        .help(format!("use the columns of view '{}' and scalar functions", spec.view))
}

fn place(error: &DataFusionError) -> Option<Span> {
    let span = error.diagnostic()?.span?;
    let start = Location::new(span.start.line, span.start.column);
    byte_span(TokenSpan::new(start, Location::new(span.end.line, span.end.column)))
}
