//! What no pipeline can be faster than: consume, look, produce. No state, no commit, no fence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::producer::{BaseRecord, Producer as _};
use serde::Deserialize;

use super::generator::producer;
use super::subscriber::Subscriber;

/// An event as the generator writes it.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// Large for one that is to raise an alert.
    pub amount: i64,
}

/// Passes large events on until it is told to stop.
///
/// # Errors
/// If the broker does not take a record, or an event cannot be read.
pub fn run(brokers: &str, from: &str, to: &str, stop: &AtomicBool) -> Result<()> {
    let (subscriber, producer) = (Subscriber::open(brokers, from)?, producer(brokers)?);
    while !stop.load(Ordering::Relaxed) {
        let Some((_, payload)) = subscriber.next(Duration::from_millis(100)) else { continue };
        let event: Event = serde_json::from_slice(&payload)?;
        if event.amount > 900 {
            let record = BaseRecord::<(), [u8]>::to(to).partition(0).payload(&payload);
            if let Err((error, _)) = producer.send(record) {
                bail!("event {}: {error}", event.id);
            }
        }
    }
    producer.flush(Duration::from_secs(10))?;
    Ok(())
}
