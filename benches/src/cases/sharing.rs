//! f: many queries on one topic, registered together: f1 the same keys with different windows,
//! aggregates and conditions, f2 different filters, f3 different keys.
//!
//! Queries come from lists, the same at every run; the first is always the plain one. Each program
//! runs twice, on a topic and on one a quarter as long: what the other three quarters cost is the CPU
//! time of its orders, and what is left (registration, start, the first and last commit of each
//! table) is told apart, as set-up.
//! Every row of every query is compared with what the generator says.

use anyhow::{Context as _, Result};
use datafusion::common::HashMap;

use super::sharing_sql::{
    AGGREGATES, CONDITIONS, Condition, KEY_COLUMNS, Span, WINDOWS, aggregates_sql, chosen, value,
};
use crate::digest::Cell;
use crate::driver::{Answers, Case, Target};
use crate::engine::{Declared, source};
use crate::load::Topic;
use crate::orders::{CATEGORIES, COUNTRIES, EPOCH_MS, Order};
use crate::product::{self, Clock};
use crate::{Digest, Measured};

const MINUTE_MS: i64 = 60_000;
/// Views created by one script: a script has a largest length.
const SCRIPT_VIEWS: usize = 500;
/// The small run has one order of so many.
const SMALL: u64 = 4;

/// What differs between the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Windows,
    Filters,
    Keys,
}

#[derive(Debug)]
pub(super) struct Sharing {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    /// Each with so many queries as its name ends in.
    programs: &'static [&'static str],
    targets: &'static [Target],
}

pub(super) const SAME_KEYS: Sharing = Sharing {
    name: "f1",
    title: "queries with the same keys and different windows, aggregates and conditions",
    kind: Kind::Windows,
    programs: &["same-keys-1", "same-keys-10", "same-keys-100", "same-keys-1000"],
    targets: &[
        Target { program: "same-keys-100", baseline: "same-keys-1", most: 1.5 },
        Target { program: "same-keys-1000", baseline: "same-keys-1", most: 4.0 },
    ],
};

pub(super) const FILTERS: Sharing = Sharing {
    name: "f2",
    title: "queries with different filters",
    kind: Kind::Filters,
    programs: &["filters-1", "filters-10", "filters-100"],
    targets: &[],
};

pub(super) const KEYS: Sharing = Sharing {
    name: "f3",
    title: "queries with different keys",
    kind: Kind::Keys,
    programs: &["keys-1", "keys-10", "keys-100"],
    targets: &[Target { program: "keys-100", baseline: "keys-1", most: 6.0 }],
};

impl Case for Sharing {
    fn name(&self) -> &'static str {
        self.name
    }
    fn title(&self) -> &'static str {
        self.title
    }
    fn programs(&self) -> &'static [&'static str] {
        self.programs
    }
    fn baselines(&self) -> &'static [&'static str] {
        &self.programs[..1]
    }
    fn targets(&self) -> &'static [Target] {
        self.targets
    }
    fn prepare(&self, brokers: &str, count: u64) -> Result<Answers> {
        let mut answers = Answers::new();
        for orders in [count / SMALL, count] {
            let mut cells = Cells::default();
            let mut filtered = Filtered::default();
            Topic::usual(orders).fill(brokers, |order| match self.kind {
                Kind::Filters => filtered.add(order, 100),
                Kind::Windows | Kind::Keys => cells.add(order),
            })?;
            for program in self.programs {
                let digest: &mut Digest = answers.entry(program).or_default();
                for query in 0..queries(program)? {
                    match self.kind {
                        Kind::Windows => cells.window_rows(query, digest),
                        Kind::Filters => filtered.rows(query, digest),
                        Kind::Keys => cells.key_rows(query, digest),
                    }
                }
            }
        }
        Ok(answers)
    }
    fn run(&self, program: &str, brokers: &str, count: u64) -> Result<Measured> {
        let small = self.run_on(program, brokers, count / SMALL)?;
        let mut measured = self.run_on(program, brokers, count)?;
        let more = measured.cpu_ns.saturating_sub(small.cpu_ns);
        let marginal =
            (u128::from(more) * u128::from(count) / u128::from(count - count / SMALL)) as u64;
        measured.setup_cpu_ns += measured.cpu_ns.saturating_sub(marginal);
        measured.cpu_ns = marginal;
        if let (Some(all), Some(digest)) = (&mut measured.digest, small.digest) {
            all.merge(digest);
        }
        Ok(measured)
    }
}

impl Sharing {
    fn run_on(&self, program: &str, brokers: &str, count: u64) -> Result<Measured> {
        let mut scripts = vec![source(&Topic::usual(count).name, Declared::Twelve)];
        let mut reads = Vec::new();
        for query in 0..queries(program)? {
            let (view, columns) = match self.kind {
                Kind::Windows => window_view(query),
                Kind::Filters => filter_view(query),
                Kind::Keys => key_view(query),
            };
            if query % SCRIPT_VIEWS == 0 {
                scripts.push(String::new());
            }
            let script = scripts.last_mut().context("no script")?;
            *script += &format!("CREATE MATERIALIZED VIEW q{query} AS {view}\n");
            *script += "EMIT ON WINDOW CLOSE;\n";
            reads.push(format!("SELECT {columns} FROM q{query}"));
        }
        product::run(brokers, &scripts, Clock::FromStart, async |pipeline| {
            product::rows(pipeline, &reads).await
        })
    }
}

fn queries(program: &str) -> Result<usize> {
    let (_, number) = program.rsplit_once('-').context("a program without a number")?;
    Ok(number.parse()?)
}

/// The parts of query `number` of f1: every combination once before one comes again.
fn parts(number: usize) -> (Span, &'static [&'static str], Condition) {
    let window = WINDOWS[number % WINDOWS.len()];
    let rest = number / WINDOWS.len();
    let aggregates = AGGREGATES[rest % AGGREGATES.len()];
    let condition = CONDITIONS[rest / AGGREGATES.len() % CONDITIONS.len()];
    (window, aggregates, condition)
}

fn window_view(number: usize) -> (String, String) {
    let (window, aggregates, condition) = parts(number);
    let (aggregates, names) = aggregates_sql(aggregates);
    let view = format!(
        "SELECT window_start, window_end, category, country, count(*) AS orders{aggregates}
         FROM TABLE({}) GROUP BY window_start, window_end, category, country{}",
        window.sql(),
        condition.sql(),
    );
    (view, format!("window_start, window_end, category, country, orders{names}"))
}

const TUMBLE: &str = "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered), INTERVAL '1' MINUTE))";

fn filter_view(number: usize) -> (String, String) {
    let (least_cents, country) = filter(number);
    let view = format!(
        "SELECT window_start, category, count(*) AS orders, sum(quantity * unit_price) AS revenue
         FROM {TUMBLE} WHERE unit_price >= CAST('{}.{:02}' AS DECIMAL(10,2)) AND country = '{}'
         GROUP BY window_start, window_end, category",
        least_cents / 100,
        least_cents % 100,
        COUNTRIES[country],
    );
    (view, "window_start, category, orders, revenue".to_owned())
}

/// The least price in cents and the country that query `number` of f2 looks at.
fn filter(number: usize) -> (u32, usize) {
    (number as u32 * 977, number % COUNTRIES.len())
}

fn key_view(number: usize) -> (String, String) {
    let columns: Vec<_> = chosen(number).into_iter().map(|index| &KEY_COLUMNS[index]).collect();
    let keys: Vec<&str> = columns.iter().map(|column| column.sql).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let named = columns.iter().map(|column| format!("{} AS {}", column.sql, column.name));
    let view = format!(
        "SELECT window_start, {}, count(*) AS orders, sum(quantity * unit_price) AS revenue
         FROM {TUMBLE} GROUP BY window_start, window_end, {}",
        named.collect::<Vec<_>>().join(", "),
        keys.join(", "),
    );
    (view, format!("window_start, {}, orders, revenue", names.join(", ")))
}

/// Count, sums and extremes of some orders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) orders: u64,
    pub(super) quantity: u64,
    pub(super) cents: u64,
    pub(super) prices: u64,
    pub(super) least_price: u32,
    pub(super) most_price: u32,
    pub(super) least_quantity: u32,
    pub(super) most_quantity: u32,
}

impl Totals {
    fn of(order: &Order) -> Self {
        Self {
            orders: 1,
            quantity: order.quantity.into(),
            cents: order.cents(),
            prices: order.price_cents.into(),
            least_price: order.price_cents,
            most_price: order.price_cents,
            least_quantity: order.quantity,
            most_quantity: order.quantity,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.orders += other.orders;
        self.quantity += other.quantity;
        self.cents += other.cents;
        self.prices += other.prices;
        self.least_price = self.least_price.min(other.least_price);
        self.most_price = self.most_price.max(other.most_price);
        self.least_quantity = self.least_quantity.min(other.least_quantity);
        self.most_quantity = self.most_quantity.max(other.most_quantity);
    }
}

fn merge<K: Eq + std::hash::Hash>(into: &mut HashMap<K, Totals>, key: K, totals: &Totals) {
    into.entry(key).and_modify(|own| own.merge(totals)).or_insert(*totals);
}

fn minute(order: &Order) -> i64 {
    (order.ordered_at_ms - EPOCH_MS).div_euclid(MINUTE_MS)
}

/// Totals per minute and all key columns of f3, which is finer than what any query asks for.
#[derive(Debug, Default)]
struct Cells {
    /// Minute → values of [`KEY_COLUMNS`] → totals.
    minutes: Vec<HashMap<[usize; KEY_COLUMNS.len()], Totals>>,
    /// Per minute the totals of each category and country.
    pairs: Vec<HashMap<(usize, usize), Totals>>,
    /// Windows computed for an earlier query.
    windows: HashMap<(i64, i64), HashMap<(usize, usize), Totals>>,
}

impl Cells {
    fn add(&mut self, order: &Order) {
        let minute = minute(order) as usize;
        if minute >= self.minutes.len() {
            self.minutes.resize_with(minute + 1, HashMap::default);
            self.pairs.resize_with(minute + 1, HashMap::default);
        }
        let keys = KEY_COLUMNS.map(|column| (column.of)(order));
        merge(&mut self.minutes[minute], keys, &Totals::of(order));
        merge(&mut self.pairs[minute], (order.category, order.country), &Totals::of(order));
    }

    fn window_rows(&mut self, query: usize, digest: &mut Digest) {
        let (window, aggregates, condition) = parts(query);
        let minutes = self.pairs.len() as i64;
        for (from, to) in window.all(minutes) {
            let bounds = [from, to].map(|at| Cell::Number((EPOCH_MS + at * MINUTE_MS).into()));
            let merged = self.windows.entry((from, to)).or_insert_with(|| {
                let mut merged = HashMap::default();
                for minute in from.clamp(0, minutes)..to.clamp(0, minutes) {
                    for (keys, totals) in &self.pairs[minute as usize] {
                        merge(&mut merged, *keys, totals);
                    }
                }
                merged
            });
            for ((category, country), totals) in merged {
                if !condition.holds(totals) {
                    continue;
                }
                let keys = [CATEGORIES[*category], COUNTRIES[*country]].map(Cell::Text);
                let mut row = vec![bounds[0], bounds[1], keys[0], keys[1]];
                row.push(Cell::Number(totals.orders.into()));
                row.extend(aggregates.iter().map(|name| value(name, totals)));
                digest.row(query as u64, &row);
            }
        }
    }

    fn key_rows(&self, query: usize, digest: &mut Digest) {
        let chosen = chosen(query);
        for (minute, cells) in (0_i64..).zip(&self.minutes) {
            let mut merged: HashMap<Vec<usize>, Totals> = HashMap::default();
            for (keys, totals) in cells {
                merge(&mut merged, chosen.iter().map(|column| keys[*column]).collect(), totals);
            }
            for (keys, totals) in &merged {
                let mut row = vec![Cell::Number((EPOCH_MS + minute * MINUTE_MS).into())];
                let columns = chosen.iter().zip(keys);
                row.extend(columns.map(|(column, value)| (KEY_COLUMNS[*column].cell)(*value)));
                row.push(Cell::Number(totals.orders.into()));
                row.push(Cell::Number(totals.cents.into()));
                digest.row(query as u64, &row);
            }
        }
    }
}

/// Totals per filter, minute and category.
#[derive(Debug, Default)]
struct Filtered {
    totals: HashMap<(usize, i64, usize), Totals>,
}

impl Filtered {
    fn add(&mut self, order: &Order, filters: usize) {
        for number in 0..filters {
            let (least_cents, country) = filter(number);
            if order.price_cents >= least_cents && order.country == country {
                let key = (number, minute(order), order.category);
                merge(&mut self.totals, key, &Totals::of(order));
            }
        }
    }

    fn rows(&self, query: usize, digest: &mut Digest) {
        for ((number, minute, category), totals) in &self.totals {
            if *number == query {
                let row = [
                    Cell::Number((EPOCH_MS + minute * MINUTE_MS).into()),
                    Cell::Text(CATEGORIES[*category]),
                    Cell::Number(totals.orders.into()),
                    Cell::Number(totals.cents.into()),
                ];
                digest.row(query as u64, &row);
            }
        }
    }
}
