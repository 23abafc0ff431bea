//! From rounds to a page: speed and cost of each broker, and ours in terms of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ClientRun;
use crate::report::{Spread, as_f64, shown, spread_of};

/// One client on one broker.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// What the client says.
    pub client: ClientRun,
    /// CPU time of the broker meanwhile.
    pub broker_cpu_ns: u64,
    /// Resident memory of the broker afterwards.
    pub broker_rss_kib: u64,
}

impl Run {
    fn records_per_second(&self) -> f64 {
        as_f64(self.client.content.records) / (as_f64(self.client.wall_ns) * 1e-9)
    }

    fn megabytes_per_second(&self) -> f64 {
        as_f64(self.client.content.bytes) / 1e6 / (as_f64(self.client.wall_ns) * 1e-9)
    }

    fn broker_ns(&self) -> f64 {
        as_f64(self.broker_cpu_ns) / as_f64(self.client.content.records)
    }

    fn client_ns(&self) -> f64 {
        as_f64(self.client.cpu_ns) / as_f64(self.client.content.records)
    }
}

/// One kind of client on every broker, by the broker's name.
pub type Round = BTreeMap<&'static str, Run>;

/// A Markdown table.
pub fn table(rounds: &[Round], names: &[&'static str]) -> String {
    let mut page = String::from(
        "| broker | records/s | MB/s | broker CPU ns/record | client CPU ns/record | broker RSS MiB \
         | Tidemill's speed ÷ its | Tidemill's CPU ÷ its |\n|---|---|---|---|---|---|---|---|\n",
    );
    let Some(ours) = names.first() else { return page };
    for name in names {
        let over = |value: &dyn Fn(&Run) -> f64| -> Option<Spread> {
            spread_of(rounds.iter().filter_map(|round| round.get(name).map(value)).collect())
        };
        let ratio = |value: fn(&Run) -> f64| -> Option<Spread> {
            let of = |round: &Round| Some(value(round.get(ours)?) / value(round.get(name)?));
            spread_of(rounds.iter().filter_map(of).collect())
        };
        // Writing into a string does not fail.
        writeln!(
            page,
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            shown(over(&Run::records_per_second), 0),
            shown(over(&Run::megabytes_per_second), 0),
            shown(over(&Run::broker_ns), 0),
            shown(over(&Run::client_ns), 0),
            shown(over(&|run| as_f64(run.broker_rss_kib) / 1024.0), 0),
            shown(ratio(Run::records_per_second), 2),
            shown(ratio(Run::broker_ns), 2),
        )
        .ok();
    }
    page
}
