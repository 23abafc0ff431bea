//! The client suite: what Tidemill, and any Kafka client, needs of a log.
//!
//! One list of cases, written against librdkafka only, runs unchanged on the embedded broker and
//! on Apache Kafka. Without Java or Maven the second run is left out and says so;
//! `TIDEMILL_REQUIRE_KAFKA=1` makes that a failure.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{NewPartitions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};

use crate::cluster::{ApacheKafka, Cluster, Embedded};
use crate::log_client::{
    PATIENCE, admin, admin_options, assign, block_on, consumer, create_topic, enqueue, member,
    next, numbered, partitions, poll_until, produce, producer, read_all, try_create_topic,
    wait_for_partitions, wait_until, watermarks,
};

/// Makes the table of cases and one test per case on the embedded broker.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        const CASES: &[(&str, fn(&mut dyn Cluster))] = &[$((stringify!($case), $case)),*];

        mod embedded {
            $(#[test]
            fn $case() {
                super::$case(&mut super::Embedded::start());
            })*
        }
    };
}

cases![
    fetch_starts_at_any_offset,
    keys_headers_and_times_survive,
    a_long_poll_ends_with_the_first_record,
    offsets_are_found_by_time,
    a_group_of_two_rebalances,
    a_silent_member_loses_its_partitions,
    committed_offsets_survive,
    five_megabyte_messages_pass,
    every_compression_passes,
    topics_are_created_grown_and_deleted,
    topic_settings_are_listed,
    a_restart_keeps_everything,
    a_kill_keeps_every_acknowledged_record,
    an_idempotent_producer_writes_once_and_in_order,
    deleted_records_are_gone,
    retention_by_size_deletes_the_oldest,
    retention_by_age_deletes_the_old,
];

#[test]
fn apache_kafka_passes_the_same_cases() {
    let mut cluster = match ApacheKafka::start() {
        Ok(cluster) => cluster,
        Err(reason) => {
            let required = std::env::var("TIDEMILL_REQUIRE_KAFKA").is_ok_and(|value| value == "1");
            assert!(!required, "Apache Kafka is required here: {reason}");
            eprintln!(
                "LEFT OUT: the client suite on Apache Kafka ({} cases): {reason}",
                CASES.len()
            );
            return;
        }
    };
    let mut failed = Vec::new();
    for (name, case) in CASES {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| case(&mut cluster))).is_ok();
        let outcome = if passed { "ok" } else { "FAILED" };
        eprintln!("Apache Kafka: {name} ... {outcome} ({:.1?})", started.elapsed());
        if !passed {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed on Apache Kafka: {failed:?}");
}

fn fetch_starts_at_any_offset(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "any-offset");
    create_topic(&brokers, topic, 1, &[]);
    let payloads = numbered(2_000, 100);
    let offsets = produce(&producer(&brokers, &[]), topic, 0, &payloads);
    assert_eq!(offsets, (0..2_000).collect::<Vec<i64>>());
    assert_eq!(watermarks(&brokers, topic, 0), (0, 2_000));
    let consumer = consumer(&brokers, &[]);
    for start in [0, 1, 137, 1_000, 1_999] {
        assign(&consumer, topic, 0, Offset::Offset(start));
        for offset in start..(start + 50).min(2_000) {
            let message = next(&consumer);
            assert_eq!(message.offset(), offset);
            assert_eq!(message.payload(), Some(payloads[offset as usize].as_slice()));
        }
    }
}

fn keys_headers_and_times_survive(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "headers");
    // The times below are years ago: Kafka keeps a week by default.
    create_topic(&brokers, topic, 1, &[("retention.ms", "-1")]);
    let header = Header { key: "tm-unit", value: Some(&[0_u8, 255][..]) };
    let record = FutureRecord::to(topic)
        .key("customer-1")
        .payload("order")
        .timestamp(1_300_000_000_123)
        .headers(OwnedHeaders::new().insert(header));
    let producer = producer(&brokers, &[]);
    let sent = block_on(producer.send(record, PATIENCE));
    assert!(sent.is_ok(), "the record is stored: {sent:?}");
    let consumer = consumer(&brokers, &[]);
    assign(&consumer, topic, 0, Offset::Beginning);
    let message = next(&consumer);
    assert_eq!(message.key(), Some(b"customer-1".as_slice()));
    assert_eq!(message.timestamp().to_millis(), Some(1_300_000_000_123));
    let headers = message.headers().expect("headers");
    assert_eq!((headers.count(), headers.get(0).value), (1, Some(&[0_u8, 255][..])));
}

fn a_long_poll_ends_with_the_first_record(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "long-poll");
    create_topic(&brokers, topic, 1, &[]);
    let producer = producer(&brokers, &[]);
    produce(&producer, topic, 0, &numbered(1, 10));
    let consumer = consumer(&brokers, &[("fetch.wait.max.ms", "20000")]);
    assign(&consumer, topic, 0, Offset::Beginning);
    next(&consumer);
    // From here on the consumer's fetch waits at the end of the log, for up to 20 s.
    for _ in 0..3 {
        assert!(consumer.poll(Duration::from_millis(300)).is_none());
        let sent = Instant::now();
        produce(&producer, topic, 0, &numbered(1, 10));
        next(&consumer);
        assert!(sent.elapsed() < Duration::from_secs(5), "the fetch did not end with the record");
    }
}

fn offsets_are_found_by_time(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "by-time");
    // The times below are years ago: Kafka keeps a week by default.
    create_topic(&brokers, topic, 1, &[("retention.ms", "-1")]);
    let producer = producer(&brokers, &[]);
    let start = 1_700_000_000_000;
    let mut deliveries = Vec::new();
    for number in 0..1_000 {
        let payload = vec![b'x'; 100];
        let record = FutureRecord::to(topic).partition(0).payload(&payload);
        deliveries.push(enqueue(&producer, record.timestamp(start + number * 1_000)));
    }
    for delivery in deliveries {
        assert!(block_on(delivery).expect("the producer lives").is_ok());
    }
    let consumer = consumer(&brokers, &[]);
    let found = |time: i64| {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_offset(topic, 0, Offset::Offset(time)).expect("a valid time");
        let found = consumer.offsets_for_times(wanted, PATIENCE).expect("an answer");
        found.find_partition(topic, 0).expect("the partition").offset()
    };
    assert_eq!(found(start - 5), Offset::Offset(0));
    assert_eq!(found(start), Offset::Offset(0));
    assert_eq!(found(start + 1), Offset::Offset(1));
    assert_eq!(found(start + 499_500), Offset::Offset(500));
    assert_eq!(found(start + 999_000), Offset::Offset(999));
    assert_eq!(found(start + 999_001), Offset::End);
}

fn a_group_of_two_rebalances(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "rebalance");
    create_topic(&brokers, topic, 4, &[]);
    let producer = producer(&brokers, &[]);
    for partition in 0..4 {
        produce(&producer, topic, partition, &numbered(10, 10));
    }
    let first = member(&brokers, "pair", &[]);
    first.subscribe(&[topic]).expect("a subscription");
    poll_until(&[&first], &[4]);
    let second = member(&brokers, "pair", &[]);
    second.subscribe(&[topic]).expect("a subscription");
    poll_until(&[&first, &second], &[2, 2]);
    let of = |member: &BaseConsumer| {
        let list = member.assignment().expect("an assignment");
        list.elements().iter().map(|element| element.partition()).collect::<Vec<_>>()
    };
    let mut all = [of(&first), of(&second)].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "every partition has one owner");
    drop(second);
    poll_until(&[&first], &[4]);
}

fn a_silent_member_loses_its_partitions(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "silent");
    create_topic(&brokers, topic, 2, &[]);
    let first = member(&brokers, "silent", &[]);
    first.subscribe(&[topic]).expect("a subscription");
    // A static member does not say goodbye: only its session's end frees its partitions.
    let second = member(&brokers, "silent", &[("group.instance.id", "two")]);
    second.subscribe(&[topic]).expect("a subscription");
    poll_until(&[&first, &second], &[1, 1]);
    let gone = Instant::now();
    drop(second);
    poll_until(&[&first], &[2]);
    assert!(gone.elapsed() > Duration::from_secs(2), "the session ended too early");
}

fn committed_offsets_survive(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "committed");
    create_topic(&brokers, topic, 2, &[]);
    produce(&producer(&brokers, &[]), topic, 1, &numbered(100, 10));
    let reader = member(&brokers, "committers", &[]);
    reader.subscribe(&[topic]).expect("a subscription");
    poll_until(&[&reader], &[2]);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 1, Offset::Offset(42)).expect("a valid offset");
    reader.commit(&list, CommitMode::Sync).expect("a commit");
    drop(reader);
    let committed = |brokers: &str| {
        let reader = member(brokers, "committers", &[]);
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        list.add_partition(topic, 1);
        let mut offsets = Vec::new();
        wait_until("the committed offsets are told", || {
            let Ok(found) = reader.committed_offsets(list.clone(), Duration::from_secs(5)) else {
                return false;
            };
            offsets = found.elements().iter().map(|element| element.offset()).collect();
            true
        });
        offsets
    };
    assert_eq!(committed(&brokers), [Offset::Invalid, Offset::Offset(42)]);
    cluster.restart();
    assert_eq!(committed(&brokers), [Offset::Invalid, Offset::Offset(42)]);
    let reader = member(&brokers, "committers", &[]);
    reader.subscribe(&[topic]).expect("a subscription");
    let message = next(&reader);
    assert_eq!((message.partition(), message.offset()), (1, 42), "reading goes on at the commit");
}

fn five_megabyte_messages_pass(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "large");
    create_topic(&brokers, topic, 1, &[("max.message.bytes", "8000000")]);
    let payloads: Vec<Vec<u8>> = (0..4_u8)
        .map(|number| (0..5 << 20).map(|at| (at % 251) as u8 ^ number).collect())
        .collect();
    let producer = producer(&brokers, &[]);
    produce(&producer, topic, 0, &payloads);
    let consumer = consumer(&brokers, &[]);
    assign(&consumer, topic, 0, Offset::Beginning);
    for payload in &payloads {
        assert!(next(&consumer).payload() == Some(payload.as_slice()), "the payload is the same");
    }
    let too_large = vec![0; 8_500_000];
    let record = FutureRecord::<(), _>::to(topic).partition(0).payload(&too_large);
    let refused = block_on(producer.send(record, PATIENCE)).expect_err("it is too large");
    assert_eq!(refused.0.rdkafka_error_code(), Some(RDKafkaErrorCode::MessageSizeTooLarge));
}

fn every_compression_passes(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "compressed");
    create_topic(&brokers, topic, 1, &[]);
    let payloads = numbered(500, 200);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let producer = producer(&brokers, &[("compression.type", codec), ("linger.ms", "50")]);
        produce(&producer, topic, 0, &payloads);
    }
    let consumer = consumer(&brokers, &[]);
    assign(&consumer, topic, 0, Offset::Beginning);
    for codec in codecs {
        for payload in &payloads {
            assert_eq!(next(&consumer).payload(), Some(payload.as_slice()), "codec {codec}");
        }
    }
    // In the middle of a compressed batch.
    assign(&consumer, topic, 0, Offset::Offset(2_345));
    let message = next(&consumer);
    assert_eq!((message.offset(), message.payload()), (2_345, Some(payloads[345].as_slice())));
}

fn topics_are_created_grown_and_deleted(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "lifecycle");
    assert_eq!(partitions(&brokers, topic), None);
    create_topic(&brokers, topic, 3, &[]);
    let again = try_create_topic(&brokers, topic, 3, &[]);
    assert_eq!(again, Err(RDKafkaErrorCode::TopicAlreadyExists));
    let invalid = try_create_topic(&brokers, "no/topic", 1, &[]);
    assert_eq!(invalid, Err(RDKafkaErrorCode::InvalidTopic));
    let unknown = try_create_topic(&brokers, "unknown-setting", 1, &[("no.such.setting", "1")]);
    assert_eq!(unknown, Err(RDKafkaErrorCode::InvalidConfig));
    produce(&producer(&brokers, &[]), topic, 2, &numbered(10, 10));

    let admin = admin(&brokers);
    let more = NewPartitions::new(topic, 5);
    let grown = block_on(admin.create_partitions(&[more], &admin_options())).expect("an answer");
    assert_eq!(grown, [Ok(topic.to_owned())]);
    wait_for_partitions(&brokers, topic, 5);
    assert_eq!(watermarks(&brokers, topic, 2), (0, 10));

    let deleted = block_on(admin.delete_topics(&[topic], &admin_options())).expect("an answer");
    assert_eq!(deleted, [Ok(topic.to_owned())]);
    wait_until("the topic is gone", || partitions(&brokers, topic).is_none());
    let deleted = block_on(admin.delete_topics(&[topic], &admin_options())).expect("an answer");
    let code = deleted[0].as_ref().expect_err("it is gone").1;
    assert_eq!(code, RDKafkaErrorCode::UnknownTopicOrPartition);

    create_topic(&brokers, topic, 3, &[]);
    assert_eq!(watermarks(&brokers, topic, 2), (0, 0), "a new topic of the same name is empty");
}

fn topic_settings_are_listed(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "settings");
    create_topic(&brokers, topic, 1, &[("retention.ms", "86400000")]);
    let admin = admin(&brokers);
    let wanted = [ResourceSpecifier::Topic(topic)];
    let described = block_on(admin.describe_configs(&wanted, &admin_options())).expect("an answer");
    let settings = described.into_iter().next().expect("one resource").expect("its settings");
    let value = |name: &str| settings.get(name).and_then(|entry| entry.value.clone());
    assert_eq!(value("retention.ms").as_deref(), Some("86400000"));
    assert_eq!(value("cleanup.policy").as_deref(), Some("delete"));
}

fn a_restart_keeps_everything(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "restart");
    create_topic(&brokers, topic, 2, &[]);
    let payloads = numbered(5_000, 100);
    let producer = producer(&brokers, &[]);
    produce(&producer, topic, 0, &payloads);
    cluster.restart();
    assert_eq!(partitions(&brokers, topic), Some(2));
    let read = read_all(&brokers, topic, 0);
    assert!(read.iter().map(|(_, payload)| payload).eq(&payloads), "the same records come back");
    // The producer that was connected before goes on after them.
    assert_eq!(produce(&producer, topic, 0, &numbered(1, 5)), [5_000]);
}

fn a_kill_keeps_every_acknowledged_record(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "killed");
    create_topic(&brokers, topic, 1, &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (brokers, stop, count) =
            (brokers.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
        std::thread::spawn(move || write_until(&brokers, topic, &stop, &count))
    };
    for round in 1..=5 {
        let seen = acknowledged.load(Ordering::SeqCst);
        wait_until("more records are acknowledged", || {
            acknowledged.load(Ordering::SeqCst) >= seen + 500
        });
        cluster.kill9();
        assert!(acknowledged.load(Ordering::SeqCst) >= 500 * round);
    }
    let seen = acknowledged.load(Ordering::SeqCst);
    wait_until("writing goes on", || acknowledged.load(Ordering::SeqCst) > seen);
    stop.store(true, Ordering::SeqCst);
    let acknowledged = writer.join().expect("the writer ends");
    let stored: BTreeMap<i64, Vec<u8>> = read_all(&brokers, topic, 0).into_iter().collect();
    for (payload, offset) in &acknowledged {
        assert_eq!(stored.get(offset), Some(payload), "offset {offset} was acknowledged");
    }
    let mut payloads: Vec<&Vec<u8>> = stored.values().collect();
    payloads.sort_unstable();
    payloads.dedup();
    assert_eq!(payloads.len(), stored.len(), "an idempotent producer stores nothing twice");
}

/// Writes numbered records until told to stop; returns what was acknowledged, with its offset.
fn write_until(
    brokers: &str,
    topic: &str,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> Vec<(Vec<u8>, i64)> {
    let producer = producer(brokers, &[("enable.idempotence", "true")]);
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut deliveries = Vec::new();
        for _ in 0..100 {
            let payload = format!("{number:08}").into_bytes();
            let record = FutureRecord::<(), _>::to(topic).partition(0).payload(&payload);
            deliveries.push((payload.clone(), enqueue(&producer, record)));
            number += 1;
        }
        for (payload, delivery) in deliveries {
            let delivered = block_on(delivery).expect("the producer lives");
            let delivered = delivered.unwrap_or_else(|(error, _)| panic!("{error}"));
            acknowledged.push((payload, delivered.offset));
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
    acknowledged
}

fn an_idempotent_producer_writes_once_and_in_order(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "idempotent");
    create_topic(&brokers, topic, 1, &[]);
    let settings = [("enable.idempotence", "true"), ("batch.num.messages", "50")];
    let payloads = numbered(20_000, 20);
    let offsets = produce(&producer(&brokers, &settings), topic, 0, &payloads);
    assert!(offsets.iter().copied().eq(0..20_000));
    let read = read_all(&brokers, topic, 0);
    assert!(read.iter().map(|(_, payload)| payload).eq(&payloads));
    let offsets = produce(&producer(&brokers, &settings), topic, 0, &payloads[..10]);
    assert_eq!(offsets.first(), Some(&20_000), "another producer has its own sequence");
}

fn deleted_records_are_gone(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "deleted");
    create_topic(&brokers, topic, 1, &[]);
    produce(&producer(&brokers, &[]), topic, 0, &numbered(100, 10));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(60)).expect("a valid offset");
    block_on(admin(&brokers).delete_records(&list, &admin_options())).expect("they are deleted");
    assert_eq!(watermarks(&brokers, topic, 0), (60, 100));
    let consumer = consumer(&brokers, &[("auto.offset.reset", "earliest")]);
    assign(&consumer, topic, 0, Offset::Offset(10));
    assert_eq!(next(&consumer).offset(), 60, "an offset that is gone leads to the first");
    cluster.restart();
    assert_eq!(watermarks(&brokers, topic, 0), (60, 100), "a restart brings nothing back");
}

fn retention_by_size_deletes_the_oldest(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "by-size");
    let settings = [("segment.bytes", "1048576"), ("retention.bytes", "2097152")];
    create_topic(&brokers, topic, 1, &settings);
    let producer = producer(&brokers, &[("batch.size", "100000")]);
    let payloads = numbered(8_000, 1_000);
    produce(&producer, topic, 0, &payloads);
    let mut low = 0;
    wait_until("the oldest records are deleted", || {
        low = watermarks(&brokers, topic, 0).0;
        low >= 4_000
    });
    assert!(low <= 6_000, "retention keeps what fits: {low}");
    let first = read_all(&brokers, topic, 0).into_iter().next().expect("a record");
    assert_eq!(first.1, payloads[usize::try_from(first.0).expect("an offset")]);
}

fn retention_by_age_deletes_the_old(cluster: &mut dyn Cluster) {
    let (brokers, topic) = (cluster.brokers(), "by-age");
    create_topic(&brokers, topic, 1, &[("retention.ms", "3600000")]);
    let producer = producer(&brokers, &[]);
    let payload = b"old".to_vec();
    let record = FutureRecord::<(), _>::to(topic).partition(0).payload(&payload);
    let old = enqueue(&producer, record.timestamp(1_300_000_000_000));
    assert!(block_on(old).expect("the producer lives").is_ok());
    wait_until("the old record is deleted", || watermarks(&brokers, topic, 0) == (1, 1));
    assert_eq!(produce(&producer, topic, 0, &numbered(1, 5)), [1], "offsets go on");
}
