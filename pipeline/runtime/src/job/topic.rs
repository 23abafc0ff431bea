//! The topic while it is read: is it still the same one, is what was read still in it, has it more
//! partitions.
//!
//! Nothing is committed of records that may be another topic's: the topic's id is asked for after
//! the last record of an epoch was read, and the id of a deleted topic never comes back, so all
//! of them are of the topic the job opened. A log that was cut and grew again under the same id
//! is found by the marks, read again now and then beside the job. What is found here ends the
//! incarnation; the next one says from the commit which ranges are concerned.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidemill_contract::{Error, ErrorKind, PartitionProgress, Result};
use tokio::task::JoinHandle;

use super::{
    Bound, JobConfig,
    loss::{Finding, Read, error, examine},
    run::Run,
    tables::Flush,
};

/// How often the topic is looked at while nothing is committed; bounds how late a new partition is
/// read.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the marks are read again.
const COMPARE_INTERVAL: Duration = Duration::from_secs(20);

/// What is watched.
#[derive(Debug)]
pub(super) struct TopicWatch {
    /// The topic that was opened; `None` if the cluster gives no ids.
    pub(super) id: Option<String>,
    /// Its partitions when it was last looked at.
    partitions: usize,
    looked_at: Instant,
    /// Records were read since.
    stale: bool,
    compared_at: Instant,
    comparison: Option<JoinHandle<Result<Vec<Finding>>>>,
}

impl Drop for TopicWatch {
    fn drop(&mut self) {
        if let Some(comparison) = &self.comparison {
            comparison.abort();
        }
    }
}

impl TopicWatch {
    pub(super) fn new(id: Option<String>, partitions: usize) -> Self {
        let now = Instant::now();
        Self { id, partitions, looked_at: now, stale: false, compared_at: now, comparison: None }
    }

    /// Records were read.
    pub(super) fn note_records(&mut self) {
        self.stale = true;
    }

    /// Something is odd: look as soon as there is time.
    pub(super) fn ask_soon(&mut self) {
        self.stale = true;
        self.looked_at = self.looked_at.checked_sub(LOOK_INTERVAL).unwrap_or(self.looked_at);
    }
}

impl Run<'_> {
    /// Makes sure that everything read so far is of the topic that was opened.
    pub(super) fn check_topic(&mut self) -> Result<()> {
        if !self.watch.stale {
            return Ok(());
        }
        self.look()
    }

    fn look(&mut self) -> Result<()> {
        self.watch.looked_at = Instant::now();
        let now = self.reader.identity()?;
        if let (Some(opened), Some(now)) = (&self.watch.id, &now.id)
            && opened != now
        {
            let topic = self.config.source.topic();
            let what = format!("topic '{topic}' was deleted and made anew while it was read");
            return Err(
                Error::corrupt("TM501", what).because(format!("its id was {opened} and is {now}"))
            );
        }
        self.watch.partitions = usize::try_from(now.partitions).unwrap_or(0);
        self.watch.stale = false;
        Ok(())
    }

    /// Looks at the topic now and then; true if it has partitions that are not read yet.
    pub(super) fn topic_grew(&mut self) -> Result<bool> {
        self.compare_marks()?;
        // While the brokers are out of reach there is nothing to look at.
        let is_apart = self.reader.trouble().is_some();
        if self.drained || is_apart || matches!(self.config.bound, Bound::AtStart) {
            return Ok(false);
        }
        if self.watch.looked_at.elapsed() >= LOOK_INTERVAL {
            match self.look() {
                // It is asked again; nothing is committed before it answers.
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    tracing::debug!(job = %self.config.name, %error, "the topic cannot be looked at");
                }
                outcome => outcome?,
            }
        }
        Ok(self.watch.partitions > self.progress.len())
    }

    /// Reads the marks again, on the executor, and takes the answer when it is there.
    fn compare_marks(&mut self) -> Result<()> {
        if self.watch.comparison.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(comparison) = self.watch.comparison.take()
        {
            let found = self.environment.executor.block_on(comparison);
            match found {
                Ok(Ok(findings)) if !findings.is_empty() => {
                    let source = &self.config.source;
                    return Err(error(&source.name, source.topic(), &findings));
                }
                Ok(Err(error)) => {
                    tracing::debug!(job = %self.config.name, %error, "the log cannot be compared");
                }
                _ => {}
            }
        }
        let is_due = self.watch.compared_at.elapsed() >= COMPARE_INTERVAL;
        if is_due && self.watch.comparison.is_none() && !self.drained {
            self.watch.compared_at = Instant::now();
            let compare =
                compare(self.config.clone(), self.watch.id.clone(), self.progress.clone());
            self.watch.comparison = Some(self.environment.executor.spawn(compare));
        }
        Ok(())
    }

    /// The log has lost what comes next: what was read before is committed, if it is surely of
    /// this topic, so that the loss begins where reading really ended.
    pub(super) fn keep_what_was_read(&mut self, lost: Error) -> Error {
        let kept = self.look().and_then(|()| self.commit_if_dirty(Flush::Due));
        if let Err(error) = kept {
            tracing::warn!(job = %self.config.name, %error, "the job goes back to its last commit");
        }
        lost
    }
}

/// Compares the log with what was read of it. Records that are deleted ahead of the job are left
/// to the reader: it may have fetched them.
async fn compare(
    config: JobConfig,
    id: Option<String>,
    mut partitions: BTreeMap<i32, PartitionProgress>,
) -> Result<Vec<Finding>> {
    let topic = config.source.topic();
    let bounds = config.log.watermarks(topic).await?;
    partitions.retain(|id, _| bounds.contains_key(id));
    let read = Read { topic, id: id.as_deref(), partitions: &partitions };
    let mut findings = examine(&config.log, &read, None, &bounds).await?;
    findings.retain(|finding| !finding.is_expired());
    Ok(findings)
}
