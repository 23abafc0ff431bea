//! Cuts a logical plan into row steps, window aggregation and steps over closed windows.
//!
//! Window columns do not exist before the window closes, so below the aggregation they travel as
//! empty columns with a *role*; using one in an expression there is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, SkipType, TableScan};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr, create_physical_expr};
use tidemill_contract::{Error, Micros};

use super::context::{Stream, StreamTable};
use super::functions::as_written;
use super::{QueryPlan, RowStep, Shape, Windowed, nullable};
use crate::window::WindowSpec;

mod aggregate;

/// Most windows a row may lie in if it is not aggregated.
const MAX_COPIES: i64 = 16;

/// What a column means in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    /// A key of the aggregation.
    Key,
    /// A time column of the stream, with how far it may lie behind the stream's watermark.
    Time(Micros),
    WindowStart,
    WindowEnd,
    WindowTime,
}

impl Role {
    pub(super) fn is_window(self) -> bool {
        matches!(self, Self::WindowStart | Self::WindowEnd | Self::WindowTime)
    }
}

/// A plan cut so far.
pub(super) struct Cut {
    input: String,
    window: Option<(WindowSpec, usize)>,
    scan_schema: SchemaRef,
    /// Role of each current output column.
    roles: Vec<Role>,
    /// Steps since the scan or the aggregation.
    steps: Vec<RowStep>,
    /// Text of the steps below the aggregation.
    text: String,
    /// First use of a window column inside an expression below the aggregation.
    window_used: Option<String>,
    aggregation: Option<aggregate::Aggregation>,
}

/// Cuts a prepared plan.
pub(super) fn lower(plan: &LogicalPlan, streams: &BTreeMap<String, Stream>) -> Result<QueryPlan> {
    let cut = cut(plan, streams)?;
    let schema = nullable(plan.schema().as_arrow());
    for (index, field) in schema.fields().iter().enumerate() {
        if schema.fields().iter().take(index).any(|other| other.name() == field.name()) {
            return refuse(
                "TM205",
                format!("two output columns are named '{}'", field.name()),
                "give each column a name of its own with AS",
            );
        }
    }
    let window = cut.window.as_ref().map(|(window, _)| window.clone());
    let longest = window.as_ref().map_or(0, WindowSpec::longest);
    let mut time_columns = BTreeMap::new();
    for (field, role) in schema.fields().iter().zip(&cut.roles) {
        let behind = match role {
            Role::Plain | Role::Key => continue,
            Role::Time(behind) => *behind,
            Role::WindowEnd => 0,
            Role::WindowTime => 1_000,
            Role::WindowStart => longest,
        };
        time_columns.insert(field.name().clone(), behind);
    }
    let role = |wanted: Role| cut.roles.iter().position(|role| *role == wanted);
    let window_columns = role(Role::WindowStart).zip(role(Role::WindowEnd));
    let keys = cut.roles.iter().enumerate().filter(|(_, role)| **role == Role::Key);
    let key_columns = keys.map(|(index, _)| index).collect();
    let logical = plan.display_indent().to_string();
    let shape = match (cut.aggregation, cut.window) {
        (None, expand) => {
            if let Some((window, _)) = &expand {
                check_copies(window)?;
                // Rows expanded by a window function carry the window of a row that may be emitted
                // long before the window closes: no further window over them.
                time_columns.clear();
            }
            Shape::Stateless { expand, steps: cut.steps }
        }
        (Some(aggregation), Some((window, time_index))) => Shape::Windowed(Arc::new(Windowed {
            window,
            steps: aggregation.steps,
            group_by: aggregation.group_by,
            key_schema: aggregation.key_schema,
            aggregates: aggregation.aggregates,
            layout: aggregation.layout,
            aggregate_schema: aggregation.schema,
            post: cut.steps,
            scan_schema: cut.scan_schema,
            time_index,
            sharing: aggregation.sharing,
        })),
        (Some(_), None) => return Err(unbounded()),
    };
    let window = match &shape {
        Shape::Windowed(_) => window,
        Shape::Stateless { .. } => None,
    };
    Ok(QueryPlan {
        input: cut.input,
        schema,
        time_columns,
        window_columns,
        key_columns,
        window,
        logical,
        shape,
    })
}

/// Without an aggregation each row is given out once per window it lies in.
fn check_copies(window: &WindowSpec) -> Result<()> {
    if window.overlap() <= MAX_COPIES {
        return Ok(());
    }
    refuse(
        "TM212",
        format!("each row would be given out {} times", window.overlap()),
        "aggregate per window, or make the slide or step longer",
    )
}

fn cut(plan: &LogicalPlan, streams: &BTreeMap<String, Stream>) -> Result<Cut> {
    match plan {
        LogicalPlan::TableScan(scan) => cut_scan(scan, streams),
        LogicalPlan::SubqueryAlias(alias) => cut(&alias.input, streams),
        LogicalPlan::Projection(projection) => {
            let below = cut(&projection.input, streams)?;
            cut_projection(below, &projection.expr, projection.input.schema(), plan)
        }
        LogicalPlan::Filter(filter) => {
            let mut below = cut(&filter.input, streams)?;
            note_window_use(&mut below, &filter.predicate, filter.input.schema());
            below.text.push_str(&format!("|filter {}", as_written(&filter.predicate)));
            below.steps.push(RowStep::Filter(physical(&filter.predicate, filter.input.schema())?));
            Ok(below)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let below = cut(&aggregate.input, streams)?;
            aggregate::cut_aggregate(below, aggregate)
        }
        LogicalPlan::Sort(sort) => {
            let mut below = over_closed_window(cut(&sort.input, streams)?, "ORDER BY")?;
            let mut by = Vec::new();
            for item in &sort.expr {
                by.push(PhysicalSortExpr {
                    expr: physical(&item.expr, sort.input.schema())?,
                    options: SortOptions { descending: !item.asc, nulls_first: item.nulls_first },
                });
            }
            below.steps.push(RowStep::Sort { by, skip: 0, keep: sort.fetch });
            Ok(below)
        }
        LogicalPlan::Limit(limit) => {
            let mut below = over_closed_window(cut(&limit.input, streams)?, "LIMIT")?;
            let (SkipType::Literal(skip), FetchType::Literal(keep)) =
                (limit.get_skip_type()?, limit.get_fetch_type()?)
            else {
                return refuse("TM220", "LIMIT must be a number".into(), "write a plain number");
            };
            match below.steps.last_mut() {
                // Sorted right before: then only the first need be in order.
                Some(RowStep::Sort { skip: own @ 0, keep: all @ None, .. }) => {
                    (*own, *all) = (skip, keep);
                }
                _ => below.steps.push(RowStep::Sort { by: Vec::new(), skip, keep }),
            }
            Ok(below)
        }
        LogicalPlan::Join(_) => refuse(
            "TM221",
            "a join without a time bound cannot be kept".into(),
            "register each side as a view and join them in an ad-hoc SELECT",
        ),
        LogicalPlan::Window(_) => refuse(
            "TM222",
            "OVER is not supported in a registered query".into(),
            "use ORDER BY … LIMIT for the top rows of each window, or OVER in an ad-hoc SELECT",
        ),
        LogicalPlan::Distinct(_) => refuse(
            "TM223",
            "SELECT DISTINCT is not supported in a registered query".into(),
            "group by the columns instead",
        ),
        other => refuse(
            "TM220",
            format!("{} is not supported in a registered query", node_name(other)),
            "register a simpler view and do the rest in an ad-hoc SELECT over it",
        ),
    }
}

fn cut_scan(scan: &TableScan, streams: &BTreeMap<String, Stream>) -> Result<Cut> {
    let Some(table) = scan.source.as_ref().downcast_ref::<StreamTable>() else {
        return refuse("TM220", format!("'{}' is not a stream", scan.table_name), "name a source");
    };
    let times = streams.get(&table.name).map(|stream| &stream.time_columns);
    let mut roles: Vec<Role> = table
        .schema
        .fields()
        .iter()
        .map(|field| match times.and_then(|times| times.get(field.name())) {
            Some(behind) => Role::Time(*behind),
            None => Role::Plain,
        })
        .collect();
    if table.window.is_some() {
        roles.truncate(table.stream_width);
        roles.extend([Role::WindowStart, Role::WindowEnd, Role::WindowTime]);
    }
    Ok(Cut {
        input: table.name.clone(),
        window: table.window.clone(),
        scan_schema: nullable(&table.schema),
        roles,
        steps: Vec::new(),
        text: String::new(),
        window_used: None,
        aggregation: None,
    })
}

fn cut_projection(
    mut below: Cut,
    exprs: &[Expr],
    input: &DFSchema,
    plan: &LogicalPlan,
) -> Result<Cut> {
    let mut roles = Vec::new();
    let mut columns = Vec::new();
    for expr in exprs {
        let role = role_of(expr, input, &below.roles);
        if matches!(role, Role::Plain | Role::Key) {
            note_window_use(&mut below, expr, input);
        }
        roles.push(role);
        columns.push(physical(expr, input)?);
        below.text.push_str(&format!("|project {}", as_written(expr)));
    }
    below.roles = roles;
    below.steps.push(RowStep::Project(columns, nullable(plan.schema().as_arrow())));
    Ok(below)
}

/// The role of an expression: that of the column it merely renames.
pub(super) fn role_of(expr: &Expr, input: &DFSchema, roles: &[Role]) -> Role {
    match expr {
        Expr::Alias(alias) => role_of(&alias.expr, input, roles),
        Expr::Column(column) => match input.index_of_column(column) {
            Ok(index) => roles.get(index).copied().unwrap_or(Role::Plain),
            Err(_) => Role::Plain,
        },
        _ => Role::Plain,
    }
}

/// Remembers the first window column used inside an expression before the aggregation.
pub(super) fn note_window_use(cut: &mut Cut, expr: &Expr, input: &DFSchema) {
    if cut.aggregation.is_some() || cut.window_used.is_some() {
        return;
    }
    for column in expr.column_refs() {
        if let Ok(index) = input.index_of_column(column)
            && cut.roles.get(index).is_some_and(|role| role.is_window())
        {
            cut.window_used = Some(column.name.clone());
            return;
        }
    }
}

fn over_closed_window(cut: Cut, clause: &str) -> Result<Cut> {
    if cut.aggregation.is_none() {
        return refuse(
            "TM224",
            format!("{clause} over an endless stream never ends"),
            "aggregate per window first: it then applies to the rows of each closed window",
        );
    }
    Ok(cut)
}

/// A physical expression over rows of the given schema.
pub(in crate::plan) fn physical(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
}

pub(super) fn unbounded() -> DataFusionError {
    external(
        Error::invalid("TM206", "GROUP BY over an endless stream has no end")
            .because("its state would grow forever and no result would ever be final")
            .help("group by window_start, window_end of TABLE(TUMBLE(TABLE …, DESCRIPTOR(…), …))"),
    )
}

pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

pub(super) fn refuse<T>(code: &'static str, message: String, help: &str) -> Result<T> {
    Err(external(Error::invalid(code, message).help(help)))
}

fn node_name(plan: &LogicalPlan) -> String {
    let line = plan.display().to_string();
    line.split([':', ' ']).next().unwrap_or("this operator").to_owned()
}
