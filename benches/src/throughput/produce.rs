//! Role `produce`: librdkafka writes orders as fast as the broker acknowledges them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use super::{ClientRun, Content};
use crate::load::{PARTITIONS, send};
use crate::measure::Stopwatch;
use crate::orders::Orders;

/// What the producer is told, besides the brokers.
pub const SETTINGS: [(&str, &str); 6] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("compression.type", "none"),
    ("linger.ms", "20"),
    ("batch.size", "1000000"),
    ("queue.buffering.max.messages", "200000"),
];
/// `batch.num.messages`, so that the size above is what closes a batch.
const BATCH_RECORDS: &str = "10000";
/// Different payloads; they are made before the clock starts.
const PAYLOADS: usize = 100_000;

/// Longest wait for acknowledgements.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Counts what the broker acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    records: AtomicU64,
    refused: AtomicU64,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.records } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes `records` orders to the topic, in turn to its partitions.
///
/// # Errors
/// If one is not acknowledged.
pub fn run(brokers: &str, topic: &str, records: u64) -> Result<ClientRun> {
    let payloads = payloads()?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("batch.num.messages", BATCH_RECORDS);
    for (name, value) in SETTINGS {
        config.set(name, value);
    }
    let producer: BaseProducer<Acknowledged> =
        config.create_with_context(Acknowledged::default())?;
    let mut content = Content::default();
    let mut sent = (0..records).zip(payloads.iter().cycle());
    // One record a partition before the clock starts: connections stand, leaders are known.
    for (partition, (_, payload)) in (0..PARTITIONS).zip(sent.by_ref()) {
        send(&producer, topic, partition, payload)?;
    }
    producer.flush(WAIT_MAX)?;
    let watch = Stopwatch::start()?;
    let mut partition = 0;
    for (_, payload) in sent {
        send(&producer, topic, partition, payload)?;
        partition = (partition + 1) % PARTITIONS;
    }
    producer.flush(WAIT_MAX)?;
    let measured = watch.stop()?;
    let context = producer.context();
    let acknowledged = context.records.load(Ordering::Relaxed);
    let refused = context.refused.load(Ordering::Relaxed);
    if acknowledged != records || refused != 0 {
        bail!("{acknowledged} of {records} records acknowledged, {refused} refused");
    }
    for (_, payload) in (0..records).zip(payloads.iter().cycle()) {
        content.add(payload);
    }
    Ok(ClientRun { wall_ns: measured.wall_ns, cpu_ns: measured.cpu_ns, content })
}

fn payloads() -> Result<Vec<Vec<u8>>> {
    let mut stream = Orders::default();
    let mut payloads = Vec::with_capacity(PAYLOADS);
    for _ in 0..PAYLOADS {
        let mut payload = Vec::new();
        stream.next(&mut payload)?;
        payloads.push(payload);
    }
    Ok(payloads)
}
