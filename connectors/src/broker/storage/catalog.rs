//! The list of topics: in memory for every request, in one file that is replaced atomically.
//!
//! Invariants: a topic is in the file only after its directories are durable; a directory whose
//! topic is not in the file is a leftover of a deletion and is removed at start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tidemill_contract::{Error, Result};
use uuid::Uuid;

use super::super::config::BrokerConfig;
use super::files::{self, failed};
use super::partition::{Partition, PartitionName, PartitionRef};
use super::recovery;
use super::settings::TopicSettings;

const CATALOG_FILE: &str = "topics.json";

/// One topic with its open partitions. Replaced as a whole when it changes.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) settings: TopicSettings,
    pub(crate) overrides: BTreeMap<String, String>,
    pub(crate) partitions: Vec<PartitionRef>,
}

impl Topic {
    /// A partition by its number.
    pub(crate) fn partition(&self, index: i32) -> Option<&PartitionRef> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// The topics of this broker, by name.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
}

impl Topics {
    /// A topic by name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    /// A topic by id.
    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        let topics = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().find(|topic| topic.id == id).map(Arc::clone)
    }

    /// All topics, sorted by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        let topics = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().map(Arc::clone).collect()
    }

    fn insert(&self, topic: Arc<Topic>) {
        let mut topics = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(topic.name.clone(), topic);
    }

    fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CatalogFile {
    cluster_id: String,
    topics: BTreeMap<String, TopicRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TopicRow {
    id: String,
    partitions: i32,
    overrides: BTreeMap<String, String>,
}

/// The durable list; owned by the log thread.
#[derive(Debug)]
pub(crate) struct Catalog {
    root: PathBuf,
    config: BrokerConfig,
    content: CatalogFile,
}

impl Catalog {
    /// Reads the list, removes leftovers, opens every partition into `topics`.
    pub(crate) fn open(config: &BrokerConfig, topics: &Topics) -> Result<Self> {
        let root = config.data_dir.clone();
        let path = root.join(CATALOG_FILE);
        // The newest list may be of a process that was killed before it synced the folder.
        files::sync_dir(&root).map_err(|error| failed("sync", &root, &error))?;
        let content = match files::read_json(&path)? {
            Some(content) => content,
            None if has_partitions(&root)? => {
                return Err(Error::corrupt(
                    "TM613",
                    format!("broker file '{}' is missing but topics are there", path.display()),
                )
                .help("restore the file from a backup, or start with an empty data directory"));
            }
            None => {
                let cluster_id = Uuid::new_v4().simple().to_string();
                let content = CatalogFile { cluster_id, topics: BTreeMap::new() };
                let written = files::replace_json(&path, &content);
                written.map_err(|error| failed("write", &path, &error))?;
                content
            }
        };
        let catalog = Self { root, config: config.clone(), content };
        catalog.remove_leftovers()?;
        for (name, row) in &catalog.content.topics {
            topics.insert(Arc::new(catalog.open_topic(name, row)?));
        }
        Ok(catalog)
    }

    /// Random id of this data directory.
    pub(crate) fn cluster_id(&self) -> &str {
        &self.content.cluster_id
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.content.topics.len()
    }

    /// Creates a topic durably; the name is valid and free.
    pub(crate) fn create(
        &mut self,
        topics: &Topics,
        name: &str,
        partitions: i32,
        overrides: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>> {
        let row = TopicRow { id: Uuid::new_v4().to_string(), partitions, overrides };
        self.create_dirs(name, &row, 0)?;
        let topic = Arc::new(self.open_topic(name, &row)?);
        self.replace(|content| {
            content.topics.insert(name.to_owned(), row);
        })?;
        topics.insert(Arc::clone(&topic));
        Ok(topic)
    }

    /// Adds partitions to a topic durably; `partitions` is larger than before.
    pub(crate) fn grow(&mut self, topics: &Topics, topic: &Topic, partitions: i32) -> Result<()> {
        let Some(row) = self.content.topics.get(&topic.name) else {
            return Ok(());
        };
        let from = row.partitions;
        let row = TopicRow { partitions, ..row.clone() };
        self.create_dirs(&topic.name, &row, from)?;
        let mut refs: Vec<PartitionRef> = topic.partitions.iter().map(Arc::clone).collect();
        for index in from..partitions {
            refs.push(Arc::new(self.open_partition(&topic.name, index, &row, topic.settings)?));
        }
        self.replace(|content| {
            content.topics.insert(topic.name.clone(), row);
        })?;
        topics.insert(Arc::new(Topic {
            name: topic.name.clone(),
            id: topic.id,
            settings: topic.settings,
            overrides: topic.overrides.clone(),
            partitions: refs,
        }));
        Ok(())
    }

    /// Deletes a topic durably, then its files.
    pub(crate) fn delete(&mut self, topics: &Topics, topic: &Topic) -> Result<()> {
        self.replace(|content| {
            content.topics.remove(&topic.name);
        })?;
        topics.remove(&topic.name);
        for partition in &topic.partitions {
            remove_dir(&partition.dir)?;
        }
        files::sync_dir(&self.root).map_err(|error| failed("sync", &self.root, &error))
    }

    fn replace(&mut self, change: impl FnOnce(&mut CatalogFile)) -> Result<()> {
        let mut content = self.content.clone();
        change(&mut content);
        let path = self.root.join(CATALOG_FILE);
        files::replace_json(&path, &content).map_err(|error| failed("write", &path, &error))?;
        self.content = content;
        Ok(())
    }

    fn create_dirs(&self, name: &str, row: &TopicRow, from: i32) -> Result<()> {
        for index in from..row.partitions {
            let dir = self.root.join(name_of(name, index).dir());
            // A leftover of a creation that failed half way holds no acknowledged record.
            remove_dir(&dir)?;
            recovery::create(&dir, &row.id)?;
        }
        files::sync_dir(&self.root).map_err(|error| failed("sync", &self.root, &error))
    }

    fn open_topic(&self, name: &str, row: &TopicRow) -> Result<Topic> {
        let settings = TopicSettings::new(&self.config, &row.overrides)
            .map_err(|reason| Error::corrupt("TM612", format!("topic '{name}': {reason}")))?;
        let id = Uuid::parse_str(&row.id)
            .map_err(|error| Error::corrupt("TM612", format!("topic '{name}': {error}")))?;
        let mut partitions = Vec::new();
        for index in 0..row.partitions {
            partitions.push(Arc::new(self.open_partition(name, index, row, settings)?));
        }
        let overrides = row.overrides.clone();
        Ok(Topic { name: name.to_owned(), id, settings, overrides, partitions })
    }

    fn open_partition(
        &self,
        topic: &str,
        index: i32,
        row: &TopicRow,
        settings: TopicSettings,
    ) -> Result<Partition> {
        let name = name_of(topic, index);
        let dir = self.root.join(name.dir());
        Partition::open(name, dir, &row.id, settings)
    }

    fn remove_leftovers(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        for (name, row) in &self.content.topics {
            known.extend((0..row.partitions).map(|index| name_of(name, index).dir()));
        }
        for dir in partition_dirs(&self.root)? {
            let is_known = dir
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| known.contains(name));
            if !is_known {
                tracing::info!(dir = %dir.display(), "removing what is left of a deleted topic");
                remove_dir(&dir)?;
            }
        }
        Ok(())
    }
}

fn name_of(topic: &str, index: i32) -> PartitionName {
    PartitionName { topic: topic.to_owned(), index }
}

/// Directories that say they hold a partition; anything else in the data directory is left alone.
fn partition_dirs(root: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root).map_err(|error| failed("list", root, &error))? {
        let path = entry.map_err(|error| failed("list", root, &error))?.path();
        if path.is_dir() && path.join("partition.json").exists() {
            dirs.push(path);
        }
    }
    Ok(dirs)
}

fn has_partitions(root: &Path) -> Result<bool> {
    Ok(!partition_dirs(root)?.is_empty())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", dir, &error)),
    }
}
