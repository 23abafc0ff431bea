//! Deleting the start of a log: by size, by age, or because a client asked.
//!
//! Whole closed segments go; the log start moves first and durably, so that a restart never shows
//! records again that were gone. Runs on the log thread.

use std::fs;
use std::io;

use kafka_protocol::ResponseError;

use super::appender::storage_failed;
use super::files;
use super::partition::Partition;
use super::recovery::Identity;

impl Partition {
    /// Moves the log start to `offset` (-1: the high watermark) and returns the new one.
    pub(super) fn delete_records(&self, offset: i64) -> Result<i64, ResponseError> {
        let (log_start, high_watermark) = self.bounds();
        let target = if offset == -1 { high_watermark } else { offset };
        if target < 0 || target > high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if target <= log_start {
            return Ok(log_start);
        }
        self.move_log_start(target).map_err(|error| storage_failed(self, &error))?;
        Ok(target)
    }

    /// Applies the topic's retention at wall time `now_ms`; returns how many segments went.
    pub(super) fn retain(&self, now_ms: i64) -> io::Result<usize> {
        self.roll_expired(now_ms)?;
        let Some(log_start) = self.retention_target(now_ms) else {
            return Ok(0);
        };
        self.move_log_start(log_start)
    }

    /// An open segment whose every record is too old is closed, so that it can go.
    fn roll_expired(&self, now_ms: i64) -> io::Result<()> {
        let expired = {
            let state = self.state();
            let open = state.segments.last();
            open.is_some_and(|open| open.bytes > 0 && self.is_expired(open.max_timestamp, now_ms))
        };
        match expired {
            true => self.appender().roll(self),
            false => Ok(()),
        }
    }

    fn is_expired(&self, max_timestamp: i64, now_ms: i64) -> bool {
        let Some(age_max) = self.settings.retention_ms else {
            return false;
        };
        now_ms.saturating_sub(max_timestamp) > i64::try_from(age_max).unwrap_or(i64::MAX)
    }

    /// The first offset to keep, if any closed segment is too old or too much.
    fn retention_target(&self, now_ms: i64) -> Option<i64> {
        let state = self.state();
        let mut bytes: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
        let mut target = None;
        for pair in state.segments.windows(2) {
            let [closed, next] = pair else { break };
            let excess = self.settings.retention_bytes.is_some_and(|max| {
                // As in Apache Kafka: at least `max` bytes stay.
                bytes.saturating_sub(closed.bytes) >= max
            });
            if !excess && !self.is_expired(closed.max_timestamp, now_ms) {
                break;
            }
            bytes -= closed.bytes;
            target = Some(next.base);
        }
        target.filter(|target| *target > state.log_start)
    }

    fn move_log_start(&self, log_start: i64) -> io::Result<usize> {
        Identity { topic_id: self.topic_id.clone(), log_start }.store(&self.dir)?;
        let gone = {
            let mut state = self.state_mut();
            state.log_start = log_start;
            let last = state.segments.len() - 1;
            let count = state.segments[..last]
                .iter()
                .take_while(|segment| segment.next_offset <= log_start)
                .count();
            state.segments.drain(..count).collect::<Vec<_>>()
        };
        for segment in &gone {
            fs::remove_file(&segment.path)?;
        }
        if !gone.is_empty() {
            files::sync_dir(&self.dir)?;
            tracing::info!(
                partition = %self.name.dir(),
                segments = gone.len(),
                log_start,
                "deleted closed segments"
            );
        }
        Ok(gone.len())
    }
}
