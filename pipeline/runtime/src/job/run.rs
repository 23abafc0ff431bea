//! One incarnation of a job: from its last commit until it is stopped or something fails.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use tidemill_connectors::{
    failpoint,
    format::json::JsonDecoder,
    log::kafka::{KafkaReader, is_loss},
};
use tidemill_contract::{
    Clock, LogReader, Loss, Micros, PartitionId, PartitionProgress, Result, SystemClock, Watermark,
};
use tidemill_sql::{
    alert::AlertProgram,
    engine::{Engine, SourceProgram},
};

use super::{
    Bound, Control, JobConfig, JobEnvironment,
    blame::Blame,
    clean::{Cleaning, Pruning},
    compact::Compaction,
    control::Change,
    count::{self, RecordCount},
    loss::Finding,
    memory::MemoryGuard,
    parts::KnownParts,
    receipts::Told,
    reconnect::Reconnect,
    repeats::Repeats,
    sink::SinkWriter,
    step::step,
    tables::{Flush, Tables},
    topic::TopicWatch,
};
use crate::{
    breaker::Breaker,
    delivery::Delivery,
    ledger::Ledger,
    outbox::Outbox,
    status::JobStatus,
    watermark::{SourceWatermark, TimeSettings},
};

/// Longest wait for records; bounds how late a message is taken and how coarse the wall clock is.
const WAIT: Duration = Duration::from_millis(20);
/// The same once so many waits in a row were in vain: an idle job costs little.
const IDLE_WAIT: Duration = Duration::from_millis(50);
const IDLE_ROUNDS: u32 = 100;
/// How often the status is written while nothing is committed.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_millis(200);
/// Records for topics and files that make a commit due before its time.
const OUTBOX_RECORDS: usize = 50_000;

/// Wall-clock time that never jumps: for how long something has lasted.
#[derive(Debug)]
pub(super) struct Stopwatch {
    base: Micros,
    started: Instant,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { base: SystemClock.now_micros(), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Micros {
        let elapsed = Micros::try_from(self.started.elapsed().as_micros()).unwrap_or(Micros::MAX);
        self.base.saturating_add(elapsed)
    }
}

/// Why an incarnation ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// The topic has more partitions now: start again and read them too.
    Reopen,
    /// The topic does not continue what was read, and somebody must choose.
    Lost(Vec<Finding>),
}

/// A job at work.
pub(super) struct Run<'a> {
    pub(super) config: &'a JobConfig,
    pub(super) environment: &'a JobEnvironment,
    pub(super) changes: &'a RefCell<Vec<Change>>,
    pub(super) blame: &'a Blame,
    pub(super) ledger: Ledger,
    pub(super) delivery: Delivery,
    pub(super) reader: KafkaReader,
    pub(super) decoder: JsonDecoder,
    pub(super) program: SourceProgram,
    pub(super) engine: Engine,
    pub(super) alerts: BTreeMap<String, AlertProgram>,
    pub(super) sinks: BTreeMap<String, SinkWriter>,
    pub(super) muted: BTreeSet<String>,
    pub(super) times: TimeSettings,
    pub(super) clock: SourceWatermark,
    pub(super) stopwatch: Stopwatch,
    pub(super) progress: BTreeMap<i32, PartitionProgress>,
    /// The topic that is read.
    pub(super) watch: TopicWatch,
    pub(super) reconnect: Reconnect,
    /// The newest losses of log data that were accepted.
    pub(super) losses: Vec<Loss>,
    pub(super) tables: Tables,
    pub(super) outbox: Outbox,
    /// Length of each file sink, what waits in the outbox included.
    pub(super) file_bytes: BTreeMap<String, u64>,
    pub(super) records: RecordCount,
    pub(super) breaker: Breaker,
    /// Recognises rows that a feed wrote twice.
    pub(super) repeats: Option<Repeats>,
    /// What the receipts of each view have told.
    pub(super) told: BTreeMap<String, Told>,
    pub(super) ensured_topics: BTreeSet<String>,
    /// Queries that read the source itself.
    pub(super) direct: Vec<String>,
    /// Something happened since the last commit.
    pub(super) dirty: bool,
    pub(super) paused: bool,
    /// A panic left the operators half done.
    pub(super) is_broken: bool,
    /// All of a bounded source is read, emitted and committed.
    pub(super) drained: bool,
    /// Why the incarnation before this one ended; until something is committed, or there is
    /// nothing to commit, nobody knows that it is over.
    pub(super) trouble: Option<String>,
    /// Parts of the state that lie in the bucket.
    pub(super) parts: KnownParts,
    /// Small files being put together beside this work.
    pub(super) compaction: Option<Compaction>,
    /// Files nobody needs being taken away beside this work.
    pub(super) cleaning: Option<Cleaning>,
    pub(super) cleaned_at: Option<Instant>,
    /// Old commits being taken away beside this work.
    pub(super) pruning: Option<Pruning>,
    pub(super) guard: MemoryGuard,
    pub(super) committed_at: Instant,
    /// How long the last commit took.
    pub(super) commit_took: Duration,
    /// Alert events wait for a commit.
    pub(super) has_alerts: bool,
    pub(super) told_at: Instant,
}

impl Run<'_> {
    /// Works until told to stop.
    pub(super) fn work(&mut self, inbox: &Receiver<Control>) -> Result<End> {
        self.tell();
        let mut idle_rounds = 0_u32;
        loop {
            if let Some(end) = self.serve(inbox)? {
                return Ok(end);
            }
            if self.paused {
                // What the log client has to say must not pile up.
                self.reader.wait(Duration::ZERO);
                continue;
            }
            self.learn_bound();
            if self.topic_grew()? {
                self.commit_if_dirty(Flush::Due)?;
                return Ok(End::Reopen);
            }
            let must_wait = self.must_pause_reading(idle_rounds > 0)?;
            let read = match self.read_unless(must_wait) {
                Err(error) if is_loss(&error) => return Err(self.keep_what_was_read(error)),
                read => read?,
            };
            self.advance()?;
            self.watch_state()?;
            if let Some(error) = self.breaker.tripped(&self.config.source.name) {
                self.commit_if_dirty(Flush::Due)?;
                return Err(error);
            }
            if self.clock.is_finished() {
                self.settle()?;
            } else {
                self.drained = false;
                if self.is_commit_due() || !read && self.is_alert_due() {
                    self.commit(Flush::Due)?;
                }
                let is_idle =
                    !self.dirty && self.committed_at.elapsed() >= self.environment.commit_interval;
                self.trouble.take_if(|_| is_idle);
            }
            self.tend_files();
            if self.told_at.elapsed() >= STATUS_INTERVAL {
                self.tell();
            }
            idle_rounds = if read { 0 } else { idle_rounds.saturating_add(1) };
            if !read {
                let wait = if idle_rounds < IDLE_ROUNDS { WAIT } else { IDLE_WAIT };
                self.reader.wait(wait.min(self.alert_wait()));
            }
        }
    }

    /// Moves the watermark as far as it goes, and the operators with it.
    fn advance(&mut self) -> Result<()> {
        for partition in self.reader.partitions() {
            self.tell_clock(partition);
        }
        if self.clock.needs_confirmation(self.stopwatch.now()) {
            self.confirm_idleness();
        }
        let before = self.clock.current();
        let watermark = self.clock.advance(self.stopwatch.now());
        if watermark <= before {
            return Ok(());
        }
        let advanced = self.engine.advance(watermark);
        let emissions = advanced.map_err(|fault| self.blame.fault(fault))?;
        self.emit(emissions)?;
        self.keep_receipts()?;
        failpoint::reached("ingest.advanced")?;
        self.advance_alerts(watermark)
    }

    /// Asks the broker itself whether nothing waits: the reader may not have heard of it yet.
    fn confirm_idleness(&mut self) {
        if self.reader.trouble().is_some() || self.reader.was_disconnected() {
            return;
        }
        let topic = self.config.source.topic();
        let marks = step(self.environment, self.config, self.config.log.watermarks(topic));
        let now = self.stopwatch.now();
        for (partition, progress) in &self.progress {
            let marks = marks.as_ref().ok().and_then(|marks| marks.get(partition));
            let end = marks.map(|(_, end)| *end);
            self.clock.confirm(PartitionId(*partition), progress.next_offset, end, now);
        }
    }

    /// A feed that is done says where the topic ends.
    fn learn_bound(&mut self) {
        let Bound::Feed(end) = &self.config.bound else { return };
        let Some(end) = end.borrow().clone() else { return };
        let unknown = |id: &i32| !self.progress.contains_key(id);
        if end.ends.iter().any(|(id, end)| unknown(id) && *end > 0) {
            self.watch.ask_soon();
        }
        for (partition, progress) in &mut self.progress {
            let known = end.ends.get(partition).copied();
            progress.bound = known.map(|bound| bound.max(progress.next_offset));
        }
    }

    /// The bounded source is at its end: everything closed, flushed and committed.
    fn settle(&mut self) -> Result<()> {
        if !self.drained {
            self.dirty |= self.tables.holds_rows();
            self.commit_if_dirty(Flush::All)?;
            self.finish_pruning();
            // Only now: whoever waits for "drained" finds everything published.
            self.drained = true;
            self.trouble = None;
            self.tell();
        }
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        let outbox_limit = self.environment.memory.buffer_limit();
        let outbox = self.outbox.len() >= OUTBOX_RECORDS || self.outbox.bytes() >= outbox_limit;
        if outbox || self.tables.is_large() {
            return true;
        }
        let waited = self.committed_at.elapsed() >= self.environment.commit_interval;
        waited && (self.dirty || self.tables.is_due())
    }

    /// Alerts do not wait for the commit interval. Asked only when all records there are were read:
    /// a job that is behind catches up first, and commits at its interval.
    fn is_alert_due(&self) -> bool {
        self.has_alerts && self.alert_wait().is_zero()
    }

    /// How long alerts have to wait for their commit. Commits for alerts alone take at most half of
    /// the time, however slow the bucket is.
    fn alert_wait(&self) -> Duration {
        if !self.has_alerts {
            return Duration::MAX;
        }
        let gap = self.environment.alert_interval.max(self.commit_took);
        gap.saturating_sub(self.committed_at.elapsed())
    }

    pub(super) fn commit_if_dirty(&mut self, flush: Flush) -> Result<()> {
        let has_rows = flush == Flush::All && self.tables.holds_rows();
        if self.dirty || has_rows { self.commit(flush) } else { Ok(()) }
    }

    fn read_unless(&mut self, must_wait: bool) -> Result<bool> {
        if must_wait || !self.is_connected()? { Ok(false) } else { self.read_next() }
    }

    /// Writes the status.
    pub(super) fn tell(&mut self) {
        self.told_at = Instant::now();
        let counters = self.engine.counters();
        let drift = count::drift(&self.records, &counters, &self.direct);
        let watermark = self.clock.current();
        let known = watermark > Watermark::MIN && watermark < Watermark::MAX;
        let lag = self.lag();
        let is_done = self.paused || self.drained;
        let trouble = self.trouble.clone().or_else(|| self.reader.trouble());
        let trouble = trouble.filter(|_| !is_done);
        let state = match (self.paused, self.drained, &trouble) {
            (true, _, _) => "paused",
            (false, true, _) => "drained",
            (false, false, Some(_)) => "degraded",
            (false, false, None) => "running",
        };
        self.environment.board.update_job(&self.config.name, |status: &mut JobStatus| {
            state.clone_into(&mut status.state);
            status.parked = None;
            status.error = trouble;
            status.epoch = self.ledger.next_epoch() - 1;
            status.watermark_micros = known.then_some(watermark.0);
            status.rows_in = self.records.records;
            status.rows_dead = self.records.dead;
            status.records_lost = self.records.lost;
            status.losses.clone_from(&self.losses);
            status.rows_late = counters.values().map(|count| count.late).sum();
            status.lag_records = lag;
            status.open_slices = self.engine.open_slices();
            status.state_bytes = self.guard.state_bytes();
            status.conservation_drift = drift;
            status.counters = count::shown(&counters);
        });
    }

    fn lag(&self) -> i64 {
        let behind = |(partition, progress): (&i32, &PartitionProgress)| {
            let end = progress.bound.or_else(|| self.reader.end_offset(PartitionId(*partition)));
            end.map_or(0, |end| (end - progress.next_offset).max(0))
        };
        self.progress.iter().map(behind).sum()
    }
}
