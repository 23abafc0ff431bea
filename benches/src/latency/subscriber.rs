//! A consumer that stamps each record when it gets it.

use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

/// Reads partition 0 of a topic from its beginning.
pub struct Subscriber(BaseConsumer);

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Subscriber").finish()
    }
}

impl Subscriber {
    /// Subscribes.
    ///
    /// # Errors
    /// If the client refuses.
    pub fn open(brokers: &str, topic: &str) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", format!("bench-{topic}"))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Beginning)?;
        consumer.assign(&partitions)?;
        Ok(Self(consumer))
    }

    /// The next record and when it came; none if none comes in time, or the connection is lost
    /// for now.
    #[must_use]
    pub fn next(&self, at_most: Duration) -> Option<(Instant, Vec<u8>)> {
        let message = self.0.poll(at_most)?.ok()?;
        Some((Instant::now(), message.payload().unwrap_or_default().to_vec()))
    }
}
