//! Event-time progress of one source: a watermark per partition, the minimum over those that hold
//! it, idleness, and which partition may be read next.
//!
//! Pure: the clock's reading comes in as an argument, nothing is read or sent here.
//!
//! Invariants:
//! - partition and source watermarks never go back;
//! - a partition with unread records is never idle. What the reader last heard of the log's end
//!   may be old, so idleness counts only with the broker's word for it, given after the newest
//!   record of the other partitions was read; while the broker does not answer nothing is idle;
//! - a finished partition (at the bound of a bounded source) holds nothing back;
//! - a bounded source ends with [`Watermark::MAX`] and never moves with the wall clock, so that
//!   its results do not depend on how fast it is read.

use std::collections::BTreeMap;

use tidemill_contract::{Micros, PartitionId, Result, SourceSpec, Watermark};

use crate::settings::duration_option;

/// Option: how long a partition without unread records holds the watermark.
pub const IDLE_TIMEOUT: &str = "scan.watermark.idle-timeout";
/// Option: how far in event time a partition may be read ahead of the slowest one.
pub const MAX_DRIFT: &str = "scan.watermark.alignment.max-drift";
/// Option: how far ahead of the wall clock an event time may lie.
pub const MAX_FUTURE_SKEW: &str = "watermark.max-future-skew";

const SECOND: Micros = 1_000_000;
const DEFAULT_IDLE_TIMEOUT: Micros = 30 * SECOND;
/// One minute keeps about one open minute-window per partition beyond what the delay needs, and
/// is far above what a fair reader drifts by itself.
const DEFAULT_MAX_DRIFT: Micros = 60 * SECOND;
/// Shortest time between two questions to the broker while some partitions give records and others
/// are idle: windows wait so long to close, and the broker is asked ten times a second at most.
const CONFIRM_INTERVAL: Micros = SECOND / 10;
const DEFAULT_MAX_FUTURE_SKEW: Micros = 300 * SECOND;

/// What moved a source's watermark last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// Rows that came.
    Records,
    /// The wall clock: all partitions are idle.
    Clock,
    /// The source's end.
    End,
}

/// The time settings of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSettings {
    /// How far rows may be out of order.
    pub delay: Micros,
    /// How long a partition without unread records holds the watermark; `None`: for ever.
    pub idle_timeout: Option<Micros>,
    /// How far in event time a partition may be read ahead of the slowest one.
    pub max_drift: Micros,
    /// How far ahead of the wall clock an event time may lie; `None`: any.
    pub max_future_skew: Option<Micros>,
    /// The source ends by itself.
    pub bounded: bool,
}

impl TimeSettings {
    /// Reads the options of a source. A bounded source has no idle timeout and no future-skew
    /// check unless it asks for them: its end closes every window, whatever the wall clock says.
    ///
    /// # Errors
    /// `TM112` if an option is not a duration.
    pub fn of_source(spec: &SourceSpec, bounded: bool) -> Result<Self> {
        let object = format!("source '{}'", spec.name);
        let option = |key, default: Micros| -> Result<Option<Micros>> {
            let declared = duration_option(&spec.options, key, &object)?;
            Ok(declared.or((!bounded).then_some(default)))
        };
        Ok(Self {
            delay: spec.watermark.as_ref().map_or(0, |watermark| watermark.delay),
            // Flink's meaning of zero: off.
            idle_timeout: option(IDLE_TIMEOUT, DEFAULT_IDLE_TIMEOUT)?
                .filter(|timeout| *timeout > 0),
            max_drift: duration_option(&spec.options, MAX_DRIFT, &object)?
                .unwrap_or(DEFAULT_MAX_DRIFT),
            max_future_skew: option(MAX_FUTURE_SKEW, DEFAULT_MAX_FUTURE_SKEW)?,
            bounded,
        })
    }

    /// The latest event time that is believed at wall-clock time `now`.
    pub fn latest_believed(&self, now: Micros) -> Micros {
        self.max_future_skew.map_or(Micros::MAX, |skew| now.saturating_add(skew))
    }
}

/// What is remembered of a partition across a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionMemory {
    /// Its watermark.
    pub watermark: Watermark,
    /// It was idle.
    pub idle: bool,
}

/// What a partition does to the source's watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is at the end of a bounded source: nothing.
    Finished,
    /// It has been without records for so long that it holds nothing.
    Idle,
    /// It holds the watermark, and has records that are not read yet.
    Unread,
    /// It holds the watermark, and has nothing to read.
    Quiet {
        /// For how long.
        quiet: Micros,
        /// After how much more of it it counts as idle; `None`: never.
        idle_in: Option<Micros>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Partition {
    watermark: Watermark,
    /// Records are known to wait, or the end is not known yet.
    unread: bool,
    finished: bool,
    idle: bool,
    /// When a record was last read or known to wait.
    active_at: Micros,
    /// When the broker last said that nothing waits.
    confirmed_at: Option<Micros>,
    /// Number of its last reading: among equals the one not read for longest comes first.
    turn: u64,
}

impl Partition {
    /// It is idle, and the broker said so after a record of any partition was last read.
    fn is_surely_idle(&self, observed_at: Option<Micros>) -> bool {
        self.idle && (observed_at.is_none() || self.confirmed_at >= observed_at)
    }
}

/// Watermarks of one source as one job reads it.
#[derive(Debug, Clone)]
pub struct SourceWatermark {
    settings: TimeSettings,
    partitions: BTreeMap<PartitionId, Partition>,
    source: Watermark,
    /// Since when all are idle, and the watermark at that moment.
    all_idle: Option<(Micros, Watermark)>,
    turns: u64,
    /// When a record of any partition was last read.
    observed_at: Option<Micros>,
    /// When the broker was last asked.
    asked_at: Option<Micros>,
}

impl SourceWatermark {
    /// Starts with nothing known at time `now`.
    pub fn new(
        settings: TimeSettings,
        partitions: impl IntoIterator<Item = PartitionId>,
        now: Micros,
    ) -> Self {
        let fresh = Partition {
            watermark: Watermark::MIN,
            unread: true,
            finished: false,
            idle: false,
            active_at: now,
            confirmed_at: None,
            turn: 0,
        };
        Self {
            settings,
            partitions: partitions.into_iter().map(|partition| (partition, fresh)).collect(),
            source: Watermark::MIN,
            all_idle: None,
            turns: 0,
            observed_at: None,
            asked_at: None,
        }
    }

    /// Takes up what a commit remembered. Watermarks only go forward.
    pub fn restore(&mut self, source: Watermark, memory: &BTreeMap<PartitionId, PartitionMemory>) {
        self.source = self.source.max(source);
        for (id, remembered) in memory {
            if let Some(partition) = self.partitions.get_mut(id) {
                partition.watermark = partition.watermark.max(remembered.watermark);
                partition.idle = remembered.idle;
            }
        }
    }

    /// What must be remembered.
    pub fn memory(&self) -> BTreeMap<PartitionId, PartitionMemory> {
        let remember = |partition: &Partition| PartitionMemory {
            watermark: partition.watermark,
            idle: partition.idle,
        };
        self.partitions.iter().map(|(id, partition)| (*id, remember(partition))).collect()
    }

    /// Rows of a partition were taken whose latest event time is `latest` (`None`: records
    /// without a usable time).
    pub fn observe(&mut self, id: PartitionId, latest: Option<Micros>, now: Micros) {
        let delay = self.settings.delay;
        self.turns += 1;
        self.observed_at = Some(now);
        if let Some(partition) = self.partitions.get_mut(&id) {
            if let Some(latest) = latest {
                let reached = Watermark(latest.saturating_sub(delay));
                partition.watermark = partition.watermark.max(reached);
            }
            partition.idle = false;
            partition.active_at = now;
            partition.turn = self.turns;
        }
    }

    /// Where the reader stands in a partition: `next` is the next offset, `end` the log's end if
    /// known, `bound` the fixed end of a bounded source if known.
    pub fn position(
        &mut self,
        id: PartitionId,
        next: i64,
        end: Option<i64>,
        bound: Option<i64>,
        now: Micros,
    ) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.finished = bound.is_some_and(|bound| next >= bound);
            partition.unread = !partition.finished && end.is_none_or(|end| next < end);
            if partition.unread {
                partition.idle = false;
                partition.active_at = now;
            }
        }
    }

    /// Whether some partition counts as idle if the broker says (again) that nothing waits: ask it,
    /// then call [`Self::confirm`] for each partition.
    pub fn needs_confirmation(&self, now: Micros) -> bool {
        let Some(timeout) = self.settings.idle_timeout else {
            return false;
        };
        let is_long = |since: Micros| now.saturating_sub(since) >= timeout;
        let may_ask =
            self.asked_at.is_none_or(|asked| now.saturating_sub(asked) >= CONFIRM_INTERVAL);
        let quiet = self.partitions.values().filter(|p| !p.finished && !p.unread);
        for partition in quiet {
            let was_told_long_ago = partition.confirmed_at.is_none_or(is_long);
            let is_doubtful = partition.idle && !partition.is_surely_idle(self.observed_at);
            if is_long(partition.active_at) && was_told_long_ago || is_doubtful && may_ask {
                return true;
            }
        }
        false
    }

    /// The broker's answer: the log's end, `None` if it gave none.
    pub fn confirm(&mut self, id: PartitionId, next: i64, end: Option<i64>, now: Micros) {
        self.asked_at = Some(now);
        if let Some(partition) = self.partitions.get_mut(&id) {
            if end.is_some_and(|end| next >= end) {
                partition.confirmed_at = Some(now);
            } else {
                partition.idle = false;
                partition.active_at = now;
            }
        }
    }

    /// The source's watermark at time `now`. Never goes back.
    pub fn advance(&mut self, now: Micros) -> Watermark {
        self.settle_idleness(now);
        if self.is_finished() {
            self.source = Watermark::MAX;
            return self.source;
        }
        let is_held = |p: &&Partition| !p.finished && !p.is_surely_idle(self.observed_at);
        let held = self.partitions.values().filter(is_held);
        if let Some(slowest) = held.map(|partition| partition.watermark).min() {
            self.all_idle = None;
            self.source = self.source.max(slowest);
        } else {
            self.advance_with_the_clock(now);
        }
        self.source
    }

    /// The source's watermark as last computed.
    pub fn current(&self) -> Watermark {
        self.source
    }

    /// What moved it there.
    pub fn mover(&self) -> Mover {
        match self.all_idle {
            _ if self.is_finished() => Mover::End,
            Some(_) => Mover::Clock,
            None => Mover::Records,
        }
    }

    /// How each partition stands at time `now`, ascending.
    pub fn holds(&self, now: Micros) -> Vec<(PartitionId, Watermark, Hold)> {
        self.partitions
            .iter()
            .map(|(id, partition)| (*id, partition.watermark, self.hold(partition, now)))
            .collect()
    }

    fn hold(&self, partition: &Partition, now: Micros) -> Hold {
        if partition.finished {
            return Hold::Finished;
        }
        if partition.is_surely_idle(self.observed_at) {
            return Hold::Idle;
        }
        if partition.unread {
            return Hold::Unread;
        }
        let quiet = now.saturating_sub(partition.active_at).max(0);
        let idle_in = self.settings.idle_timeout.map(|timeout| (timeout - quiet).max(0));
        Hold::Quiet { quiet, idle_in }
    }

    /// A partition without anything to read has held the watermark for long enough.
    fn settle_idleness(&mut self, now: Micros) {
        let Some(timeout) = self.settings.idle_timeout else {
            return;
        };
        for partition in self.partitions.values_mut() {
            let quiet = now.saturating_sub(partition.active_at) >= timeout;
            let confirmed =
                partition.confirmed_at.is_some_and(|at| now.saturating_sub(at) < timeout);
            if !partition.unread && quiet && confirmed {
                partition.idle = true;
            }
        }
    }

    /// All partitions are idle: the last windows must close without another event. The watermark
    /// goes on from the highest one known by the time that passes from now on.
    fn advance_with_the_clock(&mut self, now: Micros) {
        let highest = self.partitions.values().map(|partition| partition.watermark).max();
        let base = highest.map_or(self.source, |highest| highest.max(self.source));
        if base == Watermark::MIN {
            return;
        }
        let (since, from) = *self.all_idle.get_or_insert((now, base));
        self.source = self.source.max(from);
        if !self.settings.bounded {
            let elapsed = now.saturating_sub(since).max(0);
            let moved = Watermark(from.0.saturating_add(elapsed));
            // Only the end of a bounded source may say "for ever".
            self.source = self.source.max(moved.min(Watermark(Micros::MAX - 1)));
        }
    }

    /// Every partition is at its bound.
    pub fn is_finished(&self) -> bool {
        self.settings.bounded
            && !self.partitions.is_empty()
            && self.partitions.values().all(|partition| partition.finished)
    }

    /// The partition to read next among those not in `empty` (found without a record just now):
    /// the one furthest behind in event time that may be read. `None`: wait.
    pub fn next_partition(&self, empty: &[PartitionId]) -> Option<PartitionId> {
        let limit = self.read_limit();
        self.partitions
            .iter()
            .filter(|(id, partition)| !partition.finished && !empty.contains(id))
            .filter(|(_, partition)| partition.watermark <= limit)
            .min_by_key(|(_, partition)| (partition.watermark, partition.turn))
            .map(|(id, _)| *id)
    }

    /// The highest partition watermark that may still be read on: the slowest partition that
    /// holds the watermark plus the allowed drift. A partition that never gave an event and has
    /// none to give holds the watermark until it is idle, but not the reading of the others.
    fn read_limit(&self) -> Watermark {
        let slowest = self
            .partitions
            .values()
            .filter(|partition| !partition.idle && !partition.finished)
            .filter(|partition| partition.unread || partition.watermark > Watermark::MIN)
            .map(|partition| partition.watermark)
            .min();
        slowest.map_or(Watermark::MAX, |slowest| {
            Watermark(slowest.0.saturating_add(self.settings.max_drift))
        })
    }
}
