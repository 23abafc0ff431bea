//! Conservation: every record and every row is accounted for, checked before every commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Result};
use tidemill_sql::engine::QueryCounters;

use crate::status::QueryCount;

/// Where the records a job read went, since the job began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordCount {
    /// Records read.
    pub(crate) records: u64,
    /// Rows given to the operators.
    pub(crate) rows: u64,
    /// Records sent to quarantine.
    pub(crate) dead: u64,
    /// Records without a payload.
    pub(crate) tombstones: u64,
    /// Records with a row that another record had shortly before; they count as any other.
    #[serde(default)]
    pub(crate) duplicates: u64,
    /// Offsets that were never read and whose loss was accepted; no part of the sum.
    #[serde(default)]
    pub(crate) lost: u64,
}

impl RecordCount {
    /// Records not accounted for: always 0.
    pub(crate) fn drift(&self) -> i64 {
        difference(self.records, self.rows + self.dead + self.tombstones)
    }
}

/// Rows not accounted for, over the job and its queries: always 0. `direct` are the queries that
/// read the source itself: each was given every row.
pub(crate) fn drift(
    records: &RecordCount,
    queries: &BTreeMap<String, QueryCounters>,
    direct: &[String],
) -> i64 {
    let mut drift = records.drift().saturating_abs();
    for (name, count) in queries {
        let told = count.counted + count.filtered + count.late;
        drift = drift.saturating_add(difference(count.rows_in, told).saturating_abs());
        if direct.contains(name) {
            drift = drift.saturating_add(difference(records.rows, count.rows_in).saturating_abs());
        }
    }
    drift
}

/// Fails on a drift: a wrong result must not become true.
pub(crate) fn check(job: &str, drift: i64) -> Result<()> {
    if drift == 0 {
        return Ok(());
    }
    Err(Error::internal(format!("job '{job}' cannot account for {drift} rows"))
        .because("rows in must equal counted + filtered + late + quarantined")
        .help("nothing was committed; report this with the query and the status"))
}

/// The counters as shown.
pub(crate) fn shown(queries: &BTreeMap<String, QueryCounters>) -> BTreeMap<String, QueryCount> {
    let show = |count: &QueryCounters| QueryCount {
        rows_in: count.rows_in,
        counted: count.counted,
        filtered: count.filtered,
        late: count.late,
        revised: count.revised,
    };
    queries.iter().map(|(name, count)| (name.clone(), show(count))).collect()
}

fn difference(left: u64, right: u64) -> i64 {
    i64::try_from(i128::from(left) - i128::from(right)).unwrap_or(i64::MAX)
}
