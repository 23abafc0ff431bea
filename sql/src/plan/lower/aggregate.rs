//! The window aggregation: keys, grouping sets, aggregates and the order of its output columns.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{GroupingSet, Sort};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::{enumerate_grouping_sets, grouping_set_to_exprlist};
use datafusion::logical_expr::{Aggregate as LogicalAggregate, Expr};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::aggregates::PhysicalGroupBy;
use datafusion::scalar::ScalarValue;
use tidemill_contract::Error;

use super::{Cut, Role, external, note_window_use, physical, refuse, role_of, unbounded};
use crate::plan::functions::as_written;
use crate::plan::{Aggregate, OutputColumn, RowStep, nullable};

/// Aggregates whose result depends on row order; without ORDER BY they get event-time order.
const ORDERED: &[&str] = &["first_value", "last_value", "nth_value", "array_agg", "string_agg"];

/// The parts of a window aggregation.
pub(super) struct Aggregation {
    pub(super) steps: Vec<RowStep>,
    pub(super) group_by: PhysicalGroupBy,
    pub(super) key_schema: SchemaRef,
    pub(super) aggregates: Vec<Aggregate>,
    pub(super) layout: Vec<OutputColumn>,
    pub(super) schema: SchemaRef,
    pub(super) sharing: String,
}

pub(super) fn cut_aggregate(mut cut: Cut, node: &LogicalAggregate) -> Result<Cut> {
    if cut.aggregation.is_some() {
        return refuse(
            "TM225",
            "an aggregate over an aggregate needs a view of its own".into(),
            "register the inner query as a view, then aggregate DESCRIPTOR(window_time) of it",
        );
    }
    if cut.window.is_none() {
        return Err(unbounded());
    }
    let input = node.input.schema();
    let keys = Keys::new(&cut, node, input)?;
    let mut aggregates = Vec::new();
    for expr in &node.aggr_expr {
        note_window_use(&mut cut, expr, input);
        aggregates.push(lower_aggregate(expr, input, &cut.roles)?);
    }
    for expr in &keys.plain {
        note_window_use(&mut cut, expr, input);
    }
    if let Some(column) = &cut.window_used {
        return refuse(
            "TM226",
            format!("'{column}' is used before its window is closed"),
            "use window columns in GROUP BY, in HAVING or in the outer SELECT",
        );
    }
    let input_schema = nullable(input.as_arrow());
    let mut layout = keys.layout;
    layout.extend((0..aggregates.len()).map(OutputColumn::Aggregate));
    let schema = nullable(node.schema.as_arrow());
    let mut roles: Vec<Role> = layout
        .iter()
        .map(|column| match column {
            OutputColumn::WindowStart => Role::WindowStart,
            OutputColumn::WindowEnd => Role::WindowEnd,
            OutputColumn::WindowTime => Role::WindowTime,
            OutputColumn::Key(_) => Role::Key,
            OutputColumn::Aggregate(_) => Role::Plain,
        })
        .collect();
    std::mem::swap(&mut cut.roles, &mut roles);
    let key_schema = nullable(keys.group_by.group_schema(&input_schema)?.as_ref());
    let (_, time_index) = cut.window.as_ref().map_or((None, 0), |(w, index)| (Some(w), *index));
    cut.aggregation = Some(Aggregation {
        sharing: format!("{}|time {time_index}{}|keys {}", cut.input, cut.text, keys.text),
        steps: std::mem::take(&mut cut.steps),
        group_by: keys.group_by,
        key_schema,
        aggregates,
        layout,
        schema,
    });
    Ok(cut)
}

/// The grouping of an aggregation without its window columns.
struct Keys {
    group_by: PhysicalGroupBy,
    layout: Vec<OutputColumn>,
    plain: Vec<Expr>,
    text: String,
}

impl Keys {
    fn new(cut: &Cut, node: &LogicalAggregate, input: &DFSchema) -> Result<Self> {
        let grouped = enumerate_grouping_sets(node.group_expr.clone())?;
        let sets = match grouped.as_slice() {
            [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => Some(sets.clone()),
            _ => None,
        };
        let exprs: Vec<Expr> = grouping_set_to_exprlist(&grouped)?.into_iter().cloned().collect();
        let roles: Vec<Role> = exprs.iter().map(|expr| role_of(expr, input, &cut.roles)).collect();
        let bounded = |set: &[Expr]| {
            set.iter().any(|expr| {
                let role = role_of(expr, input, &cut.roles);
                matches!(role, Role::WindowStart | Role::WindowEnd)
            })
        };
        let all_bounded = match &sets {
            Some(sets) => sets.iter().all(|set| bounded(set)),
            None => bounded(&exprs),
        };
        if !all_bounded {
            return Err(external(
                Error::invalid("TM207", "the window is not in GROUP BY")
                    .because("rows of different windows would be added up without end")
                    .help("add window_start, window_end to GROUP BY (to every grouping set)"),
            ));
        }
        match sets {
            None => Self::plain(&exprs, &roles, input),
            Some(sets) => Self::sets(&exprs, &roles, &sets, input),
        }
    }

    fn plain(exprs: &[Expr], roles: &[Role], input: &DFSchema) -> Result<Self> {
        let mut layout = Vec::new();
        let mut keys = Vec::new();
        let mut plain = Vec::new();
        for (expr, role) in exprs.iter().zip(roles) {
            layout.push(window_column(*role).unwrap_or(OutputColumn::Key(keys.len())));
            if !role.is_window() {
                keys.push((physical(expr, input)?, expr.schema_name().to_string()));
                plain.push(expr.clone());
            }
        }
        let text =
            plain.iter().map(|key| as_written(key).to_string()).collect::<Vec<_>>().join(", ");
        Ok(Self { group_by: PhysicalGroupBy::new_single(keys), layout, plain, text })
    }

    /// With grouping sets the (empty) window columns stay among the keys, so that the bits of the
    /// grouping id stand where DataFusion's planner expects them.
    fn sets(exprs: &[Expr], roles: &[Role], sets: &[Vec<Expr>], input: &DFSchema) -> Result<Self> {
        let mut layout = Vec::new();
        let mut keys: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::new();
        let mut nulls: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::new();
        let mut plain = Vec::new();
        for (index, (expr, role)) in exprs.iter().zip(roles).enumerate() {
            layout.push(window_column(*role).unwrap_or(OutputColumn::Key(index)));
            let name = expr.schema_name().to_string();
            let key = physical(expr, input)?;
            let data_type = key.data_type(input.as_arrow())?;
            nulls.push((lit(ScalarValue::try_from(&data_type)?), name.clone()));
            keys.push((key, name));
            if !role.is_window() {
                plain.push(expr.clone());
            }
        }
        layout.push(OutputColumn::Key(exprs.len()));
        let groups: Vec<Vec<bool>> =
            sets.iter().map(|set| exprs.iter().map(|expr| !set.contains(expr)).collect()).collect();
        let text = format!(
            "{} sets {groups:?}",
            exprs.iter().map(|key| as_written(key).to_string()).collect::<Vec<_>>().join(", ")
        );
        Ok(Self { group_by: PhysicalGroupBy::new(keys, nulls, groups, true), layout, plain, text })
    }
}

fn window_column(role: Role) -> Option<OutputColumn> {
    match role {
        Role::WindowStart => Some(OutputColumn::WindowStart),
        Role::WindowEnd => Some(OutputColumn::WindowEnd),
        Role::WindowTime => Some(OutputColumn::WindowTime),
        Role::Plain | Role::Key | Role::Time(_) => None,
    }
}

fn lower_aggregate(expr: &Expr, input: &DFSchema, roles: &[Role]) -> Result<Aggregate> {
    let expr = ordered(expr.clone().unalias_nested().data, input, roles)?;
    let schema: &Schema = input.as_arrow();
    let lowered = LoweredAggregateBuilder::new(
        &expr,
        input,
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
    .build()?;
    let mut arguments = lowered.aggregate.expressions();
    arguments.extend(lowered.aggregate.order_bys().iter().map(|by| Arc::clone(&by.expr)));
    Ok(Aggregate {
        text: as_written(&expr).to_string(),
        function: lowered.aggregate,
        arguments,
        filter: lowered.filter,
    })
}

/// Gives an order-dependent aggregate without ORDER BY the order of event time.
fn ordered(mut expr: Expr, input: &DFSchema, roles: &[Role]) -> Result<Expr> {
    let Expr::AggregateFunction(call) = &mut expr else {
        return Ok(expr);
    };
    if !ORDERED.contains(&call.func.name()) || !call.params.order_by.is_empty() {
        return Ok(expr);
    }
    let time = roles.iter().position(|role| matches!(role, Role::Time(_)));
    let Some(time) = time else {
        return refuse(
            "TM227",
            format!("{} needs ORDER BY inside the call", call.func.name()),
            "write first_value(x ORDER BY event_time)",
        );
    };
    let column = Expr::Column(input.columns().swap_remove(time));
    call.params.order_by.push(Sort::new(column, true, false));
    Ok(expr)
}
