//! Client properties: ours, and the allow-list for those of users.
//!
//! librdkafka can load libraries, read files and run commands when told to by a property, so
//! what is not on the list is refused; ours always win over a user's where correctness rests on
//! them.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use tidemill_contract::{Error, Result};

use super::KafkaSettings;

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

/// A reader: explicit positions, nothing automatic, small pauses, bounded queues.
pub(super) fn reader(settings: &KafkaSettings, group: &str) -> ClientConfig {
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
    or_default(&mut config, "queued.max.messages.kbytes", "16384");
    or_default(&mut config, "fetch.wait.max.ms", "100");
    or_default(&mut config, "fetch.message.max.bytes", "4194304");
    config
}

/// A writer: idempotent, acknowledged by all replicas, bounded buffer.
pub(super) fn writer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = base(settings, |key| !CONSUMER_ONLY.contains(&key) && key != "group.id");
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.kbytes", "65536")
        .set("queue.buffering.max.messages", "200000");
    if !settings.properties.contains_key("linger.ms") {
        or_default(&mut config, "queue.buffering.max.ms", "5");
    }
    if !settings.properties.contains_key("compression.codec") {
        or_default(&mut config, "compression.type", "lz4");
    }
    or_default(&mut config, "delivery.timeout.ms", "120000");
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
    or_default(&mut config, "reconnect.backoff.ms", "50");
    or_default(&mut config, "reconnect.backoff.max.ms", "1000");
    config
}

fn or_default(config: &mut ClientConfig, key: &str, value: &str) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}
