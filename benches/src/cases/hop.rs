//! b: the ten products with most revenue per window, for windows that overlap 6 and 720 times.
//!
//! Each is compared with windows that do not overlap and are as long as its slide: the same number
//! of windows close, and a row belongs to as many slices. The event time is two hours, so that the
//! window of an hour is full for half of it. Products and orders are those of benchmark a.

use anyhow::{Context as _, Result};

use crate::digest::Cell;
use crate::driver::{Answers, Case, Target};
use crate::engine::{Declared, source};
use crate::load::Topic;
use crate::orders::{EPOCH_MS, Oddity, Order, PRODUCTS, Shape};
use crate::product::{self, Clock};
use crate::{Digest, Measured};

/// Event time of the whole topic.
const MINUTES: u64 = 120;
/// Products in the result of a window.
const TOP: usize = 10;

/// A program: its windows.
#[derive(Debug)]
struct Windows {
    program: &'static str,
    slide_s: i64,
    size_s: i64,
}

const WINDOWS: [Windows; 4] = [
    Windows { program: "tumble-10s", slide_s: 10, size_s: 10 },
    Windows { program: "hop-1m-10s", slide_s: 10, size_s: 60 },
    Windows { program: "tumble-5s", slide_s: 5, size_s: 5 },
    Windows { program: "hop-1h-5s", slide_s: 5, size_s: 3600 },
];

#[derive(Debug)]
pub(super) struct Hops;

impl Case for Hops {
    fn name(&self) -> &'static str {
        "b"
    }
    fn title(&self) -> &'static str {
        "top ten products per window: hopping against tumbling windows"
    }
    fn programs(&self) -> &'static [&'static str] {
        &["tumble-10s", "hop-1m-10s", "tumble-5s", "hop-1h-5s"]
    }
    fn baselines(&self) -> &'static [&'static str] {
        &["tumble-10s", "tumble-5s"]
    }
    fn targets(&self) -> &'static [Target] {
        &[
            Target { program: "hop-1m-10s", baseline: "tumble-10s", most: 1.2 },
            Target { program: "hop-1h-5s", baseline: "tumble-5s", most: 1.3 },
        ]
    }
    fn prepare(&self, brokers: &str, count: u64) -> Result<Answers> {
        let mut ten = Slices::new(10);
        let mut five = Slices::new(5);
        topic(count).fill(brokers, |order| {
            ten.add(order);
            five.add(order);
        })?;
        let answer = |windows: &Windows| {
            let slices = if windows.slide_s == 10 { &ten } else { &five };
            (windows.program, slices.answer(windows.size_s / windows.slide_s))
        };
        Ok(WINDOWS.iter().map(answer).collect())
    }
    fn run(&self, program: &str, brokers: &str, count: u64) -> Result<Measured> {
        let windows = WINDOWS.iter().find(|windows| windows.program == program);
        let windows = windows.context("unknown program")?;
        let script = format!("{}\n{}", source(&topic(count).name, Declared::Four), windows.view());
        product::run(brokers, &[script], Clock::FromOpening, async |pipeline| {
            let rows = "SELECT window_start, window_end, product_id, orders, revenue FROM top";
            product::rows(pipeline, &[rows.to_owned()]).await
        })
    }
}

fn topic(count: u64) -> Topic {
    let shape = Shape { per_minute: (count / MINUTES).max(1), oddity: Oddity::None };
    Topic::new("orders-two-hours", count, shape)
}

impl Windows {
    fn view(&self) -> String {
        let Self { slide_s, size_s, .. } = self;
        let function = if slide_s == size_s { "TUMBLE" } else { "HOP" };
        let slide = format!("INTERVAL '{slide_s}' SECOND");
        let size = if slide_s == size_s { "" } else { &format!(", INTERVAL '{size_s}' SECOND") };
        format!(
            "CREATE MATERIALIZED VIEW top AS
             SELECT window_start, window_end, product_id, count(*) AS orders,
                    sum(quantity * unit_price) AS revenue
             FROM TABLE({function}(TABLE orders, DESCRIPTOR(ordered), {slide}{size}))
             GROUP BY window_start, window_end, product_id
             ORDER BY revenue DESC LIMIT {TOP}
             EMIT ON WINDOW CLOSE;"
        )
    }
}

/// Orders and cents of each product, per slice of time.
#[derive(Debug)]
struct Slices {
    slide_ms: i64,
    slices: Vec<Vec<(u64, u64)>>,
}

impl Slices {
    fn new(slide_s: i64) -> Self {
        Self { slide_ms: slide_s * 1_000, slices: Vec::new() }
    }

    fn add(&mut self, order: &Order) {
        let index = (order.ordered_at_ms - EPOCH_MS).div_euclid(self.slide_ms) as usize;
        if index >= self.slices.len() {
            self.slices.resize(index + 1, Vec::new());
        }
        let slice = &mut self.slices[index];
        slice.resize(PRODUCTS as usize, (0, 0));
        let (orders, cents) = &mut slice[order.product as usize];
        *orders += 1;
        *cents += order.cents();
    }

    /// The top of every window of so many slices; sums go in and out of one running total.
    fn answer(&self, size: i64) -> Digest {
        let mut digest = Digest::default();
        let mut total = vec![(0_u64, 0_u64); PRODUCTS as usize];
        let slices = self.slices.len() as i64;
        let slice = |index: i64| usize::try_from(index).ok().and_then(|i| self.slices.get(i));
        for last in 0..slices + size - 1 {
            for (sum, own) in total.iter_mut().zip(slice(last).into_iter().flatten()) {
                *sum = (sum.0 + own.0, sum.1 + own.1);
            }
            self.add_top(&total, last + 1 - size, size, &mut digest);
            for (sum, own) in total.iter_mut().zip(slice(last + 1 - size).into_iter().flatten()) {
                *sum = (sum.0 - own.0, sum.1 - own.1);
            }
        }
        digest
    }

    fn add_top(&self, total: &[(u64, u64)], first: i64, size: i64, digest: &mut Digest) {
        // Most revenue first; of equals the smaller name.
        let counted = total.iter().zip(0_u64..).filter(|((orders, _), _)| *orders > 0);
        let mut order: Vec<(u64, u64, u64)> = counted
            .map(|((orders, cents), product)| (u64::MAX - cents, product, *orders))
            .collect();
        order.sort_unstable();
        let start = EPOCH_MS + first * self.slide_ms;
        let end = start + size * self.slide_ms;
        for (rest, product, orders) in order.into_iter().take(TOP) {
            let product = format!("p-{product:05}");
            let numbers = [start.into(), end.into(), orders.into(), (u64::MAX - rest).into()];
            let [start, end, orders, cents] = numbers.map(Cell::Number);
            digest.row(0, &[start, end, Cell::Text(&product), orders, cents]);
        }
    }
}
