//! From rounds to a page: cost per order whole and marginal, and how many times ours it is.

use std::fmt::Write as _;

use crate::Measured;
use crate::report::{Spread, as_f64, shown, spread_of};

/// One program on both topics.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// On the small topic.
    pub small: Measured,
    /// On the large topic.
    pub large: Measured,
}

impl Pair {
    /// CPU nanoseconds of one order more: start-up and compilation fall out.
    fn marginal(&self, sizes: Sizes) -> f64 {
        let more = as_f64(self.large.cpu_ns) - as_f64(self.small.cpu_ns);
        more / as_f64(sizes.large - sizes.small)
    }

    fn whole(&self, sizes: Sizes) -> f64 {
        as_f64(self.large.cpu_ns) / as_f64(sizes.large)
    }
}

/// Orders of both topics.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Of the small one.
    pub small: u64,
    /// Of the large one.
    pub large: u64,
}

/// Both programs, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// The product.
    pub tidemill: Pair,
    /// Flink SQL.
    pub flink: Pair,
}

/// A Markdown table over the rounds of one kind of windows.
pub fn table(rounds: &[Round], sizes: Sizes) -> String {
    let mut page = String::from(
        "| program | CPU ns/order, whole | CPU ns/order, marginal | wall s, large topic | peak RSS MiB |\n\
         |---|---|---|---|---|\n",
    );
    for name in ["Tidemill", "Flink SQL"] {
        let pair = |round: &Round| if name == "Tidemill" { round.tidemill } else { round.flink };
        let over = |value: &dyn Fn(Pair) -> f64| {
            spread_of(rounds.iter().map(|round| value(pair(round))).collect())
        };
        // Writing into a string does not fail.
        writeln!(
            page,
            "| {name} | {} | {} | {} | {} |",
            shown(over(&|pair| pair.whole(sizes)), 0),
            shown(over(&|pair| pair.marginal(sizes)), 0),
            shown(over(&|pair| as_f64(pair.large.wall_ns) * 1e-9), 1),
            shown(over(&|pair| as_f64(pair.large.rss_kib) / 1024.0), 0),
        )
        .ok();
    }
    let times = |value: &dyn Fn(Pair) -> f64| -> Option<Spread> {
        let ratio = |round: &Round| value(round.flink) / value(round.tidemill);
        spread_of(rounds.iter().map(ratio).collect())
    };
    writeln!(
        page,
        "| Flink ÷ Tidemill | {} | {} | {} | {} |",
        shown(times(&|pair| pair.whole(sizes)), 2),
        shown(times(&|pair| pair.marginal(sizes)), 2),
        shown(times(&|pair| as_f64(pair.large.wall_ns)), 2),
        shown(times(&|pair| as_f64(pair.large.rss_kib)), 2),
    )
    .ok();
    page
}
