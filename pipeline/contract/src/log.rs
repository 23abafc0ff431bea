//! The log: partitioned topics read by position and appended to with acknowledgement.

use std::time::Duration;

use bytes::Bytes;

use crate::{RawBatch, Result};

/// A Kafka partition number.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct PartitionId(pub i32);

/// Reads one topic, partition by partition, so that the caller decides which partition may run
/// ahead. Offsets are truth from the commit, never from the consumer group.
///
/// Contract: records of one partition come in offset order without gaps that the log does not
/// have; `poll` never blocks; a gap between the asked offset and the log start is an error of kind
/// `Corrupt`, never a silent skip.
pub trait LogReader: Send {
    /// The partitions assigned, ascending.
    fn partitions(&self) -> Vec<PartitionId>;
    /// Takes what is locally available from one partition: at most `max_records` and about
    /// `max_bytes`. An empty batch means nothing is there right now.
    fn poll(
        &mut self,
        partition: PartitionId,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<RawBatch>;
    /// Waits until some partition may have records, or the time is over.
    fn wait(&mut self, at_most: Duration);
    /// The end offset (exclusive) last heard from the broker, `None` if not heard yet.
    fn end_offset(&self, partition: PartitionId) -> Option<i64>;
    /// Publishes progress for dashboards (group offsets): `(partition, next offset)`.
    fn report_progress(&mut self, next: &[(PartitionId, i64)]);
}

/// A record to append.
#[derive(Debug, Clone)]
pub struct ProduceRecord {
    /// Target partition; `None` lets the key's hash decide.
    pub partition: Option<PartitionId>,
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Record timestamp in milliseconds since the epoch; `None` = now.
    pub timestamp_ms: Option<i64>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
}

/// Appends to topics. Idempotent producer, `acks=all`.
///
/// Contract: `append` may buffer, but bounded, and waits when full; after `flush` returns `Ok`
/// every record appended before is durable, in order within each partition.
#[async_trait::async_trait]
pub trait LogWriter: Send + Sync {
    /// Appends one record to a topic.
    async fn append(&self, topic: &str, record: ProduceRecord) -> Result<()>;
    /// Waits until everything appended is acknowledged; the first failure is returned.
    async fn flush(&self) -> Result<()>;
}
