//! Roles `a0` and `floor`: what a hand-written program pays.
//!
//! `a0` only receives the records, in batches and without a copy: nothing that reads this topic
//! through librdkafka can be cheaper. `floor` also takes four fields out of the JSON with sonic-rs
//! and groups them in a hash map, with no watermark, no commit, no file: it only has to be right on a
//! topic that ends.

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sonic_rs::{JsonValueTrait as _, PointerTree};

use crate::digest::Groups;
use crate::load::{PARTITIONS, topic};
use crate::measure::Stopwatch;
use crate::{Digest, Measured, receive};

/// Receives everything, looks at nothing but the lengths.
///
/// # Errors
/// If the broker fails or the lengths do not add up.
pub fn consume(brokers: &str, orders: u64) -> Result<Measured> {
    let watch = Stopwatch::start()?;
    let mut bytes = 0;
    each(brokers, &topic(orders), orders, |payload| {
        bytes += payload.len();
        Ok(())
    })?;
    let measured = watch.stop()?;
    if bytes as u64 != orders * crate::orders::ORDER_BYTES as u64 {
        bail!("received {bytes} bytes of {orders} orders");
    }
    Ok(measured)
}

/// Receives, decodes four fields, groups.
///
/// # Errors
/// If the broker fails or a record is not an order.
pub fn group(brokers: &str, orders: u64) -> Result<Measured> {
    let watch = Stopwatch::start()?;
    let mut tree = PointerTree::new();
    for field in ["product_id", "quantity", "unit_price", "ordered_at"] {
        tree.add_path(&[field]);
    }
    let mut groups = Groups::default();
    each(brokers, &topic(orders), orders, |payload| {
        let fields = sonic_rs::get_many(payload, &tree)?;
        let [Some(product), Some(quantity), Some(price), Some(ordered_at)] = fields.as_slice()
        else {
            bail!("a field is missing");
        };
        let product = product.as_str().context("product_id")?;
        let quantity = quantity.as_u64().context("quantity")?;
        let ordered_at_ms = ordered_at.as_i64().context("ordered_at")?;
        groups.add(ordered_at_ms, product, quantity * cents(price.as_raw_str())?);
        Ok(())
    })?;
    let digest: Digest = groups.digest();
    let mut measured = watch.stop()?;
    measured.digest = Some(digest);
    Ok(measured)
}

/// `12.34` in cents, exactly.
fn cents(text: &str) -> Result<u64> {
    let (whole, part) = text.split_once('.').context("unit_price")?;
    Ok(whole.parse::<u64>()? * 100 + part.parse::<u64>()?)
}

/// Calls `handle` for the first `count` records of the topic.
///
/// # Errors
/// The first of `handle`, of the client, or that no record came for 30 s.
pub fn each(
    brokers: &str,
    topic: &str,
    count: u64,
    handle: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    // The same fetch settings as the product's reader.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "16384")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    receive::payloads(&consumer, count, handle)
}
