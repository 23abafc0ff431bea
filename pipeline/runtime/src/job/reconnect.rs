//! After a connection to a broker was lost: is the log still the one that was read?
//!
//! A broker that comes back may have less than it had and have grown again, and its client reads
//! on at the same offset. So nothing is taken of what was fetched since: all marks of what was
//! read before are compared with the log first, and reading goes on with a reader opened before
//! the comparison, which has nothing fetched ahead. It never waits for the broker.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidemill_connectors::log::kafka::{KafkaReader, is_loss};
use tidemill_contract::{Error, PartitionProgress, Result};
use tokio::task::JoinHandle;

use super::{
    JobConfig,
    loss::{Finding, Read, error, examine},
    run::Run,
};

/// How long to wait before asking a broker again that did not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The comparison under way.
#[derive(Debug, Default)]
pub(super) struct Reconnect {
    attempt: Option<JoinHandle<Result<Compared>>>,
    failed_at: Option<Instant>,
}

/// What came of it.
#[derive(Debug)]
struct Compared {
    /// Reads on where the job is.
    reader: KafkaReader,
    findings: Vec<Finding>,
}

impl Drop for Reconnect {
    fn drop(&mut self) {
        if let Some(attempt) = &self.attempt {
            attempt.abort();
        }
    }
}

impl Run<'_> {
    /// Whether the reader may be read: false while it is not known that the log is still the same.
    ///
    /// # Errors
    /// `TM501` if it is not.
    pub(super) fn is_connected(&mut self) -> Result<bool> {
        if self.drained || !self.reader.was_disconnected() {
            return Ok(true);
        }
        let is_over = |attempt: &mut JoinHandle<_>| attempt.is_finished();
        let Some(attempt) = self.reconnect.attempt.take_if(is_over) else {
            let must_wait = |at: Instant| at.elapsed() < RETRY_INTERVAL;
            if self.reconnect.attempt.is_none() && !self.reconnect.failed_at.is_some_and(must_wait)
            {
                let (config, id) = (self.config.clone(), self.watch.id.clone());
                let compare = compare(config, id, self.progress.clone());
                self.reconnect.attempt = Some(self.environment.executor.spawn(compare));
            }
            return Ok(false);
        };
        let compared = self.environment.executor.block_on(attempt);
        let compared = compared
            .unwrap_or_else(|panic| Err(Error::internal(format!("a comparison ended: {panic}"))));
        match compared {
            Ok(Compared { reader, findings }) if findings.is_empty() => {
                self.reader = reader;
                self.reconnect.failed_at = None;
                Ok(true)
            }
            Ok(Compared { findings, .. }) => {
                let source = &self.config.source;
                Err(error(&source.name, source.topic(), &findings))
            }
            Err(error) if is_loss(&error) => Err(error),
            Err(error) => {
                tracing::debug!(job = %self.config.name, %error, "the log cannot be compared yet");
                self.reconnect.failed_at = Some(Instant::now());
                Ok(false)
            }
        }
    }
}

async fn compare(
    config: JobConfig,
    id: Option<String>,
    partitions: BTreeMap<i32, PartitionProgress>,
) -> Result<Compared> {
    let topic = config.source.topic();
    let not_yet = || Error::unavailable("TM522", format!("topic '{topic}' is not all there yet"));
    let now = config.log.topic(topic).await?.ok_or_else(not_yet)?;
    let bounds = config.log.watermarks(topic).await?;
    if partitions.keys().any(|id| !bounds.contains_key(id)) {
        return Err(not_yet());
    }
    // Before the comparison: what happens to the log after it, this reader hears.
    let reader = open_reader(&config, &partitions).await?;
    let read = Read { topic, id: id.as_deref(), partitions: &partitions };
    let findings = examine(&config.log, &read, Some(&now), &bounds).await?;
    Ok(Compared { reader, findings })
}

async fn open_reader(
    config: &JobConfig,
    partitions: &BTreeMap<i32, PartitionProgress>,
) -> Result<KafkaReader> {
    let start = partitions.iter().map(|(id, progress)| (*id, progress.next_offset)).collect();
    let (log, topic) = (config.log.clone(), config.source.topic().to_owned());
    let group = config.group();
    let opened = tokio::task::spawn_blocking(move || log.reader(&topic, &group, &start)).await;
    opened.unwrap_or_else(|panic| Err(Error::internal(format!("opening a reader ended: {panic}"))))
}
