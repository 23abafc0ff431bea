//! Fills topics once and computes the answers that programs must give.

use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};

use crate::Digest;
use crate::digest::Groups;
use crate::orders::{Order, Orders, Shape};

/// Partitions of a topic, unless a benchmark needs more.
pub const PARTITIONS: i32 = 2;

/// The topic of orders of the usual form.
pub fn topic(orders: u64) -> String {
    Topic::usual(orders).name
}

/// A topic full of orders. Its name tells the form, so that benchmarks share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Partitions; orders are dealt to them in turn.
    pub partitions: i32,
    /// Form of the orders.
    pub shape: Shape,
    /// How many.
    pub orders: u64,
}

impl Topic {
    /// Orders of the usual form in two partitions.
    pub fn usual(orders: u64) -> Self {
        Self::new("orders", orders, Shape::default())
    }

    /// Orders of another form in two partitions.
    pub fn new(kind: &str, orders: u64, shape: Shape) -> Self {
        Self { name: format!("bench-{kind}-{orders}"), partitions: PARTITIONS, shape, orders }
    }

    /// Makes sure that the topic holds exactly these orders; tells `each` of every one.
    ///
    /// # Errors
    /// If the broker does not answer, or the topic exists with something else in it.
    pub fn fill(&self, brokers: &str, mut each: impl FnMut(&Order)) -> Result<()> {
        let present = self.present(brokers)?;
        if present != 0 && present != self.orders {
            bail!("topic {} holds {present} records; delete it first", self.name);
        }
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "50")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "500000")
            .create()?;
        let mut stream = Orders::new(self.shape);
        let mut json = Vec::new();
        for number in 0..self.orders {
            each(&stream.next(&mut json)?);
            if present == 0 {
                let partition = i32::try_from(number % u64::from(self.partitions.unsigned_abs()))?;
                send(&producer, &self.name, partition, &json)?;
            }
        }
        producer.flush(Duration::from_secs(120))?;
        let present = self.present(brokers)?;
        if present != self.orders {
            bail!("topic {} holds {present} records instead of {}", self.name, self.orders);
        }
        Ok(())
    }

    /// Creates the topic if it is missing; the number of records in it.
    fn present(&self, brokers: &str) -> Result<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let settings = KafkaSettings {
            brokers: brokers.to_string(),
            properties: std::collections::BTreeMap::new(),
        };
        runtime.block_on(async {
            let log = KafkaLog::new(settings)?;
            log.ensure_topic(&self.name, self.partitions, &[]).await?;
            let marks = log.watermarks(&self.name).await?;
            let records: i64 = marks.values().map(|(low, high)| high - low).sum();
            Ok(u64::try_from(records)?)
        })
    }
}

/// Makes sure that the topic of usual orders is there; the answer per minute and product.
///
/// # Errors
/// Those of [`Topic::fill`].
pub fn fill(brokers: &str, orders: u64) -> Result<Digest> {
    let mut groups = Groups::default();
    Topic::usual(orders).fill(brokers, |order| groups.add_order(order))?;
    Ok(groups.digest())
}

/// Hands a record over, waiting while the producer is full.
pub(crate) fn send<C: ProducerContext<DeliveryOpaque = ()>>(
    producer: &BaseProducer<C>,
    topic: &str,
    partition: i32,
    payload: &[u8],
) -> Result<()> {
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
