//! The log on Kafka: topics, positions, readers and writers over librdkafka.
//!
//! Why one type for all: readers, writers and look-ups share one checked set of client properties.
//! It never trusts consumer-group offsets (the caller says where to read) and never creates a
//! topic by accident.

mod batch;
mod contact;
mod failure;
mod identity;
mod properties;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_contract::{Error, LogReader, PartitionId, RawRecord, Result};

pub use failure::is_loss;
pub use identity::TopicIdentity;
pub use properties::{ALLOWED as ALLOWED_PROPERTIES, check as check_properties};
pub use reader::KafkaReader;
pub use writer::KafkaWriter;

use identity::partition_count;

/// How long a look-up at the broker may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a freshly created topic may take to show up in the metadata.
const CREATION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a partition that exists may be unknown to some, and how often it is asked for.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
const SETTLE_STEP: Duration = Duration::from_millis(50);
/// How long a bounded scan may go without a single new record.
const SCAN_STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Records and bytes taken per turn of a bounded scan.
const SCAN_RECORDS: usize = 10_000;
const SCAN_BYTES: usize = 8 << 20;

/// Where the brokers are and the client properties on top of ours.
#[derive(Clone, Default)]
pub struct KafkaSettings {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// librdkafka properties; only those of [`ALLOWED_PROPERTIES`] are taken.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(key, value)| {
                let secret = properties::is_secret(key);
                (key.as_str(), if secret { "[redacted]" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &shown)
            .finish()
    }
}

/// Administration of one Kafka cluster, and the factory of its readers and writers.
#[derive(Clone)]
pub struct KafkaLog {
    settings: Arc<KafkaSettings>,
    admin: Arc<AdminClient<DefaultClientContext>>,
    lookup: Arc<BaseConsumer>,
    /// Bytes a reader or writer may hold, `None` for the clients' defaults.
    buffer_bytes: Option<usize>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Checks the properties and creates the clients. Connects in the background: the first
    /// look-up fails if no broker answers.
    ///
    /// # Errors
    /// `TM520` for a property outside the allow-list or one librdkafka refuses.
    pub fn new(settings: KafkaSettings) -> Result<Self> {
        check_properties(&settings.properties)?;
        let admin = properties::client(&settings).create().map_err(|e| failure::setup(&e))?;
        let lookup = properties::lookup(&settings).create().map_err(|e| failure::setup(&e))?;
        let (settings, admin, lookup) = (Arc::new(settings), Arc::new(admin), Arc::new(lookup));
        Ok(Self { settings, admin, lookup, buffer_bytes: None })
    }

    /// Bounds what each reader and each writer holds: the reader's over all its partitions.
    #[must_use]
    pub fn buffering(mut self, bytes: usize) -> Self {
        self.buffer_bytes = Some(bytes);
        self
    }

    /// Another cluster, with the same bounds.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_settings(&self, settings: KafkaSettings) -> Result<Self> {
        Ok(Self { buffer_bytes: self.buffer_bytes, ..Self::new(settings)? })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    /// Creates the topic unless it exists; returns the number of partitions it really has.
    ///
    /// # Errors
    /// If the broker does not answer or refuses the topic.
    pub async fn ensure_topic(
        &self,
        topic: &str,
        partitions: i32,
        properties: &[(&str, &str)],
    ) -> Result<i32> {
        check_topic_name(topic)?;
        if let Some(count) = self.partitions(topic).await? {
            return Ok(count);
        }
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (key, value) in properties {
            new = new.set(key, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(LOOKUP_TIMEOUT))
            .operation_timeout(Some(LOOKUP_TIMEOUT));
        let results = self
            .admin
            .create_topics([&new], &options)
            .await
            .map_err(|e| failure::lookup("create topic", topic, &e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(failure::lookup("create topic", &name, &error));
                }
            }
        }
        let deadline = Instant::now() + CREATION_TIMEOUT;
        loop {
            if let Some(count) = self.partitions(topic).await? {
                return Ok(count);
            }
            if Instant::now() > deadline {
                return Err(Error::unavailable(
                    "TM510",
                    format!("topic '{topic}' was created but does not show up"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many partitions a topic has, `None` if there is no such topic.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let name = topic.to_owned();
        self.blocking(move |client| partition_count(client, &name)).await
    }

    /// The topic there is under a name now, `None` if there is none. Slow (a client of its own):
    /// for the start of a reader and for what is asked rarely.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn topic(&self, topic: &str) -> Result<Option<TopicIdentity>> {
        let (config, name) = (properties::lookup(&self.settings), topic.to_owned());
        join(tokio::task::spawn_blocking(move || identity::look_up(config, &name)).await)
    }

    /// Whether the broker removes records of the topic that newer ones of their key replace.
    ///
    /// # Errors
    /// If the broker does not answer. A broker that does not say counts as "no".
    pub async fn is_compacted(&self, topic: &str) -> Result<bool> {
        let options = AdminOptions::new().request_timeout(Some(LOOKUP_TIMEOUT));
        let wanted = [ResourceSpecifier::Topic(topic)];
        let found = self
            .admin
            .describe_configs(&wanted, &options)
            .await
            .map_err(|e| failure::lookup("read the settings of topic", topic, &e))?;
        let policy = |config: &ConfigResource| {
            config.get("cleanup.policy").and_then(|entry| entry.value.clone())
        };
        Ok(found
            .iter()
            .filter_map(|config| policy(config.as_ref().ok()?))
            .any(|policy| policy.split(',').any(|word| word.trim() == "compact")))
    }

    /// `(log start, log end)` of each partition; the end is the last stable offset.
    ///
    /// # Errors
    /// `TM511` if the topic does not exist, or if the broker does not answer.
    pub async fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
        let name = topic.to_owned();
        self.blocking(move |client| {
            let mut marks = BTreeMap::new();
            for partition in 0..existing_partitions(client, &name)? {
                let pair = bounds(client, &name, partition)
                    .map_err(|e| failure::lookup("read the offsets of topic", &name, &e))?;
                marks.insert(partition, pair);
            }
            Ok(marks)
        })
        .await
    }

    /// For each partition the first offset whose record time is at or after `ms`, the log's end if
    /// there is none.
    ///
    /// # Errors
    /// `TM511` if the topic does not exist, or if the broker does not answer.
    pub async fn offsets_for_time(&self, topic: &str, ms: i64) -> Result<BTreeMap<i32, i64>> {
        let name = topic.to_owned();
        self.blocking(move |client| {
            let fail = |e: KafkaError| failure::lookup("find offsets by time in topic", &name, &e);
            let mut asked = TopicPartitionList::new();
            for partition in 0..existing_partitions(client, &name)? {
                asked.add_partition_offset(&name, partition, Offset::Offset(ms)).map_err(fail)?;
            }
            let found = client.offsets_for_times(asked, LOOKUP_TIMEOUT).map_err(fail)?;
            let mut offsets = BTreeMap::new();
            for element in found.elements() {
                element.error().map_err(fail)?;
                let partition = element.partition();
                let offset = match element.offset() {
                    Offset::Offset(offset) => offset,
                    _ => client.fetch_watermarks(&name, partition, LOOKUP_TIMEOUT).map_err(fail)?.1,
                };
                offsets.insert(partition, offset);
            }
            Ok(offsets)
        })
        .await
    }

    /// A reader of exactly the partitions in `start`, each from its offset. Asks the broker for
    /// the log ends, so it blocks for a round trip: call it from a thread that may.
    ///
    /// # Errors
    /// `TM501` if an offset is outside the log, or if the broker does not answer.
    pub fn reader(
        &self,
        topic: &str,
        group: &str,
        start: &BTreeMap<i32, i64>,
    ) -> Result<KafkaReader> {
        KafkaReader::open(&self.settings, self.buffer_bytes, topic, group, start)
    }

    /// An idempotent writer with its own client.
    ///
    /// # Errors
    /// `TM520` if librdkafka refuses the properties.
    pub fn writer(&self) -> Result<KafkaWriter> {
        KafkaWriter::open(&self.settings, self.buffer_bytes, writer::Pace::Batches)
    }

    /// As [`Self::writer`], for few records that somebody waits for: none waits for others.
    ///
    /// # Errors
    /// As [`Self::writer`].
    pub fn prompt_writer(&self) -> Result<KafkaWriter> {
        KafkaWriter::open(&self.settings, self.buffer_bytes, writer::Pace::AtOnce)
    }

    /// Reads `[from, to)` of every partition in `from` whole into memory: for recovery, where the
    /// range is what one publication may have left behind.
    ///
    /// # Errors
    /// Like [`Self::reader`]; `TM512` if the log stops giving records before `to`.
    pub async fn read_range(
        &self,
        topic: &str,
        from: &BTreeMap<i32, i64>,
        to: &BTreeMap<i32, i64>,
    ) -> Result<Vec<(i32, RawRecord)>> {
        let ends: BTreeMap<i32, i64> = to.clone();
        let start: BTreeMap<i32, i64> = from
            .iter()
            .filter(|(partition, offset)| ends.get(*partition).is_some_and(|end| *offset < end))
            .map(|(partition, offset)| (*partition, *offset))
            .collect();
        if start.is_empty() {
            return Ok(Vec::new());
        }
        let log = self.clone();
        let name = topic.to_owned();
        join(
            tokio::task::spawn_blocking(move || {
                let group = format!("tidemill-scan-{}", uuid::Uuid::new_v4());
                scan(log.reader(&name, &group, &start)?, &name, &ends)
            })
            .await,
        )
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BaseConsumer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let client = Arc::clone(&self.lookup);
        join(tokio::task::spawn_blocking(move || work(&client)).await)
    }
}

fn join<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|e| Err(Error::internal(format!("a log look-up panicked: {e}"))))
}

/// Log start and end of one partition. One that is new is not known everywhere at once.
fn bounds<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> KafkaResult<(i64, i64)> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        match client.fetch_watermarks(topic, partition, LOOKUP_TIMEOUT) {
            Err(error) if is_unsettled(&error) && Instant::now() < deadline => {
                // Waits a moment; clients that ask for bounds have no records to give.
                drop(client.poll(SETTLE_STEP));
                client.fetch_metadata(Some(topic), LOOKUP_TIMEOUT)?;
            }
            outcome => return outcome,
        }
    }
}

fn is_unsettled(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
        )
    )
}

fn existing_partitions(client: &BaseConsumer, topic: &str) -> Result<i32> {
    partition_count(client, topic)?.ok_or_else(|| {
        Error::new(
            tidemill_contract::ErrorKind::NotFound,
            "TM511",
            format!("topic '{topic}' does not exist"),
        )
    })
}

/// Kafka takes `[a-zA-Z0-9._-]`, at most 249 characters.
fn check_topic_name(topic: &str) -> Result<()> {
    let fits = !topic.is_empty()
        && topic.len() <= 249
        && topic != "."
        && topic != ".."
        && topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(Error::invalid("TM513", format!("'{topic}' is not a valid topic name"))
        .help("use letters, digits, '.', '_' and '-', at most 249 of them"))
}

fn scan(
    mut reader: KafkaReader,
    topic: &str,
    ends: &BTreeMap<i32, i64>,
) -> Result<Vec<(i32, RawRecord)>> {
    let mut open: Vec<PartitionId> = reader.partitions();
    let mut records = Vec::new();
    let mut heard = Instant::now();
    while !open.is_empty() {
        let mut still_open = Vec::with_capacity(open.len());
        for partition in open {
            let end = ends.get(&partition.0).copied().unwrap_or(0);
            let before = reader.next_offset(partition);
            let batch = reader.poll(partition, SCAN_RECORDS, SCAN_BYTES)?;
            if before != Some(batch.next_offset) {
                heard = Instant::now();
            }
            let fitting = batch.iter().filter(|record| record.offset() < end);
            records.extend(fitting.map(|record| (partition.0, record.to_record())));
            if batch.next_offset < end {
                still_open.push(partition);
            }
        }
        open = still_open;
        if heard.elapsed() > SCAN_STALL_TIMEOUT {
            return Err(Error::unavailable(
                "TM512",
                format!("topic '{topic}' gave no record for {SCAN_STALL_TIMEOUT:?}"),
            ));
        }
        if !open.is_empty() {
            reader.wait(Duration::from_millis(20));
        }
    }
    Ok(records)
}
