//! What DataFusion's SQL planner asks for: the tables a query may read and the functions it may
//! call. Functions are collected once per process; nothing here can reach a file or a URL.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, TableReference, plan_err};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};

use super::functions;
use super::relation::WindowRelations;
use crate::window::WindowSpec;

/// A stream a query can read: a source or a view.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// Its rows.
    pub(crate) schema: SchemaRef,
    /// Columns a window may be declared on, each with how far its values may lie behind the
    /// stream's watermark.
    pub(crate) time_columns: BTreeMap<String, i64>,
}

/// The table DataFusion plans a scan of: a stream, with window columns if a window function
/// stands over it.
#[derive(Debug)]
pub(crate) struct StreamTable {
    pub(crate) name: String,
    pub(crate) schema: SchemaRef,
    /// Number of columns of the stream itself; window columns follow.
    pub(crate) stream_width: usize,
    /// The window and the index of its time column.
    pub(crate) window: Option<(WindowSpec, usize)>,
}

impl TableSource for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

struct Functions {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let mut scalar = HashMap::new();
    for function in functions::scalar_functions() {
        for alias in function.aliases() {
            scalar.insert(alias.clone(), Arc::clone(&function));
        }
        scalar.insert(function.name().to_owned(), function);
    }
    let mut aggregate = HashMap::new();
    for function in SessionStateDefaults::default_aggregate_functions() {
        for alias in function.aliases() {
            aggregate.insert(alias.clone(), Arc::clone(&function));
        }
        aggregate.insert(function.name().to_owned(), function);
    }
    aggregate.insert("sum".to_owned(), functions::wide_sum());
    let window = SessionStateDefaults::default_window_functions()
        .into_iter()
        .map(|function| (function.name().to_owned(), function))
        .collect();
    let higher_order = SessionStateDefaults::default_higher_order_functions()
        .into_iter()
        .map(|function| (function.name().to_owned(), function))
        .collect();
    let mut options = ConfigOptions::default();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());
    Functions {
        scalar,
        aggregate,
        window,
        higher_order,
        expr_planners: SessionStateDefaults::default_expr_planners(),
        options,
    }
});

/// The planner options every query is planned with.
pub(crate) fn options() -> &'static ConfigOptions {
    &FUNCTIONS.options
}

/// The catalog as one query sees it.
pub(crate) struct Context {
    streams: BTreeMap<String, Stream>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(streams: BTreeMap<String, Stream>) -> Self {
        let relations = WindowRelations::new(streams.clone());
        Self { streams, relation_planners: vec![Arc::new(relations)] }
    }
}

impl ContextProvider for Context {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let Some(stream) = self.streams.get(name.table()).filter(|_| name.schema().is_none())
        else {
            return plan_err!("table '{name}' not found");
        };
        Ok(Arc::new(StreamTable {
            name: name.table().to_owned(),
            schema: Arc::clone(&stream.schema),
            stream_width: stream.schema.fields().len(),
            window: None,
        }))
    }
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &FUNCTIONS.expr_planners
    }
    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }
    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        FUNCTIONS.scalar.get(name).map(Arc::clone)
    }
    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        FUNCTIONS.higher_order.get(name).map(Arc::clone)
    }
    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        FUNCTIONS.aggregate.get(name).map(Arc::clone)
    }
    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        FUNCTIONS.window.get(name).map(Arc::clone)
    }
    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        &FUNCTIONS.options
    }
    fn udf_names(&self) -> Vec<String> {
        FUNCTIONS.scalar.keys().cloned().collect()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        FUNCTIONS.higher_order.keys().cloned().collect()
    }
    fn udaf_names(&self) -> Vec<String> {
        FUNCTIONS.aggregate.keys().cloned().collect()
    }
    fn udwf_names(&self) -> Vec<String> {
        FUNCTIONS.window.keys().cloned().collect()
    }
}
