//! Plans the computed columns of a source: expressions over its other columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DataFusionError, TableReference, plan_err};
use datafusion::logical_expr::planner::ContextProvider;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::parser::Parser;
use tidemill_contract::{ColumnKind, Error, Result, SourceSpec};

use super::{Context, Stream, context, prepare, volatile};
use crate::parse::TidemillDialect;

/// The compiled expression and type of each computed column.
pub(crate) type Computed = BTreeMap<String, (Arc<dyn PhysicalExpr>, DataType)>;

/// Compiles the computed columns of a source over its physical and metadata columns.
pub(crate) fn plan_computed(spec: &SourceSpec) -> Result<Computed> {
    let mut fields = Vec::new();
    let mut items = Vec::new();
    for column in &spec.columns {
        match &column.kind {
            ColumnKind::Computed(text) => items.push((column.name.clone(), text.clone())),
            _ => fields.push(Field::new(&column.name, column.data_type.clone(), true)),
        }
    }
    if items.is_empty() {
        return Ok(Computed::new());
    }
    let stream = Stream { schema: Arc::new(Schema::new(fields)), time_columns: BTreeMap::new() };
    let mut computed = Computed::new();
    for (name, text) in items {
        let planned = plan_one(&spec.name, &stream, &text).map_err(|error| {
            let text = error.find_root().strip_backtrace();
            let own = match error.find_root() {
                DataFusionError::External(inner) => inner.downcast_ref::<Error>().cloned(),
                _ => None,
            };
            own.unwrap_or_else(|| {
                Error::invalid("TM208", format!("computed column '{name}' does not plan"))
                    .because(text)
                    .help("it may use the physical and metadata columns and scalar functions")
            })
        })?;
        computed.insert(name, planned);
    }
    Ok(computed)
}

fn plan_one(
    name: &str,
    stream: &Stream,
    text: &str,
) -> datafusion::common::Result<(Arc<dyn PhysicalExpr>, DataType)> {
    let streams = BTreeMap::from([(name.to_owned(), stream.clone())]);
    let provider = Context::new(streams);
    let expr = Parser::new(&TidemillDialect).try_with_sql(text)?.parse_expr()?;
    let planner = SqlToRel::new_with_options(&provider, (&context::options().sql_parser).into());
    let source = provider.get_table_source(TableReference::bare(name))?;
    let scan = LogicalPlanBuilder::scan(TableReference::bare(name), source, None)?.build()?;
    let expr = planner.sql_to_expr(expr, scan.schema(), &mut PlannerContext::new())?;
    let plan = LogicalPlanBuilder::from(scan).project([expr])?.build()?;
    volatile::refuse(&plan)?;
    let plan = prepare(plan)?;
    let LogicalPlan::Projection(projection) = &plan else {
        return plan_err!("'{text}' is not an expression");
    };
    let schema = projection.input.schema();
    let physical = super::lower::physical(&projection.expr[0], schema)?;
    let data_type = physical.data_type(schema.as_arrow())?;
    Ok((physical, data_type))
}
