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

/// What a table is about.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Rows in this order.
    pub programs: &'a [&'static str],
    /// What is counted, such as `order`.
    pub unit: &'a str,
    /// How many of it.
    pub count: u64,
    /// Programs to divide by: a column each.
    pub baselines: &'a [&'static str],
}

/// A Markdown table: each program's CPU time per unit, wall time, memory, and its ratios.
pub fn table(rounds: &[Round], layout: &Layout<'_>) -> String {
    let Layout { unit, baselines, .. } = layout;
    let any = |value: fn(&Measured) -> u64| {
        rounds.iter().any(|round| round.values().any(|run| value(run) > 0))
    };
    let (held, setup) = (any(|run| run.held_bytes), any(|run| run.setup_cpu_ns));
    let mut head = vec![format!("CPU ns/{unit}"), "wall s".into(), format!("{unit}s/s")];
    head.push("peak RSS MiB".into());
    head.extend(held.then(|| format!("bytes held/{unit}")));
    head.extend(setup.then(|| "set-up CPU ms".into()));
    head.extend(baselines.iter().map(|baseline| format!("CPU ÷ {baseline}")));
    let mut page =
        format!("| program | {} |\n|---{}|\n", head.join(" | "), "|---".repeat(head.len()));
    for program in layout.programs {
        let of = |value: fn(&Measured) -> u64, factor: f64| {
            spread(rounds, |round| round.get(program).map(|run| as_f64(value(run)) * factor))
        };
        let count = as_f64(layout.count);
        let wall = of(|run| run.wall_ns, 1e-9);
        let speed = wall.map(|wall| count / wall.median.max(1e-9));
        let mut cells = vec![shown(of(|run| run.cpu_ns, 1.0 / count), 0), shown(wall, 2)];
        cells.push(format!("{:.0}", speed.unwrap_or_default()));
        cells.push(shown(of(|run| run.rss_kib, 1.0 / 1024.0), 0));
        cells.extend(held.then(|| shown(of(|run| run.held_bytes, 1.0 / count), 1)));
        cells.extend(setup.then(|| shown(of(|run| run.setup_cpu_ns, 1e-6), 0)));
        let ratios = baselines.iter().map(|baseline| shown(ratio(rounds, program, baseline), 2));
        cells.extend(ratios);
        // Writing into a string does not fail.
        writeln!(page, "| {program} | {} |", cells.join(" | ")).ok();
    }
    page
}

/// CPU time of one program divided by that of another, per round.
pub fn ratio(rounds: &[Round], program: &str, baseline: &str) -> Option<Spread> {
    spread(rounds, |round| {
        let baseline = round.get(baseline)?.cpu_ns.max(1);
        Some(as_f64(round.get(program)?.cpu_ns) / as_f64(baseline))
    })
}

/// One line for each aim: what was measured, and whether it is within.
pub fn verdict(what: &str, measured: Option<Spread>, most: f64) -> String {
    let met = measured.is_some_and(|spread| spread.median <= most);
    let said = if met { "met" } else { "missed" };
    format!("{what}: {} (aim: at most {most}), {said}\n", shown(measured, 2))
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
