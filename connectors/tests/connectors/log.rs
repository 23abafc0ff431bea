//! The log client against the embedded broker: positions, bounds, wake-ups, delivery.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaReader, KafkaSettings, check_properties};
use tidemill_contract::{ErrorKind, LogReader, LogWriter, PartitionId, ProduceRecord, RawRecord};

async fn broker() -> (tempfile::TempDir, Broker, KafkaLog) {
    let folder = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.path().to_owned(),
        ..BrokerConfig::default()
    };
    let broker = Broker::start(config).await.unwrap();
    let brokers = broker.address().to_string();
    let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
    (folder, broker, log)
}

fn record(partition: i32, text: &str) -> ProduceRecord {
    ProduceRecord {
        partition: Some(PartitionId(partition)),
        key: Some(Bytes::from_static(b"key")),
        payload: Some(Bytes::copy_from_slice(text.as_bytes())),
        timestamp_ms: Some(1_000),
        headers: vec![("tm-unit".to_owned(), Bytes::from_static(b"file"))],
    }
}

fn read_all(reader: &mut KafkaReader, wanted: usize) -> Vec<(i32, RawRecord)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut records = Vec::new();
    while records.len() < wanted {
        assert!(Instant::now() < deadline, "only {} of {wanted} records came", records.len());
        for partition in reader.partitions() {
            let batch = reader.poll(partition, 500, 1 << 20).unwrap();
            records.extend(batch.iter().map(|record| (partition.0, record.to_record())));
        }
        reader.wait(Duration::from_millis(50));
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_in_order() {
    let (_folder, broker, log) = broker().await;
    assert_eq!(log.partitions("orders").await.unwrap(), None);
    assert_eq!(log.ensure_topic("orders", 3, &[]).await.unwrap(), 3);
    assert_eq!(log.ensure_topic("orders", 7, &[]).await.unwrap(), 3, "it keeps what it has");

    let writer = log.writer().unwrap();
    for n in 0..3000 {
        writer.append("orders", record(n % 3, &format!("row {n}"))).await.unwrap();
    }
    writer.append("orders", ProduceRecord { payload: None, ..record(0, "") }).await.unwrap();
    writer.flush().await.unwrap();

    let marks = log.watermarks("orders").await.unwrap();
    assert_eq!(marks, BTreeMap::from([(0, (0, 1001)), (1, (0, 1000)), (2, (0, 1000))]));
    let start = BTreeMap::from([(0, 0), (1, 400), (2, 1000)]);
    let reading = log.clone();
    let (records, reader) = tokio::task::spawn_blocking(move || {
        let mut reader = reading.reader("orders", "test", &start).unwrap();
        assert_eq!(reader.end_offset(PartitionId(1)), Some(1000));
        (read_all(&mut reader, 1601), reader)
    })
    .await
    .unwrap();
    for (partition, first) in [(0, 0), (1, 400)] {
        let offsets: Vec<i64> =
            records.iter().filter(|(at, _)| *at == partition).map(|(_, r)| r.offset).collect();
        assert_eq!(offsets, (first..first + offsets.len() as i64).collect::<Vec<_>>());
    }
    let (_, sample) = records.iter().find(|(at, _)| *at == 1).unwrap();
    assert_eq!(sample.payload.as_deref(), Some(&b"row 1201"[..]));
    assert_eq!(sample.key.as_deref(), Some(&b"key"[..]));
    assert_eq!(sample.timestamp_ms, 1_000);
    assert_eq!(sample.headers, vec![("tm-unit".to_owned(), Bytes::from_static(b"file"))]);
    assert_eq!(records.iter().filter(|(_, record)| record.payload.is_none()).count(), 1);

    drop(reader);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_wakes_a_waiting_reader() {
    let (_folder, broker, log) = broker().await;
    log.ensure_topic("orders", 3, &[]).await.unwrap();
    let writer = log.writer().unwrap();
    let start = BTreeMap::from([(0, 0), (1, 0), (2, 0)]);
    let waiting = tokio::task::spawn_blocking(move || {
        let mut reader = log.reader("orders", "test", &start).unwrap();
        let asked = Instant::now();
        let records = read_all(&mut reader, 1);
        reader.report_progress(&[(PartitionId(2), 1)]);
        (records, asked.elapsed(), reader.end_offset(PartitionId(2)))
    });
    writer.append("orders", record(2, "late")).await.unwrap();
    writer.flush().await.unwrap();
    let (records, took, end) = waiting.await.unwrap();
    assert_eq!((records[0].0, records[0].1.offset), (2, 0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(end, Some(1));
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_read_whole() {
    let (_folder, broker, log) = broker().await;
    log.ensure_topic("alerts", 2, &[]).await.unwrap();
    let writer = log.writer().unwrap();
    for n in 0..100 {
        writer.append("alerts", record(n % 2, &n.to_string())).await.unwrap();
    }
    writer.flush().await.unwrap();
    let from = BTreeMap::from([(0, 10), (1, 50)]);
    let to = BTreeMap::from([(0, 20), (1, 50)]);
    let records = log.read_range("alerts", &from, &to).await.unwrap();
    let offsets: Vec<i64> = records.iter().map(|(_, record)| record.offset).collect();
    assert_eq!(offsets, (10..20).collect::<Vec<_>>());
    assert!(log.read_range("alerts", &to, &to).await.unwrap().is_empty());

    let at = log.offsets_for_time("alerts", 0).await.unwrap();
    assert_eq!(at, BTreeMap::from([(0, 0), (1, 0)]));
    let at = log.offsets_for_time("alerts", 5_000).await.unwrap();
    assert_eq!(at, BTreeMap::from([(0, 50), (1, 50)]));
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_outside_the_log_is_named() {
    let (_folder, broker, log) = broker().await;
    log.ensure_topic("orders", 1, &[]).await.unwrap();
    let error = log.reader("orders", "test", &BTreeMap::from([(0, 5)])).unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM501"));
    assert!(error.message.contains("offset 5 of partition 0"), "{error}");
    assert!(error.message.contains("[0, 0)"), "{error}");
    let error = log.watermarks("nothing").await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::NotFound, "TM511"));
    let error = log.ensure_topic("no spaces", 1, &[]).await.unwrap_err();
    assert_eq!(error.code, "TM513");
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_poll_hold_and_nothing_is_forgotten() {
    let (_folder, broker, log) = broker().await;
    log.ensure_topic("orders", 1, &[]).await.unwrap();
    let writer = log.writer().unwrap();
    for n in 0..50 {
        writer.append("orders", record(0, &format!("{n:0100}"))).await.unwrap();
    }
    writer.flush().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut reader = log.reader("orders", "test", &BTreeMap::from([(0, 0)])).unwrap();
        let mut next = 0;
        let deadline = Instant::now() + Duration::from_secs(30);
        while next < 50 {
            assert!(Instant::now() < deadline);
            let batch = reader.poll(PartitionId(0), 7, 500).unwrap();
            assert!(batch.len() <= 7);
            assert!(batch.iter().map(|r| r.payload().unwrap().len()).sum::<usize>() <= 700);
            for record in batch.iter() {
                assert_eq!(record.offset(), next);
                next += 1;
            }
            assert_eq!(batch.next_offset, next);
            if !batch.is_empty() {
                // More is queued: waiting must not sleep.
                let asked = Instant::now();
                if next < 50 {
                    reader.wait(Duration::from_secs(5));
                    assert!(asked.elapsed() < Duration::from_secs(4));
                }
            } else {
                reader.wait(Duration::from_millis(100));
            }
        }
        assert!(reader.poll(PartitionId(3), 1, 1).is_err(), "not assigned");
    })
    .await
    .unwrap();
    broker.stop().await.unwrap();
}

#[test]
fn properties_pass_an_allow_list() {
    let check = |key: &str| check_properties(&BTreeMap::from([(key.to_owned(), "x".to_owned())]));
    for key in [
        "plugin.library.paths",
        "sasl.kerberos.kinit.cmd",
        "ssl.ca.location",
        "ssl.engine.location",
        "sasl.oauthbearer.token.endpoint.url",
        "enable.ssl.certificate.verification",
        "enable.idempotence",
        "auto.offset.reset",
        "transactional.id",
    ] {
        assert_eq!(check(key).unwrap_err().code, "TM520", "{key}");
    }
    check("sasl.password").unwrap();
    let settings = KafkaSettings {
        brokers: "127.0.0.1:1".to_owned(),
        properties: BTreeMap::from([("sasl.password".to_owned(), "hush-hush".to_owned())]),
    };
    assert!(!format!("{settings:?}").contains("hush-hush"));
}

#[tokio::test]
async fn no_broker_is_an_error_not_a_hang() {
    let settings = KafkaSettings { brokers: "127.0.0.1:1".to_owned(), properties: BTreeMap::new() };
    let log = KafkaLog::new(settings).unwrap();
    let asked = Instant::now();
    let error = log.partitions("orders").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_has_another_id() {
    let (_folder, broker, log) = broker().await;
    assert_eq!(log.topic("orders").await.unwrap(), None);
    log.ensure_topic("orders", 2, &[]).await.unwrap();
    let first = log.topic("orders").await.unwrap().unwrap();
    assert_eq!(first.partitions, 2);
    assert!(first.id.is_some(), "librdkafka tells the id in another form now");
    assert_eq!(log.topic("orders").await.unwrap().unwrap(), first);
    let start = BTreeMap::from([(0, 0)]);
    let mut reader = tokio::task::block_in_place(|| log.reader("orders", "test", &start).unwrap());
    for _ in 0..2 {
        let seen = tokio::task::block_in_place(|| reader.identity().unwrap());
        assert_eq!(seen, first);
    }
    delete_topic(&broker, "orders").await;
    let gone = tokio::task::block_in_place(|| reader.identity().unwrap_err());
    assert_eq!(gone.code, "TM502");
    log.ensure_topic("orders", 3, &[]).await.unwrap();
    let second = log.topic("orders").await.unwrap().unwrap();
    assert_ne!(second.id, first.id);
    let seen = tokio::task::block_in_place(|| reader.identity().unwrap());
    assert_eq!(seen, second);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_known_before_what_is_read_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let start_at = async |port: u32| {
        let config = BrokerConfig {
            // None of those a system gives to clients: it must be free again later.
            listen: format!("127.0.0.1:{port}").parse().unwrap(),
            data_dir: folder.path().to_owned(),
            ..BrokerConfig::default()
        };
        Broker::start(config).await
    };
    let mut port = 10_000 + std::process::id() % 900;
    let broker = loop {
        match start_at(port).await {
            Ok(broker) => break broker,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        port += 1;
    };
    let brokers = broker.address().to_string();
    let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
    log.ensure_topic("orders", 1, &[]).await.unwrap();
    let append = async |text: &str| {
        let writer = log.writer().unwrap();
        writer.append("orders", record(0, text)).await.unwrap();
        writer.flush().await.unwrap();
    };
    append("before").await;
    let start = BTreeMap::from([(0, 0)]);
    let mut reader = tokio::task::block_in_place(|| log.reader("orders", "test", &start).unwrap());
    assert_eq!(tokio::task::block_in_place(|| read_all(&mut reader, 1)).len(), 1);
    assert!(!reader.was_disconnected(), "nothing was lost yet");
    broker.stop().await.unwrap();
    let broker = loop {
        match start_at(port).await {
            Ok(broker) => break broker,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    append("after").await;
    assert_eq!(tokio::task::block_in_place(|| read_all(&mut reader, 1)).len(), 1);
    assert!(reader.was_disconnected(), "librdkafka tells of it in another form now");
    broker.stop().await.unwrap();
}

async fn delete_topic(broker: &Broker, topic: &str) {
    let admin: rdkafka::admin::AdminClient<_> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker.address().to_string())
        .create::<rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>>()
        .unwrap();
    let options = rdkafka::admin::AdminOptions::new();
    admin.delete_topics(&[topic], &options).await.unwrap()[0].as_ref().unwrap();
}
