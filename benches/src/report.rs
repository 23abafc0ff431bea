//! From rounds to a page: medians of per-round ratios, with the smallest and the largest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Measured;

/// All programs once, one after the other.
pub type Round = BTreeMap<&'static str, Measured>;

/// Median, smallest and largest of some values.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Middle value.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// The spread of one value a round.
pub fn spread(rounds: &[Round], value: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
    spread_of(rounds.iter().filter_map(value).collect())
}

/// The spread of some values.
pub fn spread_of(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(Spread { median: f64::midpoint(*lower, *upper), min, max })
}

/// A Markdown table: each program's CPU time per order, wall time, memory, and its ratios.
pub fn table(rounds: &[Round], programs: &[&'static str], orders: u64) -> String {
    let mut page = String::from(
        "| program | CPU ns/order | wall s | orders/s | peak RSS MiB | CPU ÷ a0 | CPU ÷ floor |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let orders = as_f64(orders);
    for program in programs {
        let of = |value: fn(&Measured) -> u64| {
            spread(rounds, |round| round.get(program).map(|run| as_f64(value(run))))
        };
        let ratio = |other: &'static str| {
            spread(rounds, |round| {
                Some(as_f64(round.get(program)?.cpu_ns) / as_f64(round.get(other)?.cpu_ns.max(1)))
            })
        };
        let cpu = of(|run| run.cpu_ns).map(|spread| spread.scaled(1.0 / orders));
        let wall = of(|run| run.wall_ns).map(|spread| spread.scaled(1e-9));
        let speed = wall.map(|wall| orders / wall.median.max(1e-9));
        let rss = of(|run| run.rss_kib).map(|spread| spread.scaled(1.0 / 1024.0));
        // Writing into a string does not fail.
        writeln!(
            page,
            "| {program} | {} | {} | {:.0} | {} | {} | {} |",
            shown(cpu, 0),
            shown(wall, 2),
            speed.unwrap_or_default(),
            shown(rss, 0),
            shown(ratio("a0"), 2),
            shown(ratio("floor"), 2),
        )
        .ok();
    }
    page
}

impl Spread {
    fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

/// Median (smallest–largest) with so many digits.
pub fn shown(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(String::new, |spread| {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", spread.median, spread.min, spread.max)
    })
}

/// Exact up to 2^53, far above what is measured here.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "measurements are far below 2^53")]
pub fn as_f64(value: u64) -> f64 {
    value as f64
}
