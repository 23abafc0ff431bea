//! Short forms of librdkafka calls for the client suite. Every wait has a deadline.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a future to its end on a small runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Settings shared by every client.
pub(crate) fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("allow.auto.create.topics", "false");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

pub(crate) fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    client(brokers).create().expect("an admin client")
}

pub(crate) fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// Creates a topic and waits until its partitions are known.
pub(crate) fn create_topic(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let created = try_create_topic(brokers, name, partitions, settings);
    created.unwrap_or_else(|error| panic!("topic {name} is created: {error}"));
    wait_for_partitions(brokers, name, usize::try_from(partitions).expect("a positive count"));
}

pub(crate) fn try_create_topic(
    brokers: &str,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Result<(), RDKafkaErrorCode> {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let admin = admin(brokers);
    let results = block_on(admin.create_topics(&[topic], &admin_options()));
    let results = results.expect("the broker answers");
    results.into_iter().next().expect("one result").map(|_| ()).map_err(|(_, code)| code)
}

/// Number of partitions; `None` for no such topic.
pub(crate) fn partitions(brokers: &str, topic: &str) -> Option<usize> {
    let consumer: BaseConsumer = client(brokers).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let topic = metadata.topics().iter().find(|found| found.name() == topic)?;
    (topic.error().is_none() && !topic.partitions().is_empty()).then(|| topic.partitions().len())
}

pub(crate) fn wait_for_partitions(brokers: &str, topic: &str, count: usize) {
    wait_until("the partitions are known", || partitions(brokers, topic) == Some(count));
}

/// Polls a condition until it holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A producer that waits for every replica.
pub(crate) fn producer(brokers: &str, settings: &[(&str, &str)]) -> FutureProducer {
    let mut config = client(brokers);
    config.set("acks", "all").set("linger.ms", "5").set("message.timeout.ms", "60000");
    config.set("message.max.bytes", "9000000");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a producer")
}

/// Produces payloads to one partition in order and returns their offsets.
pub(crate) fn produce(
    producer: &FutureProducer,
    topic: &str,
    partition: i32,
    payloads: &[Vec<u8>],
) -> Vec<i64> {
    let mut deliveries = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let record = FutureRecord::<(), _>::to(topic).partition(partition).payload(payload);
        deliveries.push(enqueue(producer, record));
    }
    let delivered = block_on(async {
        let mut offsets = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let delivered = delivery.await.expect("the producer lives");
            offsets.push(delivered.unwrap_or_else(|(error, _)| panic!("{error}")).offset);
        }
        offsets
    });
    producer.flush(Timeout::After(PATIENCE)).expect("nothing is left to send");
    delivered
}

/// Queues one record.
pub(crate) fn enqueue<'a>(
    producer: &FutureProducer,
    record: FutureRecord<'a, (), Vec<u8>>,
) -> rdkafka::producer::DeliveryFuture {
    match producer.send_result(record) {
        Ok(delivery) => delivery,
        Err((error, _)) => panic!("a record is queued: {error}"),
    }
}

/// A consumer of explicit positions.
pub(crate) fn consumer(brokers: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = client(brokers);
    config.set("group.id", "suite").set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "error").set("check.crcs", "true");
    config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "500");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a consumer")
}

/// Puts a consumer at one place.
pub(crate) fn assign(consumer: &BaseConsumer, topic: &str, partition: i32, offset: Offset) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, offset).expect("a valid offset");
    consumer.assign(&list).expect("an assignment");
}

/// The next message.
pub(crate) fn next(consumer: &BaseConsumer) -> OwnedMessage {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => return message.detach(),
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => panic!("consuming works: {error}"),
        }
    }
    panic!("no message within {PATIENCE:?}");
}

/// Errors a client gets over by itself while a broker restarts.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::Resolve
        )
    )
}

/// First offset and end of a partition.
pub(crate) fn watermarks(brokers: &str, topic: &str, partition: i32) -> (i64, i64) {
    let consumer: BaseConsumer = client(brokers).create().expect("a consumer");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok(found) => return found,
            // A node that just came back elects its leaders first.
            Err(error) if is_passing(&error) && Instant::now() < deadline => {}
            Err(error) => panic!("watermarks of {topic}: {error}"),
        }
    }
}

/// Payloads `0..count` as numbered texts of at least `bytes` bytes.
pub(crate) fn numbered(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{number:0bytes$}").into_bytes()).collect()
}

/// A member of a group that reads from the start.
pub(crate) fn member(brokers: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut all = vec![
        ("group.id", group),
        ("auto.offset.reset", "earliest"),
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "500"),
        ("partition.assignment.strategy", "range"),
    ];
    all.extend_from_slice(settings);
    consumer(brokers, &all)
}

fn assigned(consumer: &BaseConsumer) -> usize {
    consumer.assignment().expect("an assignment").count()
}

/// Polls members until their partition counts are as wanted.
pub(crate) fn poll_until(members: &[&BaseConsumer], wanted: &[usize]) {
    wait_until(&format!("the members have {wanted:?} partitions"), || {
        for member in members {
            while member.poll(Duration::from_millis(20)).is_some() {}
        }
        members.iter().zip(wanted).all(|(member, wanted)| assigned(member) == *wanted)
    });
}

/// Every record of a partition: offset and payload.
pub(crate) fn read_all(brokers: &str, topic: &str, partition: i32) -> Vec<(i64, Vec<u8>)> {
    let (low, high) = watermarks(brokers, topic, partition);
    let consumer = consumer(brokers, &[]);
    assign(&consumer, topic, partition, Offset::Offset(low));
    let mut read = Vec::new();
    while read.last().is_none_or(|(offset, _)| *offset < high - 1) && low < high {
        let message = next(&consumer);
        read.push((message.offset(), message.payload().expect("a payload").to_vec()));
    }
    read
}
