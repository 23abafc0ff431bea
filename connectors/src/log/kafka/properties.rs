//! Client properties: ours, and the allow-list for those of users.
//!
//! librdkafka can load libraries, read files and run commands when told to by a property, so
//! what is not on the list is refused; ours always win over a user's where correctness rests on
//! them.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use tidemill_contract::{Error, Result};

use super::{KafkaSettings, writer::Pace};

/// Properties users may set. No file names, no plug-ins, no commands, no URLs.
pub const ALLOWED: &[&str] = &[
    "batch.size",
    "bootstrap.servers",
    "broker.address.family",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.type",
    "connections.max.idle.ms",
    "delivery.timeout.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "group.id",
    "linger.ms",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.timeout.ms",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.key.password",
    "ssl.key.pem",
];

/// Most bytes a reader keeps ready per partition, and the least.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_BYTES_MIN: usize = 256 << 10;
/// Bytes the client needs for each queued record beside its own.
const RECORD_OVERHEAD: usize = 512;
/// Bytes a reader asks for per partition at a time, at most.
const FETCH_BYTES: usize = 4 << 20;
/// Bytes one answer of a broker may have: librdkafka's default.
const ANSWER_BYTES: usize = 50 << 20;
/// Bytes a writer holds that are not acknowledged.
const BUFFER_BYTES: usize = 64 << 20;

/// Properties that only make sense for one kind of client; librdkafka warns about the others.
const PRODUCER_ONLY: &[&str] = &[
    "batch.size",
    "compression.codec",
    "compression.type",
    "delivery.timeout.ms",
    "linger.ms",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "retry.backoff.ms",
];
const CONSUMER_ONLY: &[&str] = &[
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "max.partition.fetch.bytes",
    "queued.max.messages.kbytes",
];

/// Fails on the first property that is not on the list.
///
/// # Errors
/// `TM520` naming the property.
pub fn check(properties: &BTreeMap<String, String>) -> Result<()> {
    match properties.keys().find(|key| !ALLOWED.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::invalid("TM520", format!("kafka property '{key}' is not allowed"))
            .because("it could read files, run commands or break delivery guarantees")
            .help(format!("allowed: {}", ALLOWED.join(", ")))),
    }
}

/// Whether a value must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    key.contains("password") || key.ends_with(".pem") || key.contains("username")
}

/// The base of every client: users' properties first, so that ours win.
pub(super) fn client(settings: &KafkaSettings) -> ClientConfig {
    base(settings, |key| !PRODUCER_ONLY.contains(&key) && !CONSUMER_ONLY.contains(&key))
}

/// A client without a group, for metadata and offsets.
pub(super) fn lookup(settings: &KafkaSettings) -> ClientConfig {
    let mut config = client(settings);
    config.set("isolation.level", "read_committed");
    config
}

/// A reader: explicit positions, nothing automatic, small pauses, bounded queues. `buffer_bytes`
/// are shared by all partitions: librdkafka's own limit holds for each.
pub(super) fn reader(
    settings: &KafkaSettings,
    group: &str,
    buffer_bytes: Option<usize>,
    partitions: usize,
) -> ClientConfig {
    let mut config = base(settings, |key| !PRODUCER_ONLY.contains(&key));
    let group = settings.properties.get("group.id").map_or(group, String::as_str);
    config
        .set("group.id", group)
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        // The default of 1 s makes a full local queue cost a second each time.
        .set("fetch.queue.backoff.ms", "2")
        .set("statistics.interval.ms", "500");
    or_default(&mut config, "fetch.wait.max.ms", "100");
    let total = buffer_bytes.unwrap_or(QUEUE_BYTES * partitions.max(1));
    let each = (total / partitions.max(1)).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES);
    or_default(&mut config, "queued.max.messages.kbytes", &(each / 1024).to_string());
    let records = (each / RECORD_OVERHEAD).clamp(1_000, 100_000);
    config.set("queued.min.messages", records.to_string());
    let is_sized = ["fetch.message.max.bytes", "max.partition.fetch.bytes"]
        .iter()
        .any(|key| settings.properties.contains_key(*key));
    if !is_sized {
        // Compressed records come as many times more.
        let fetch = (each / 16).clamp(QUEUE_BYTES_MIN / 2, FETCH_BYTES).to_string();
        or_default(&mut config, "fetch.message.max.bytes", &fetch);
    }
    if let Some(total) = buffer_bytes {
        // One answer of a broker is for many partitions; a single larger record still comes.
        let answer = total.clamp(1 << 20, ANSWER_BYTES);
        or_default(&mut config, "fetch.max.bytes", &answer.to_string());
    }
    config
}

/// A writer: idempotent, acknowledged by all replicas, bounded buffer.
pub(super) fn writer(
    settings: &KafkaSettings,
    buffer_bytes: Option<usize>,
    pace: Pace,
) -> ClientConfig {
    let buffer = buffer_bytes.unwrap_or(BUFFER_BYTES).clamp(QUEUE_BYTES_MIN, BUFFER_BYTES);
    let mut config = base(settings, |key| !CONSUMER_ONLY.contains(&key) && key != "group.id");
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.kbytes", (buffer / 1024).to_string())
        .set("queue.buffering.max.messages", "200000");
    if !settings.properties.contains_key("linger.ms") {
        let wait_ms = match pace {
            Pace::Batches => "5",
            Pace::AtOnce => "0",
        };
        or_default(&mut config, "queue.buffering.max.ms", wait_ms);
    }
    if !settings.properties.contains_key("compression.codec") {
        or_default(&mut config, "compression.type", "lz4");
    }
    // Never given up: see `writer`.
    or_default(&mut config, "delivery.timeout.ms", "0");
    or_default(&mut config, "message.max.bytes", "16777216");
    config
}

fn base(settings: &KafkaSettings, fits: impl Fn(&str) -> bool) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &settings.properties {
        if fits(key) {
            config.set(key, value);
        }
    }
    if !settings.brokers.is_empty() {
        config.set("bootstrap.servers", &settings.brokers);
    }
    config.set("topic.metadata.refresh.interval.ms", "10000").set("metadata.max.age.ms", "30000");
    or_default(&mut config, "client.id", "tidemill");
    // The default of 60 s keeps a connection that leads nowhere for a minute.
    or_default(&mut config, "socket.timeout.ms", "10000");
    or_default(&mut config, "reconnect.backoff.ms", "50");
    or_default(&mut config, "reconnect.backoff.max.ms", "1000");
    config
}

fn or_default(config: &mut ClientConfig, key: &str, value: &str) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}
