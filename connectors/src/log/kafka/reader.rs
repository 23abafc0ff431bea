//! Reads one topic partition by partition, from explicit offsets.
//!
//! Why one queue per partition: the job decides which partition may run ahead in event time, so
//! records of the others must not stand in its way. It never commits what it rests on (group
//! offsets are for dashboards) and never skips: an offset outside the log is an error that names
//! the gap.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::{Offset, TopicPartitionList};
use tidemill_contract::{Error, LogReader, PartitionId, RawBatch, Records as _, Result};

use super::batch::Queue;
use super::contact::Contact;
use super::failure::{self, Reaction};
use super::identity::{self, Listener, TopicIdentity};
use super::{KafkaSettings, LOOKUP_TIMEOUT, properties};

/// How often the main queue is served at least while partitions are polled.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);
/// Records taken from the client at once: enough that their number does not matter, few enough
/// that large ones are not far beyond what was asked for.
const RECORDS_AT_ONCE: usize = 512;
/// How often an empty partition behind its end is asked for its position (control records move it
/// without giving a record).
const POSITION_INTERVAL: Duration = Duration::from_millis(200);

/// A reader of some partitions of one topic.
pub struct KafkaReader {
    topic: String,
    // Before `consumer`: queues must go before the client they belong to.
    queues: BTreeMap<i32, Partition>,
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
    served: Instant,
    position_asked: Instant,
    failed: Option<Error>,
}

struct Partition {
    records: Queue<Context>,
    /// Wakes the reader; never polled.
    _waker: PartitionQueue<Context>,
    next_offset: i64,
}

/// What librdkafka's threads tell the reader.
#[derive(Default)]
struct Shared {
    ready: Mutex<bool>,
    wake: Condvar,
    ends: Mutex<BTreeMap<i32, i64>>,
    contact: Mutex<Contact>,
}

impl Shared {
    fn signal(&self) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    fn hear_end(&self, partition: i32, end: i64) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ends.entry(partition).or_insert(end);
        *known = end.max(*known);
    }
}

struct Context {
    topic: String,
    shared: Arc<Shared>,
    listener: Listener,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.listener.hear(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.listener.note();
        tracing::debug!(topic = %self.topic, %error, reason, "the log client reports an error");
    }

    fn stats(&self, statistics: Statistics) {
        self.listener.note();
        let mut contact = self.shared.contact.lock().unwrap_or_else(PoisonError::into_inner);
        contact.judge(&statistics, &self.topic);
        drop(contact);
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        for (partition, stats) in &topic.partitions {
            // With read_committed nothing beyond the last stable offset can be read.
            let end = if stats.ls_offset >= 0 { stats.ls_offset } else { stats.hi_offset };
            if *partition >= 0 && end >= 0 {
                self.shared.hear_end(*partition, end);
            }
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.listener.note();
        if let Err(error) = result {
            tracing::debug!(topic = %self.topic, %error, "progress was not taken");
        }
    }
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader")
            .field("topic", &self.topic)
            .field("partitions", &self.queues.keys())
            .finish_non_exhaustive()
    }
}

impl KafkaReader {
    pub(super) fn open(
        settings: &KafkaSettings,
        buffer_bytes: Option<usize>,
        topic: &str,
        group: &str,
        start: &BTreeMap<i32, i64>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let context = Context {
            topic: topic.to_owned(),
            shared: Arc::clone(&shared),
            listener: Listener::default(),
        };
        let mut config = properties::reader(settings, group, buffer_bytes, start.len());
        Listener::enable(&mut config);
        let consumer: BaseConsumer<Context> =
            config.create_with_context(context).map_err(|e| failure::setup(&e))?;
        let consumer = Arc::new(consumer);

        let mut assignment = TopicPartitionList::new();
        let mut queues = BTreeMap::new();
        for (partition, offset) in start {
            let (low, high) = super::bounds(&consumer, topic, *partition)
                .map_err(|e| failure::lookup("read the offsets of topic", topic, &e))?;
            if *offset < low || *offset > high {
                return Err(outside(topic, *partition, *offset, low, high));
            }
            shared.hear_end(*partition, high);
            assignment
                .add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|e| failure::lookup("assign topic", topic, &e))?;
            // Split before the assignment: no record can reach the main queue in between.
            let missing = || {
                Error::internal(format!("no queue for partition {partition} of topic '{topic}'"))
            };
            let split = consumer.split_partition_queue(topic, *partition);
            let mut split = split.ok_or_else(missing)?;
            let waker = Arc::clone(&shared);
            split.set_nonempty_callback(move || waker.signal());
            let records = Queue::of(&consumer, topic, *partition).ok_or_else(missing)?;
            queues.insert(*partition, Partition { records, _waker: split, next_offset: *offset });
        }
        consumer.assign(&assignment).map_err(|e| failure::lookup("assign topic", topic, &e))?;
        let now = Instant::now();
        Ok(Self {
            topic: topic.to_owned(),
            queues,
            consumer,
            shared,
            served: now,
            position_asked: now,
            failed: None,
        })
    }

    /// The next offset that will be given out, `None` for a partition that is not assigned.
    pub fn next_offset(&self, partition: PartitionId) -> Option<i64> {
        self.queues.get(&partition.0).map(|queue| queue.next_offset)
    }

    /// What keeps the reader from reading, if the brokers have been out of reach for some time.
    /// It reads on by itself when they are back.
    pub fn trouble(&self) -> Option<String> {
        let contact = self.shared.contact.lock().unwrap_or_else(PoisonError::into_inner);
        contact.trouble().map(|error| error.to_string())
    }

    /// A connection to a broker with a partition of the topic was lost since the reader was opened:
    /// what it gives out may be of a log that was cut and grew again meanwhile. If it was not,
    /// then everything given out so far was fetched before.
    pub fn was_disconnected(&mut self) -> bool {
        self.serve();
        self.consumer.context().listener.was_disconnected()
    }

    /// The topic as it is now: asks the broker, so it blocks for a round trip. Every record given
    /// out before is of the topic with this id or of one that was there before it.
    ///
    /// # Errors
    /// `TM502` if the topic is gone, or if the broker does not answer.
    pub fn identity(&mut self) -> Result<TopicIdentity> {
        let partitions = identity::partition_count(&self.consumer, &self.topic)?;
        self.serve();
        let id = self.consumer.context().listener.id(&self.topic);
        let gone = || Error::corrupt("TM502", format!("topic '{}' is gone", self.topic));
        partitions.map(|partitions| TopicIdentity { id, partitions }).ok_or_else(gone)
    }

    /// Serves the main queue: statistics, errors, log events. Records never come this way.
    fn serve(&mut self) {
        self.served = Instant::now();
        loop {
            // One call takes one event, and says nothing of those that only the context heard.
            let before = self.consumer.context().listener.heard();
            match self.consumer.poll(Duration::ZERO) {
                None if self.consumer.context().listener.heard() == before => return,
                None => {}
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    self.failed.get_or_insert(Error::internal(format!(
                        "record {offset} of partition {partition} came by the wrong queue"
                    )));
                }
                Some(Err(error)) => match failure::react(&self.topic, &error) {
                    Reaction::Fail(error) => {
                        self.failed.get_or_insert(error);
                    }
                    Reaction::Ignore | Reaction::OutOfRange => {}
                },
            }
        }
    }

    fn out_of_range(&self, partition: i32, asked: i64) -> Error {
        match self.consumer.fetch_watermarks(&self.topic, partition, LOOKUP_TIMEOUT) {
            Ok((low, high)) => outside(&self.topic, partition, asked, low, high),
            Err(error) => Error::corrupt(
                "TM501",
                format!("offset {asked} of partition {partition} is not in topic '{}'", self.topic),
            )
            .because(format!("the log's bounds are unknown: {error}")),
        }
    }

    /// Control records and compaction move the position without giving a record.
    fn skip_to_position(&mut self, partition: i32) {
        if self.position_asked.elapsed() < POSITION_INTERVAL {
            return;
        }
        self.position_asked = Instant::now();
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        let found = positions.find_partition(&self.topic, partition).map(|entry| entry.offset());
        if let (Some(Offset::Offset(position)), Some(entry)) =
            (found, self.queues.get_mut(&partition))
        {
            entry.next_offset = entry.next_offset.max(position);
        }
    }
}

fn outside(topic: &str, partition: i32, asked: i64, low: i64, high: i64) -> Error {
    let lost = if asked < low {
        format!("records [{asked}, {low}) are gone")
    } else {
        "the topic was cut or made anew".to_owned()
    };
    Error::corrupt(
        "TM501",
        format!(
            "offset {asked} of partition {partition} is not in topic '{topic}', \
             which holds [{low}, {high})"
        ),
    )
    .because(lost)
    .help("restore the topic, or drop and create the source again to start from what is there")
}

impl LogReader for KafkaReader {
    fn partitions(&self) -> Vec<PartitionId> {
        self.queues.keys().map(|partition| PartitionId(*partition)).collect()
    }

    fn poll(
        &mut self,
        partition: PartitionId,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<RawBatch> {
        if self.served.elapsed() >= SERVE_INTERVAL {
            self.serve();
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(entry) = self.queues.get_mut(&partition.0) else {
            return Err(Error::internal(format!(
                "partition {} of topic '{}' is not assigned",
                partition.0, self.topic
            )));
        };
        let mut batch = entry.records.batch();
        let (mut bytes, mut drained) = (0, false);
        while !drained && batch.len() < max_records && bytes < max_bytes {
            let first = batch.len();
            let most = (max_records - first).min(RECORDS_AT_ONCE);
            drained = entry.records.take(most, &mut batch) < most;
            let next_offset = &mut entry.next_offset;
            let topic = &self.topic;
            let failure = batch.sort_out(
                first,
                |offset| {
                    // A record seen before (after a reconnect) must not come twice.
                    let is_new = offset >= *next_offset;
                    if is_new {
                        *next_offset = offset + 1;
                    }
                    is_new
                },
                |error| match failure::react(topic, &error) {
                    Reaction::Ignore => None,
                    reaction => Some(reaction),
                },
            );
            match failure {
                Some(Reaction::OutOfRange) => {
                    let asked = entry.next_offset;
                    return Err(self.out_of_range(partition.0, asked));
                }
                Some(Reaction::Fail(error)) => return Err(error),
                Some(Reaction::Ignore) | None => {}
            }
            bytes += batch.bytes(first);
        }
        let next_offset = entry.next_offset;
        if !drained {
            // More may be queued and no callback will say so.
            self.shared.signal();
        } else if batch.is_empty() && self.end_offset(partition) > Some(next_offset) {
            self.skip_to_position(partition.0);
        }
        let next_offset = self.next_offset(partition).unwrap_or(next_offset);
        Ok(RawBatch::new(partition, Box::new(batch), next_offset))
    }

    fn wait(&mut self, at_most: Duration) {
        self.serve();
        let ready = self.shared.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut ready, _) = self
            .shared
            .wake
            .wait_timeout_while(ready, at_most, |ready| !*ready)
            .unwrap_or_else(PoisonError::into_inner);
        *ready = false;
    }

    fn end_offset(&self, partition: PartitionId) -> Option<i64> {
        let ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.next_offset(partition)?;
        ends.get(&partition.0).map(|end| next.max(*end))
    }

    fn report_progress(&mut self, next: &[(PartitionId, i64)]) {
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            let offset = Offset::Offset(*offset);
            if let Err(error) = offsets.add_partition_offset(&self.topic, partition.0, offset) {
                tracing::debug!(topic = %self.topic, %error, "progress cannot be reported");
                return;
            }
        }
        if let Err(error) = self.consumer.commit(&offsets, CommitMode::Async) {
            tracing::debug!(topic = %self.topic, %error, "progress cannot be reported");
        }
    }
}
