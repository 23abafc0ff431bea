//! One partition: readers see durable batches only, one writer appends.
//!
//! Invariants:
//! - the high watermark is one past the last *synced* offset; nothing beyond it is ever read;
//! - appends happen on the broker's log thread only, so the appender's lock is never contended;
//! - after a failed write the file is cut back to its durable length before anything is appended.
//!
//! Never decides when to sync: the log thread does, for many partitions at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kafka_protocol::ResponseError;
use tidemill_contract::Result;
use tokio::sync::watch;

use super::appender::Appender;
use super::recovery;
use super::segment::Segment;
use super::settings::TopicSettings;

/// Name of a partition within the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PartitionName {
    pub(crate) topic: String,
    pub(crate) index: i32,
}

impl PartitionName {
    /// The directory's name.
    pub(crate) fn dir(&self) -> String {
        format!("{}-{}", self.topic, self.index)
    }
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct LogState {
    /// Sorted by base offset, never empty; the last one is open.
    pub(crate) segments: Vec<Segment>,
    /// First offset that may be read.
    pub(crate) log_start: i64,
    /// One past the last durable offset.
    pub(crate) high_watermark: i64,
}

impl LogState {
    /// The segment that holds `offset`, which is within the log.
    pub(crate) fn segment_of(&self, offset: i64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.base <= offset);
        self.segments.get(after.checked_sub(1)?)
    }
}

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) name: PartitionName,
    pub(crate) dir: PathBuf,
    pub(crate) topic_id: String,
    pub(crate) settings: TopicSettings,
    state: RwLock<LogState>,
    appender: Mutex<Appender>,
    high_watermark: watch::Sender<i64>,
}

impl Partition {
    /// Opens what is on disk.
    pub(crate) fn open(
        name: PartitionName,
        dir: PathBuf,
        topic_id: &str,
        settings: TopicSettings,
    ) -> Result<Self> {
        let mut recovered = recovery::open(&dir, topic_id)?;
        let appender = Appender::new(&mut recovered);
        let end = appender.next_offset();
        let state = LogState {
            segments: recovered.segments,
            log_start: recovered.log_start,
            high_watermark: end,
        };
        Ok(Self {
            name,
            dir,
            topic_id: topic_id.to_owned(),
            settings,
            state: RwLock::new(state),
            appender: Mutex::new(appender),
            high_watermark: watch::Sender::new(end),
        })
    }

    /// First readable offset and high watermark.
    pub(crate) fn bounds(&self) -> (i64, i64) {
        let state = self.state();
        (state.log_start, state.high_watermark)
    }

    /// Wakes up when the high watermark moves; errs when the partition is deleted.
    pub(crate) fn watch(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Fails unless `offset` may be read or is the end.
    pub(crate) fn check_range(state: &LogState, offset: i64) -> Result<(), ResponseError> {
        match offset < state.log_start || offset > state.high_watermark {
            true => Err(ResponseError::OffsetOutOfRange),
            false => Ok(()),
        }
    }

    /// What readers see, for a short look.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, LogState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the log thread only.
    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, LogState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the log thread only.
    pub(super) fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells waiting fetches, after the state was updated.
    pub(super) fn announce(&self, high_watermark: i64) {
        self.high_watermark.send_replace(high_watermark);
    }

    /// The largest producer id seen in the log.
    pub(super) fn largest_producer_id(&self) -> Option<i64> {
        self.appender().producers.largest_id()
    }
}

/// A partition shared between connections and the log thread.
pub(crate) type PartitionRef = Arc<Partition>;
