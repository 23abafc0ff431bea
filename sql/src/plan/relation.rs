//! Plans window table functions in `FROM`: `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), …))` and
//! `TUMBLE(t, ts, …)` become a scan of the stream with `window_start`, `window_end` and
//! `window_time` appended. It only recognises and checks the call; the operator does the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{DataFusionError, Result, TableReference};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::sql::sqlparser::ast::{TableAlias, TableFactor};
use tidemill_contract::Error;

use super::context::{Stream, StreamTable};
use crate::parse::{WindowCall, window_call};
use crate::window::{KINDS, Step, WindowSpec};

/// Names of the columns a window function appends.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Recognises window table functions over the known streams.
#[derive(Debug)]
pub(crate) struct WindowRelations {
    streams: BTreeMap<String, Stream>,
}

impl WindowRelations {
    pub(crate) fn new(streams: BTreeMap<String, Stream>) -> Self {
        Self { streams }
    }

    fn table(&self, call: &WindowCall) -> Result<StreamTable, Error> {
        let Some(stream) = self.streams.get(&call.table) else {
            let names: Vec<&str> = self.streams.keys().map(String::as_str).collect();
            return Err(Error::invalid("TM201", format!("table '{}' not found", call.table))
                .at(call.span)
                .help(format!("known here: {}", names.join(", "))));
        };
        let Ok(time_index) = stream.schema.index_of(&call.time_column) else {
            return Err(Error::invalid(
                "TM202",
                format!("column '{}' not found in '{}'", call.time_column, call.table),
            )
            .at(call.span));
        };
        if !stream.time_columns.contains_key(&call.time_column) {
            let known: Vec<&str> = stream.time_columns.keys().map(String::as_str).collect();
            let error = Error::invalid(
                "TM203",
                format!("'{}.{}' has no watermark", call.table, call.time_column),
            )
            .at(call.span)
            .because("without a watermark no window over it could ever close");
            return Err(if known.is_empty() {
                error.help("declare WATERMARK FOR <column> AS <column> - INTERVAL '5' SECOND")
            } else {
                error.help(format!("use DESCRIPTOR({})", known.join(") or DESCRIPTOR(")))
            });
        }
        let arguments = KINDS.iter().find(|kind| kind.name == call.kind).map(|kind| kind.arguments);
        let steps: Vec<Step> = call
            .resolve(arguments.unwrap_or_default())?
            .iter()
            .map(|interval| Step { months: interval.months, micros: interval.micros })
            .collect();
        let window = WindowSpec::new(&call.kind, &steps, call.span)?;
        let zone = match stream.schema.field(time_index).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let mut fields = rename_inherited(&stream.schema);
        let stream_width = fields.len();
        for name in WINDOW_COLUMNS {
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            fields.push(Arc::new(Field::new(name, data_type, true)));
        }
        Ok(StreamTable {
            name: call.table.clone(),
            schema: Arc::new(Schema::new(fields)),
            stream_width,
            window: Some((window, time_index)),
        })
    }
}

/// Columns of the stream that a window column would hide keep their place under a name no user
/// can write, so that positions stay those of the stream.
fn rename_inherited(schema: &Schema) -> Vec<Arc<Field>> {
    schema
        .fields()
        .iter()
        .map(|field| {
            if WINDOW_COLUMNS.contains(&field.name().as_str()) {
                Arc::new(field.as_ref().clone().with_name(format!("$inner.{}", field.name())))
            } else {
                Arc::clone(field)
            }
        })
        .collect()
}

impl RelationPlanner for WindowRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        _context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let external = |error: Error| DataFusionError::External(Box::new(error));
        let Some(call) = window_call(&relation, &kinds).map_err(external)? else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let alias = alias_of(&relation);
        let table = self.table(&call).map_err(external)?;
        let name = TableReference::bare(table.name.clone());
        let plan = LogicalPlanBuilder::scan(name, Arc::new(table), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

fn alias_of(relation: &TableFactor) -> Option<TableAlias> {
    match relation {
        TableFactor::Table { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. } => alias.clone(),
        _ => None,
    }
}
