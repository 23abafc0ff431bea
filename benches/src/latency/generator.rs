//! An open-loop generator: event number n is due at its time, whether or not those before it have
//! arrived. Latency counts from when an event was due, so a stall is not left out.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use super::Epoch;

/// One in so many events is to raise an alert.
pub const ALERT_EVERY: u64 = 100;
/// Longest wait for acknowledgements at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A fixed rate from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// When event 0 is due.
    pub epoch: Epoch,
    /// Events a second.
    pub rate: u64,
    /// How many.
    pub events: u64,
}

impl Plan {
    /// When an event is due, since the beginning, in microseconds.
    #[must_use]
    pub fn due_micros(&self, number: u64) -> u64 {
        number * 1_000_000 / self.rate
    }

    /// When an event is due.
    #[must_use]
    pub fn due(&self, number: u64) -> Instant {
        self.epoch.at + Duration::from_micros(self.due_micros(number))
    }

    /// The event time of an event: when it is due.
    #[must_use]
    pub fn event_time(&self, number: u64) -> i64 {
        self.epoch.micros.saturating_add_unsigned(self.due_micros(number))
    }

    /// Sends everything when it is due; returns when the last record is acknowledged.
    ///
    /// # Errors
    /// If the broker does not take the records.
    pub fn send(&self, brokers: &str, topic: &str) -> Result<()> {
        let producer = producer(brokers)?;
        for number in 0..self.events {
            let wait = self.due(number).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                super::pass(wait);
            }
            let amount = if is_alert(number) { 1000 } else { 1 };
            let payload = format!(
                "{{\"id\":{number},\"amount\":{amount},\"at\":{}}}",
                self.event_time(number)
            );
            let record = BaseRecord::<(), [u8]>::to(topic).partition(0).payload(payload.as_bytes());
            if let Err((error, _)) = producer.send(record) {
                bail!("event {number}: {error}");
            }
        }
        producer.flush(PATIENCE)?;
        Ok(())
    }
}

/// Whether an event is to raise an alert.
#[must_use]
pub fn is_alert(number: u64) -> bool {
    number % ALERT_EVERY == ALERT_EVERY - 1
}

/// A producer that sends each record at once.
///
/// # Errors
/// If the client refuses its settings.
pub fn producer(brokers: &str) -> Result<ThreadedProducer<DefaultProducerContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "1000000")
        .create()?)
}
