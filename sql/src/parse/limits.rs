//! How much one query may hold: lists, grouping sets, relations, nested values.
//!
//! Why before planning: a short text can name a plan that does not fit any machine (a `WITH` query
//! that joins the one before it with itself doubles with every line), and a planner that has
//! begun cannot be stopped. Everything is counted from the text alone; `WITH` queries count
//! wherever they are used, because they are planned there.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArguments, GroupByExpr, ObjectName, Query, Select, SetExpr,
};
use tidemill_contract::{Error, Result};

/// Most columns of a `SELECT`, a `GROUP BY` or an `ORDER BY`.
const MAX_COLUMNS: usize = 500;
/// Most elements of one list: `IN (…)`, `VALUES`, arguments of a function.
const MAX_LIST: usize = 5_000;
/// Most sets of keys that `CUBE`, `ROLLUP` and `GROUPING SETS` may stand for.
const MAX_GROUPING_SETS: u64 = 64;
/// Most tables and `SELECT`s, `WITH` queries counted wherever they are used.
const MAX_RELATIONS: u64 = 128;
/// Most elements of nested values: the product over nested queries of the arguments of functions
/// that make structs, maps and lists.
const MAX_TYPE_NODES: u64 = 1_000;
/// Functions whose result's type holds the types of all their arguments.
const TYPE_MAKERS: &[&str] = &["struct", "row", "named_struct", "map", "make_array", "arrays_zip"];

/// What has been counted so far; fed by a walk over the query from the outside in.
#[derive(Debug, Default)]
pub(super) struct Limits {
    frames: Vec<Frame>,
    /// How many relations each `WITH` query stands for.
    ctes: HashMap<String, u64>,
    type_nodes: u64,
}

/// One query that the walk is inside of.
#[derive(Debug, Default)]
struct Frame {
    relations: u64,
    /// Names of its `WITH` queries that are not counted yet, the next one last.
    pending: Vec<String>,
    type_nodes: u64,
}

impl Limits {
    /// The walk enters a query.
    pub(super) fn enter(&mut self, query: &Query) -> Result<()> {
        let mut frame = Frame::default();
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(Error::invalid("TM109", "WITH RECURSIVE is not supported")
                    .because("nothing says when it ends")
                    .help("write the levels out, or compute them outside"));
            }
            let names = with.cte_tables.iter().rev();
            frame.pending = names.map(|cte| cte.alias.name.value.to_lowercase()).collect();
        }
        if let Some(order) = &query.order_by
            && let datafusion::sql::sqlparser::ast::OrderByKind::Expressions(items) = &order.kind
        {
            list("ORDER BY", items.len(), MAX_COLUMNS)?;
        }
        if let SetExpr::Values(values) = query.body.as_ref() {
            list("VALUES", values.rows.len(), MAX_LIST)?;
            for row in &values.rows {
                list("a row of VALUES", row.len(), MAX_COLUMNS)?;
            }
        }
        self.frames.push(frame);
        Ok(())
    }

    /// The walk leaves the query it is in.
    pub(super) fn leave(&mut self) -> Result<()> {
        let Some(done) = self.frames.pop() else { return Ok(()) };
        self.type_nodes = self.type_nodes.max(1).saturating_mul(done.type_nodes.max(1));
        limit("elements in nested values", self.type_nodes, MAX_TYPE_NODES)?;
        limit("tables and SELECTs", done.relations, MAX_RELATIONS)?;
        match self.frames.last_mut() {
            None => {}
            Some(outer) => match outer.pending.pop() {
                Some(name) => {
                    self.ctes.insert(name, done.relations);
                }
                None => outer.relations = outer.relations.saturating_add(done.relations),
            },
        }
        Ok(())
    }

    pub(super) fn select(&mut self, select: &Select) -> Result<()> {
        list("SELECT", select.projection.len(), MAX_COLUMNS)?;
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            list("GROUP BY", keys.len(), MAX_COLUMNS)?;
            let sets = keys.iter().map(grouping_sets).fold(1, u64::saturating_mul);
            limit("grouping sets", sets, MAX_GROUPING_SETS)?;
        }
        self.count(1);
        Ok(())
    }

    pub(super) fn relation(&mut self, name: &ObjectName) {
        let name = name.to_string().replace('"', "").to_lowercase();
        let weight = self.ctes.get(&name).copied().unwrap_or(1);
        self.count(weight);
    }

    pub(super) fn expression(&mut self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::InList { list: items, .. } => list("IN", items.len(), MAX_LIST),
            Expr::Array(array) => self.type_maker("a list", array.elem.len()),
            Expr::Tuple(items) => self.type_maker("a tuple", items.len()),
            Expr::Struct { values, .. } => self.type_maker("a struct", values.len()),
            Expr::Dictionary(fields) => self.type_maker("a struct", fields.len()),
            Expr::Map(map) => self.type_maker("a map", map.entries.len()),
            Expr::Function(call) => {
                let FunctionArguments::List(arguments) = &call.args else { return Ok(()) };
                let name = call.name.to_string().to_lowercase();
                if TYPE_MAKERS.contains(&name.as_str()) {
                    return self.type_maker(&name, arguments.args.len());
                }
                list(&name, arguments.args.len(), MAX_LIST)
            }
            _ => Ok(()),
        }
    }

    fn type_maker(&mut self, what: &str, elements: usize) -> Result<()> {
        list(what, elements, MAX_LIST)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.type_nodes = frame.type_nodes.saturating_add(elements as u64);
        }
        Ok(())
    }

    fn count(&mut self, relations: u64) {
        if let Some(frame) = self.frames.last_mut() {
            frame.relations = frame.relations.saturating_add(relations);
        }
    }
}

/// The number of key sets an element of `GROUP BY` stands for.
fn grouping_sets(key: &Expr) -> u64 {
    match key {
        Expr::Cube(parts) => 1_u64.checked_shl(parts.len() as u32).unwrap_or(u64::MAX),
        Expr::Rollup(parts) => parts.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    }
}

fn list(what: &str, found: usize, most: usize) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::invalid("TM100", format!("{what} has {found} elements"))
        .because(format!("at most {most} are read"))
        .help("make it shorter; long lists belong into a table to join or filter with"))
}

fn limit(what: &str, found: u64, most: u64) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::invalid("TM100", format!("the query stands for more than {most} {what}"))
        .because("a WITH query counts wherever it is used")
        .help("split the query with views over views"))
}

/// The verdict as a walk needs it.
pub(super) fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}
