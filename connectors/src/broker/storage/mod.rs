//! What the broker keeps: topics, partitions, committed offsets, producer ids.
//!
//! Everything is read from shared tables and changed by one thread, the log thread. [`Storage`] is
//! the async side: it sends commands and waits for answers that come after the sync.
//!
//! Layout under the data directory:
//! ```text
//! lock                    held while a broker runs here
//! topics.json             names, ids, partition counts, overrides
//! offsets.log             committed offsets of groups
//! producer-ids.json       end of the reserved block of producer ids
//! <topic>-<partition>/    partition.json (topic id, log start), <base offset>.log ...
//! ```

mod appender;
pub(super) mod batch;
mod buffers;
mod catalog;
mod files;
mod log_thread;
mod offsets;
mod partition;
mod producer_ids;
mod producers;
mod reader;
mod recovery;
mod retention;
mod segment;
mod settings;
mod write_buffer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Arc;
use std::thread::JoinHandle;

use kafka_protocol::ResponseError;
use tidemill_contract::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

pub(super) use appender::Placed;
pub(super) use buffers::Buffers;
pub(super) use catalog::{Topic, Topics};
pub(super) use offsets::{Committed, Entry, OffsetTable};
pub(super) use partition::PartitionRef;
pub(super) use reader::{Limit, Overrun, Slice};
pub(super) use settings::TopicSettings;

use super::config::{BrokerConfig, PARTITIONS_MAX, TOPICS_MAX};
use batch::Batch;
use catalog::Catalog;
use log_thread::{Append, Command, Commit, LogThread};
use offsets::OffsetFile;
use producer_ids::ProducerIds;

/// Commands that may wait for the log thread; more make the senders wait.
const COMMANDS_MAX: usize = 1_024;

/// What every request may read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) topics: Topics,
    pub(super) offsets: OffsetTable,
}

type TablesRef = Arc<Tables>;

/// Why an administrative request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: ResponseError,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    fn storage(error: &Error) -> Self {
        tracing::error!(error = %error, "could not change the list of topics");
        Self::new(ResponseError::KafkaStorageError, error.to_string())
    }

    fn stopping() -> Self {
        Self::new(ResponseError::BrokerNotAvailable, "the broker is stopping")
    }
}

/// The async side of the store.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) tables: TablesRef,
    pub(super) cluster_id: String,
    config: BrokerConfig,
    commands: mpsc::Sender<Command>,
}

/// The running log thread and the lock on the data directory.
#[derive(Debug)]
pub(super) struct StorageThread {
    thread: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    _lock: File,
}

impl StorageThread {
    /// Lets the log thread finish what it was asked and waits for it. Blocks.
    pub(super) fn stop(self) -> Result<()> {
        drop(self.commands.blocking_send(Command::Stop));
        self.thread.join().map_err(|_| Error::internal("the broker's log thread panicked"))
    }
}

impl Storage {
    /// Opens the data directory, recovers it and starts the log thread. Blocks.
    pub(super) fn open(config: &BrokerConfig) -> Result<(Self, StorageThread)> {
        let root = &config.data_dir;
        // Whatever is acknowledged is in there: its own entry must be durable too, whoever made it.
        crate::store::make_folders(root)
            .and_then(|()| match root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => files::sync_dir(parent),
                None => Ok(()),
            })
            .map_err(|error| files::failed("create", root, &error))?;
        let lock = lock(config)?;
        let tables = TablesRef::default();
        let catalog = Catalog::open(config, &tables.topics)?;
        let offset_file = OffsetFile::open(root.join("offsets.log"), &tables.offsets)?;
        let partitions = tables.topics.all();
        let partitions = partitions.iter().flat_map(|topic| &topic.partitions);
        let largest_id = partitions.filter_map(|one| one.largest_producer_id()).max();
        let producer_ids = ProducerIds::open(root.join("producer-ids.json"), largest_id)?;
        let cluster_id = catalog.cluster_id().to_owned();
        let log_thread =
            LogThread { tables: Arc::clone(&tables), catalog, offset_file, producer_ids };
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let thread = std::thread::Builder::new()
            .name("broker-log".to_owned())
            .spawn(move || log_thread.run(receiver))
            .map_err(|error| files::failed("start the log thread for", root, &error))?;
        let storage =
            Self { tables, cluster_id, config: config.clone(), commands: commands.clone() };
        Ok((storage, StorageThread { thread, commands, _lock: lock }))
    }

    /// A topic by name.
    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.tables.topics.get(name)
    }

    /// A partition by topic and number.
    pub(super) fn partition(&self, topic: &str, index: i32) -> Option<PartitionRef> {
        self.topic(topic)?.partition(index).map(Arc::clone)
    }

    /// Queues checked batches; the answer comes once they are durable.
    pub(super) async fn append(
        &self,
        partition: PartitionRef,
        batches: Vec<Batch>,
    ) -> oneshot::Receiver<Result<Placed, ResponseError>> {
        let (reply, answer) = oneshot::channel();
        // If the log thread has gone, the reply is dropped and the receiver says so.
        drop(self.commands.send(Command::Append(Append { partition, batches, reply })).await);
        answer
    }

    /// Commits offsets durably.
    pub(super) async fn commit(&self, entries: Vec<Entry>) -> Result<(), ResponseError> {
        let (reply, answer) = oneshot::channel();
        drop(self.commands.send(Command::Commit(Commit { entries, reply })).await);
        answer.await.unwrap_or(Err(ResponseError::BrokerNotAvailable))
    }

    /// Creates a topic. `partitions` of -1 means the default.
    pub(super) async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        overrides: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, Refusal> {
        let partitions = self.check_topic(name, partitions, &overrides)?;
        let name = name.to_owned();
        self.run(move |log| {
            if log.tables.topics.get(&name).is_some() {
                let message = format!("topic '{name}' exists already");
                return Err(Refusal::new(ResponseError::TopicAlreadyExists, message));
            }
            if log.catalog.len() >= TOPICS_MAX {
                let message = format!("this broker holds at most {TOPICS_MAX} topics");
                return Err(Refusal::new(ResponseError::PolicyViolation, message));
            }
            let created = log.catalog.create(&log.tables.topics, &name, partitions, overrides);
            created.map_err(|error| Refusal::storage(&error))
        })
        .await
    }

    /// Checks what `create_topic` would check, and returns the number of partitions.
    pub(super) fn check_topic(
        &self,
        name: &str,
        partitions: i32,
        overrides: &BTreeMap<String, String>,
    ) -> Result<i32, Refusal> {
        if !is_topic_name(name) {
            let message =
                format!("'{name}' is not a topic name: use 1 to 200 of a-z A-Z 0-9 . _ -");
            return Err(Refusal::new(ResponseError::InvalidTopicException, message));
        }
        if self.topic(name).is_some() {
            let message = format!("topic '{name}' exists already");
            return Err(Refusal::new(ResponseError::TopicAlreadyExists, message));
        }
        let partitions = if partitions == -1 { self.config.default_partitions } else { partitions };
        check_count(partitions)?;
        TopicSettings::new(&self.config, overrides)
            .map_err(|reason| Refusal::new(ResponseError::InvalidConfig, reason))?;
        Ok(partitions)
    }

    /// Deletes a topic with its records and the offsets committed for it.
    pub(super) async fn delete_topic(&self, name: &str) -> Result<(), Refusal> {
        let name = name.to_owned();
        self.run(move |log| {
            let topic = log.tables.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
            let deleted = log.catalog.delete(&log.tables.topics, &topic);
            deleted.map_err(|error| Refusal::storage(&error))?;
            let entries = log.tables.offsets.deletions_of_topic(&name);
            log.commit_now(entries).map_err(|error| Refusal::new(error, "offsets were kept"))
        })
        .await
    }

    /// Raises the number of partitions of a topic to `count`.
    pub(super) async fn add_partitions(&self, name: &str, count: i32) -> Result<(), Refusal> {
        check_count(count)?;
        let name = name.to_owned();
        self.run(move |log| {
            let topic = log.tables.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
            let present = topic.partitions.len();
            if usize::try_from(count).unwrap_or(0) <= present {
                let message = format!("topic '{name}' has {present} partitions already");
                return Err(Refusal::new(ResponseError::InvalidPartitions, message));
            }
            let grown = log.catalog.grow(&log.tables.topics, &topic, count);
            grown.map_err(|error| Refusal::storage(&error))
        })
        .await
    }

    /// Moves the log start of a partition and returns the new one.
    pub(super) async fn delete_records(
        &self,
        partition: PartitionRef,
        offset: i64,
    ) -> Result<i64, ResponseError> {
        let deleted = self
            .run(move |_| partition.delete_records(offset).map_err(|error| Refusal::new(error, "")))
            .await;
        deleted.map_err(|refusal| refusal.error)
    }

    /// A producer id never given before.
    pub(super) async fn next_producer_id(&self) -> Result<i64, ResponseError> {
        let next =
            self.run(|log| log.producer_ids.next().map_err(|error| Refusal::storage(&error))).await;
        next.map_err(|refusal| refusal.error)
    }

    /// Applies retention now.
    pub(super) async fn retain(&self) {
        let done = self
            .run(|log| {
                log.retain();
                Ok(())
            })
            .await;
        if let Err(refusal) = done {
            tracing::debug!(reason = refusal.message, "retention did not run");
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut LogThread) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let task = Box::new(move |log: &mut LogThread| drop(reply.send(task(log))));
        drop(self.commands.send(Command::Task(task)).await);
        answer.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }
}

fn unknown_topic(name: &str) -> Refusal {
    Refusal::new(ResponseError::UnknownTopicOrPartition, format!("no topic named '{name}'"))
}

fn check_count(partitions: i32) -> Result<(), Refusal> {
    match (1..=PARTITIONS_MAX).contains(&partitions) {
        true => Ok(()),
        false => Err(Refusal::new(
            ResponseError::InvalidPartitions,
            format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}"),
        )),
    }
}

/// Whether a name is safe as a topic and as a directory name; some room is left for the suffix.
pub(super) fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= 200
        && name != "."
        && name != ".."
        && name.bytes().all(allowed)
}

fn lock(config: &BrokerConfig) -> Result<File> {
    let path = config.data_dir.join("lock");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| files::failed("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Conflict,
            "TM614",
            format!("data directory '{}' is in use", config.data_dir.display()),
        )
        .because("another broker runs on it")
        .help("stop the other process or choose another data directory")),
        Err(fs::TryLockError::Error(error)) => Err(files::failed("lock", &path, &error)),
    }
}
