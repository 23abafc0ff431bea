//! The lists that the queries of f are made of: each entry as SQL and as what the generator's totals
//! make of it.

use super::sharing::Totals;
use crate::digest::Cell;
use crate::orders::{CATEGORIES, CHANNELS, COUNTRIES, Order, STATUSES};

/// Windows, in minutes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Span {
    Tumble(i64),
    /// Slide and size.
    Hop(i64, i64),
    /// Step and largest size.
    Cumulate(i64, i64),
}

pub(super) const WINDOWS: &[Span] = &[
    Span::Tumble(1),
    Span::Tumble(5),
    Span::Hop(1, 5),
    Span::Tumble(10),
    Span::Hop(5, 15),
    Span::Cumulate(5, 30),
    Span::Tumble(2),
    Span::Hop(2, 10),
    Span::Tumble(15),
    Span::Hop(10, 60),
    Span::Tumble(3),
    Span::Hop(1, 10),
    Span::Tumble(30),
    Span::Hop(5, 30),
    Span::Cumulate(10, 60),
    Span::Tumble(60),
    Span::Hop(2, 4),
    Span::Hop(3, 15),
    Span::Tumble(20),
    Span::Hop(10, 20),
];

impl Span {
    pub(super) fn sql(self) -> String {
        let (function, steps) = match self {
            Self::Tumble(size) => ("TUMBLE", vec![size]),
            Self::Hop(slide, size) => ("HOP", vec![slide, size]),
            Self::Cumulate(step, size) => ("CUMULATE", vec![step, size]),
        };
        let steps: Vec<String> =
            steps.iter().map(|minutes| format!("INTERVAL '{minutes}' MINUTE")).collect();
        format!("{function}(TABLE orders, DESCRIPTOR(ordered), {})", steps.join(", "))
    }

    /// All windows that may hold a row of the first `minutes`; the first minute begins an hour.
    pub(super) fn all(self, minutes: i64) -> Vec<(i64, i64)> {
        let (first, last) = (-60, minutes);
        let mut windows = Vec::new();
        for start in first..last {
            match self {
                Self::Tumble(size) if start % size == 0 => windows.push((start, start + size)),
                Self::Hop(slide, size) if start % slide == 0 => windows.push((start, start + size)),
                Self::Cumulate(step, size) if start % size == 0 => {
                    windows.extend((1..=size / step).map(|count| (start, start + count * step)));
                }
                _ => {}
            }
        }
        windows
    }
}

/// Names of [`expression`]s; every query also counts.
pub(super) const AGGREGATES: &[&[&str]] = &[
    &["revenue"],
    &["pieces"],
    &["mean_price"],
    &["least_price", "most_price"],
    &["revenue", "most_pieces"],
    &["prices"],
    &["revenue", "mean_price"],
    &["least_pieces", "most_pieces"],
    &["pieces", "prices"],
    &["revenue", "least_price", "most_price", "mean_price"],
];

fn expression(name: &str) -> &'static str {
    match name {
        "revenue" => "sum(quantity * unit_price)",
        "pieces" => "sum(quantity)",
        "prices" => "sum(unit_price)",
        "mean_price" => "avg(unit_price)",
        "least_price" => "min(unit_price)",
        "most_price" => "max(unit_price)",
        "least_pieces" => "min(quantity)",
        _ => "max(quantity)",
    }
}

/// The value of an aggregate; a mean has four digits more than a price, cut off.
pub(super) fn value(name: &str, totals: &Totals) -> Cell<'static> {
    Cell::Number(match name {
        "revenue" => totals.cents.into(),
        "pieces" => totals.quantity.into(),
        "prices" => totals.prices.into(),
        "mean_price" => (totals.prices * 10_000 / totals.orders).into(),
        "least_price" => totals.least_price.into(),
        "most_price" => totals.most_price.into(),
        "least_pieces" => totals.least_quantity.into(),
        _ => totals.most_quantity.into(),
    })
}

/// The aggregates as columns of a view, and their names.
pub(super) fn aggregates_sql(names: &[&str]) -> (String, String) {
    let columns = names.iter().map(|name| format!(", {} AS {name}", expression(name))).collect();
    (columns, names.iter().map(|name| format!(", {name}")).collect())
}

/// Which rows of a window a query keeps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    All,
    OrdersAbove(u64),
    PiecesAbove(u64),
}

pub(super) const CONDITIONS: &[Condition] = &[
    Condition::All,
    Condition::OrdersAbove(1_850),
    Condition::OrdersAbove(9_300),
    Condition::PiecesAbove(9_250),
    Condition::PiecesAbove(46_000),
];

impl Condition {
    pub(super) fn sql(self) -> String {
        match self {
            Self::All => String::new(),
            Self::OrdersAbove(least) => format!(" HAVING count(*) > {least}"),
            Self::PiecesAbove(least) => format!(" HAVING sum(quantity) > {least}"),
        }
    }

    pub(super) fn holds(self, totals: &Totals) -> bool {
        match self {
            Self::All => true,
            Self::OrdersAbove(least) => totals.orders > least,
            Self::PiecesAbove(least) => totals.quantity > least,
        }
    }
}

/// A column that queries of f3 group by.
#[derive(Debug)]
pub(super) struct KeyColumn {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    /// Its value, as a small number.
    pub(super) of: fn(&Order) -> usize,
    /// As it is in a result.
    pub(super) cell: fn(usize) -> Cell<'static>,
}

/// With these, 100 different sets of columns are keys. The first two are the keys of f1.
pub(super) const KEY_COLUMNS: [KeyColumn; 7] = [
    KeyColumn {
        name: "category",
        sql: "category",
        of: |order| order.category,
        cell: |value| Cell::Text(CATEGORIES[value]),
    },
    KeyColumn {
        name: "country",
        sql: "country",
        of: |order| order.country,
        cell: |value| Cell::Text(COUNTRIES[value]),
    },
    KeyColumn {
        name: "channel",
        sql: "channel",
        of: |order| order.channel,
        cell: |value| Cell::Text(CHANNELS[value]),
    },
    KeyColumn {
        name: "status",
        sql: "status",
        of: |order| order.status,
        cell: |value| Cell::Text(STATUSES[value]),
    },
    KeyColumn { name: "currency", sql: "currency", of: |_| 0, cell: |_| Cell::Text("GBP") },
    KeyColumn {
        name: "odd",
        sql: "quantity % 2",
        of: |order| (order.quantity % 2) as usize,
        cell: |value| Cell::Number(value as i128),
    },
    KeyColumn {
        name: "quantity",
        sql: "quantity",
        of: |order| order.quantity as usize,
        cell: |value| Cell::Number(value as i128),
    },
];

/// The columns of query `number` of f3: its binary digits.
pub(super) fn chosen(number: usize) -> Vec<usize> {
    (0..KEY_COLUMNS.len()).filter(|column| (number + 1) >> column & 1 == 1).collect()
}
