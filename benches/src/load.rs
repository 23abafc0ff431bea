//! Fills the topic once and computes the answer every program must give.

use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};

use crate::Digest;
use crate::digest::Groups;
use crate::orders::Orders;

/// Partitions of the topic.
pub const PARTITIONS: i32 = 2;

/// The topic of a run with this many orders.
pub fn topic(orders: u64) -> String {
    format!("bench-orders-{orders}")
}

/// Makes sure that the topic holds exactly `orders` orders and returns the answer to them.
///
/// # Errors
/// If the broker does not answer, or the topic exists with something else in it.
pub fn fill(brokers: &str, orders: u64) -> Result<Digest> {
    let topic = topic(orders);
    let present = present(brokers, &topic)?;
    if present != 0 && present != orders {
        bail!("topic {topic} holds {present} records; delete it first");
    }
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "50")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    let mut groups = Groups::default();
    let mut stream = Orders::default();
    let mut json = Vec::new();
    for number in 0..orders {
        let order = stream.next(&mut json)?;
        let cents = u64::from(order.quantity) * u64::from(order.price_cents);
        groups.add(order.ordered_at_ms, &format!("p-{:05}", order.product), cents);
        if present == 0 {
            let partition = i32::from(number % 2 == 1);
            send(&producer, &topic, partition, &json)?;
        }
    }
    producer.flush(Duration::from_secs(120))?;
    Ok(groups.digest())
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, payload: &[u8]) -> Result<()> {
    let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(50));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Creates the topic if it is missing; the number of records in it.
fn present(brokers: &str, topic: &str) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = KafkaSettings {
        brokers: brokers.to_string(),
        properties: std::collections::BTreeMap::new(),
    };
    runtime.block_on(async {
        let log = KafkaLog::new(settings)?;
        log.ensure_topic(topic, PARTITIONS, &[]).await?;
        let marks = log.watermarks(topic).await?;
        let records: i64 = marks.values().map(|(low, high)| high - low).sum();
        Ok(u64::try_from(records)?)
    })
}
