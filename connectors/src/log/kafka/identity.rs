//! Which topic it is: the id a cluster gives to a topic when it is created, so that one deleted
//! and made anew under the same name is noticed whatever its records look like.
//!
//! librdkafka knows the id but has no call for it in this binding. It tells it in one debug line,
//! "Topic orders changed id from … to …", also for the first id it hears. The clients whose
//! topic matters therefore log their metadata, and this module reads that line. The library is
//! bundled and pinned, and a test fails if the line changes. Where a cluster has no topic ids
//! (Kafka before 2.8) there is none, and callers compare records instead. It never decides
//! anything.
//!
//! The same goes for connections that are lost: what comes after is the answer of a broker that
//! may have been started again with another log, and the client reads on as if nothing had been.
//! "Broker changed state UP -> DOWN" tells it, and comes before every record fetched after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidemill_contract::Result;

use super::{LOOKUP_TIMEOUT, failure};

/// The id of "no id": base64 of sixteen zero bytes, as librdkafka writes it.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A topic as a cluster knows it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicIdentity {
    /// Differs from that of every other topic there ever was; `None` if the cluster has no ids.
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
}

/// Remembers the topic ids in the log lines of one client.
#[derive(Debug, Default)]
pub(super) struct Listener {
    ids: Mutex<BTreeMap<String, String>>,
    heard: AtomicU64,
    disconnected: AtomicBool,
}

impl Listener {
    /// Makes a client tell what [`Self::hear`] looks for.
    pub(super) fn enable(config: &mut ClientConfig) {
        config.set("debug", "metadata,broker").set_log_level(RDKafkaLogLevel::Debug);
    }

    /// Takes a log line of the client.
    pub(super) fn hear(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        if level as i32 <= RDKafkaLogLevel::Error as i32 {
            tracing::warn!(target: "librdkafka", "{facility}: {line}");
        } else if (level as i32) < RDKafkaLogLevel::Debug as i32 {
            tracing::info!(target: "librdkafka", "{facility}: {line}");
        } else if let Some((topic, id)) = changed_id(line) {
            let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
            ids.insert(topic.to_owned(), id.to_owned());
        } else if is_disconnect(line) {
            self.disconnected.store(true, Ordering::Relaxed);
        }
    }

    /// A broker that partitions may be read from was connected, and is or was not any more.
    pub(super) fn was_disconnected(&self) -> bool {
        self.disconnected.load(Ordering::Relaxed)
    }

    /// Something else than a log line came by.
    pub(super) fn note(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// How much came by so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The id heard last.
    pub(super) fn id(&self, topic: &str) -> Option<String> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(topic).filter(|id| *id != NO_ID).cloned()
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.hear(level, facility, line);
    }

    fn error(&self, _: KafkaError, _: &str) {
        self.note();
    }
}

impl ConsumerContext for Listener {}

/// Asks for a topic once, with a client of its own; `None` if there is no such topic.
pub(super) fn look_up(mut config: ClientConfig, topic: &str) -> Result<Option<TopicIdentity>> {
    Listener::enable(&mut config);
    let client: BaseConsumer<Listener> =
        config.create_with_context(Listener::default()).map_err(|e| failure::setup(&e))?;
    let Some(partitions) = partition_count(&client, topic)? else {
        return Ok(None);
    };
    loop {
        let before = client.context().heard();
        let event = client.poll(std::time::Duration::ZERO);
        if event.is_none() && client.context().heard() == before {
            break;
        }
    }
    Ok(Some(TopicIdentity { id: client.context().id(topic), partitions }))
}

/// How many partitions a topic has by the broker's word, `None` if it does not exist.
pub(super) fn partition_count<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
) -> Result<Option<i32>> {
    let fail = |e: KafkaError| failure::lookup("look up topic", topic, &e);
    let metadata = client.fetch_metadata(Some(topic), LOOKUP_TIMEOUT).map_err(fail)?;
    let Some(found) = metadata.topics().iter().find(|candidate| candidate.name() == topic) else {
        return Ok(None);
    };
    if let Some(code) = found.error() {
        let code = RDKafkaErrorCode::from(code);
        return match code {
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable => Ok(None),
            _ => Err(fail(KafkaError::MetadataFetch(code))),
        };
    }
    let count = found.partitions().len();
    Ok(i32::try_from(count).ok().filter(|count| *count > 0))
}

/// "[thrd:b1:9092/1]: b1:9092/1: Broker changed state UP -> DOWN", of a broker with a number: those
/// a client begins with, and the coordinator of its group, give no records.
fn is_disconnect(line: &str) -> bool {
    let Some((head, change)) = line.split_once(": Broker changed state ") else { return false };
    let number = head.rsplit_once('/').and_then(|(_, number)| number.parse::<i32>().ok());
    // A connection whose sign-in is renewed is one as well.
    number.is_some() && matches!(change.trim(), "UP -> DOWN" | "REAUTH -> DOWN")
}

/// Topic and new id of "[thrd:main]: Topic orders changed id from A to B".
fn changed_id(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("Topic ")?;
    let (topic, ids) = rest.split_once(" changed id from ")?;
    let (_, id) = ids.split_once(" to ")?;
    Some((topic, id.trim()))
}
