//! What a job knows about a window that does not close: its own watermark and each partition's, and
//! what is still to be read.
//!
//! Facts only; `pipeline::stall` puts them into words.

use tidemill_contract::{LogReader, Micros, PartitionId, Watermark};
use tidemill_sql::engine::NextToClose;

use super::run::Run;
use crate::watermark::Hold;

/// Why the next window of a view is still open.
#[derive(Debug, Clone)]
pub(crate) struct Stall {
    /// The window, `None` if the view has no open window with rows.
    pub(crate) next: Option<NextToClose>,
    /// The source's watermark.
    pub(crate) watermark: Watermark,
    /// How far rows may be out of order.
    pub(crate) delay: Micros,
    /// Messages, commits and reading wait: someone paused the job.
    pub(crate) paused: bool,
    /// Everything of a bounded source is read and closed.
    pub(crate) drained: bool,
    /// The source ends by itself.
    pub(crate) bounded: bool,
    pub(crate) partitions: Vec<PartitionStall>,
}

/// One partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionStall {
    pub(crate) id: PartitionId,
    pub(crate) next_offset: i64,
    /// Where it ends, as last heard.
    pub(crate) end: Option<i64>,
    pub(crate) watermark: Watermark,
    pub(crate) hold: Hold,
}

impl Run<'_> {
    /// The facts about the next window of `view`.
    pub(super) fn stall(&self, view: &str) -> Stall {
        let holds = self.clock.holds(self.stopwatch.now()).into_iter();
        let partition = |(id, watermark, hold): (PartitionId, Watermark, Hold)| {
            let progress = self.progress.get(&id.0);
            let bound = progress.and_then(|progress| progress.bound);
            PartitionStall {
                id,
                next_offset: progress.map_or(0, |progress| progress.next_offset),
                end: bound.or_else(|| self.reader.end_offset(id)),
                watermark,
                hold,
            }
        };
        Stall {
            next: self.engine.next_to_close(view),
            watermark: self.clock.current(),
            delay: self.times.delay,
            paused: self.paused,
            drained: self.drained,
            bounded: self.config.bound.is_bounded(),
            partitions: holds.map(partition).collect(),
        }
    }
}
