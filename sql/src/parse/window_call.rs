//! Windowing table functions in `FROM`, in all the ways people write them:
//!
//! ```sql
//! FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))            -- Flink
//! FROM TABLE(TUMBLE(DATA => TABLE orders, TIMECOL => DESCRIPTOR(ts), SIZE => …))   -- Flink
//! FROM TUMBLE(orders, ts, INTERVAL '1 minute')                                     -- RisingWave
//! ```
//!
//! Which functions are windows, and what their intervals are called, is the caller's knowledge.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Spanned, TableAlias,
    TableFactor,
};
use tidemill_contract::{Error, Result, Span};

use super::cursor::{cover, normal};
use super::dialect::TABLE_MARKER;
use super::duration::{Interval, parse_interval};
use super::script::byte_span;
use super::suggest::closest;

const DATA: &str = "data";
const TIME_COLUMN: &str = "timecol";
const OFFSET: &str = "offset";

/// A windowing function applied to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowCall {
    /// Name of the function, lower case.
    pub kind: String,
    /// The table or view windowed.
    pub table: String,
    /// Its event-time column.
    pub time_column: String,
    /// Intervals given by position, in written order.
    pub intervals: Vec<Interval>,
    /// Intervals given by name (lower case).
    pub named: BTreeMap<String, Interval>,
    /// `AS alias`.
    pub alias: Option<String>,
    /// Place of the call in the script.
    pub span: Option<Span>,
}

impl WindowCall {
    /// The intervals in the order of `parameters`, followed by the offset if one is given.
    ///
    /// # Errors
    /// `TM122` if one is missing, unknown, given twice, or if there are too many.
    pub fn resolve(&self, parameters: &[&str]) -> Result<Vec<Interval>> {
        let mut names = parameters.to_vec();
        names.push(OFFSET);
        let usage = format!(
            "write {}(TABLE t, DESCRIPTOR(time), {}[, offset])",
            self.kind.to_uppercase(),
            parameters.join(", ")
        );
        let wrong =
            |message: String| Error::invalid("TM122", message).at(self.span).help(usage.clone());
        if self.intervals.len() > names.len() {
            let given = self.intervals.len();
            return Err(wrong(format!("{} has too many intervals: {given}", self.kind)));
        }
        for name in self.named.keys() {
            let Some(place) = names.iter().position(|known| known == name) else {
                let error = wrong(format!("{} has no argument '{name}'", self.kind));
                return Err(match closest(name, &names) {
                    Some(known) => Error { help: Some(format!("did you mean {known}?")), ..error },
                    None => error,
                });
            };
            if place < self.intervals.len() {
                return Err(wrong(format!("argument '{name}' of {} is given twice", self.kind)));
            }
        }
        let mut resolved = Vec::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            match self.intervals.get(place).or_else(|| self.named.get(*name)) {
                Some(interval) => resolved.push(*interval),
                None if *name == OFFSET => {}
                None => return Err(wrong(format!("{} needs an interval '{name}'", self.kind))),
            }
        }
        Ok(resolved)
    }
}

/// The windowing call a table factor of `FROM` is, if its function is one of `kinds` (lower case).
///
/// # Errors
/// `TM122` if it is one but its arguments are wrong, `TM121` for a bad interval.
pub fn window_call(factor: &TableFactor, kinds: &[&str]) -> Result<Option<WindowCall>> {
    let (name, arguments, alias): (&ObjectName, &[FunctionArg], &Option<TableAlias>) = match factor
    {
        TableFactor::Table { name, args: Some(list), alias, .. } => (name, &list.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        TableFactor::TableFunction { expr: Expr::Function(function), alias } => {
            let FunctionArguments::List(list) = &function.args else {
                return Ok(None);
            };
            (&function.name, &list.args, alias)
        }
        _ => return Ok(None),
    };
    let Some(name) = single(name) else {
        return Ok(None);
    };
    let kind = name.value.to_lowercase();
    if !kinds.contains(&kind.as_str()) {
        return Ok(None);
    }
    let place = byte_span(name.span);
    let end = arguments.iter().filter_map(|argument| byte_span(argument.span())).next_back();
    let span = match (place, end) {
        (Some(first), Some(last)) => Some(cover(first, last)),
        _ => place,
    };
    let mut reader = Reader { kind: &kind, span, table: None, time_column: None };
    let (intervals, named) = reader.read(arguments)?;
    let table = reader.table.take().ok_or_else(|| reader.wrong("no table is given"))?;
    let time_column = reader.time_column.take();
    let time_column = time_column.ok_or_else(|| reader.wrong("no time column is given"))?;
    let alias = alias.as_ref().map(|alias| stored(&alias.name));
    Ok(Some(WindowCall { kind, table, time_column, intervals, named, alias, span }))
}

struct Reader<'a> {
    kind: &'a str,
    span: Option<Span>,
    table: Option<String>,
    time_column: Option<String>,
}

type Intervals = (Vec<Interval>, BTreeMap<String, Interval>);

impl Reader<'_> {
    fn read(&mut self, arguments: &[FunctionArg]) -> Result<Intervals> {
        let mut intervals = Vec::new();
        let mut named = BTreeMap::new();
        for argument in arguments {
            let (name, value) = match argument {
                FunctionArg::Unnamed(value) => (None, value),
                FunctionArg::Named { name, arg, .. } => (Some(name.value.to_lowercase()), arg),
                FunctionArg::ExprNamed { arg, .. } => {
                    return Err(self.wrong(&format!("'{arg}' has no simple name")));
                }
            };
            let FunctionArgExpr::Expr(value) = value else {
                return Err(self.wrong("'*' is no argument"));
            };
            match name.as_deref() {
                None if !named.is_empty() => {
                    return Err(self.wrong("named arguments come after positional ones"));
                }
                None if self.table.is_none() => self.table = Some(self.table_name(value)?),
                None if self.time_column.is_none() => self.time_column = Some(self.column(value)?),
                None => intervals.push(parse_interval(value)?),
                Some(DATA) if self.table.is_none() => self.table = Some(self.table_name(value)?),
                Some(TIME_COLUMN) if self.time_column.is_none() => {
                    self.time_column = Some(self.column(value)?);
                }
                Some(other) => {
                    let interval = match other {
                        DATA | TIME_COLUMN => None,
                        _ => Some(parse_interval(value)?),
                    };
                    let is_new = interval
                        .is_some_and(|value| named.insert(other.to_owned(), value).is_none());
                    if !is_new {
                        return Err(self.wrong(&format!("argument '{other}' is given twice")));
                    }
                }
            }
        }
        Ok((intervals, named))
    }

    /// `orders` or `TABLE orders`.
    fn table_name(&self, value: &Expr) -> Result<String> {
        let ident = match value {
            Expr::Identifier(ident) => Some(ident),
            _ => call_argument(value, TABLE_MARKER),
        };
        ident.map(stored).ok_or_else(|| {
            self.wrong("the first argument is not the name of a source or view")
                .because("a window is taken over a named stream")
        })
    }

    /// `ts` or `DESCRIPTOR(ts)`.
    fn column(&self, value: &Expr) -> Result<String> {
        let ident = match value {
            Expr::Identifier(ident) => Some(ident),
            _ => call_argument(value, "descriptor"),
        };
        ident.map(stored).ok_or_else(|| self.wrong("the time column is not a column name"))
    }

    fn wrong(&self, what: &str) -> Error {
        let kind = self.kind.to_uppercase();
        Error::invalid("TM122", format!("{}: {what}", self.kind))
            .at(self.span)
            .help(format!("write {kind}(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE, …)"))
    }
}

/// The single identifier given to the function `name`.
fn call_argument<'e>(value: &'e Expr, name: &str) -> Option<&'e Ident> {
    let Expr::Function(function) = value else {
        return None;
    };
    if !single(&function.name)?.value.eq_ignore_ascii_case(name) {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
        return None;
    };
    match argument {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(parts) if parts.len() == 1 => parts.first(),
        _ => None,
    }
}

fn single(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    }
}

fn stored(ident: &Ident) -> String {
    normal(&ident.value, ident.quote_style)
}
