//! Step 2 of a publication: records appended to topics, each id once.
//!
//! It never relies on transactions or on the memory of an earlier process: what is there already
//! is read back from the topic itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use tidemill_connectors::{failpoint, log::kafka::KafkaLog};
use tidemill_contract::{ErrorKind, LogWriter, Result};

use super::TopicFloor;
use crate::outbox::{ID_HEADER, Outbox, OutboxTarget};

/// Ids found per topic.
pub(super) type Present = HashMap<String, HashSet<Bytes>>;

/// Low and high watermark per partition; empty if there is no such topic.
pub(super) async fn ends(log: &KafkaLog, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    match log.watermarks(topic).await {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(BTreeMap::new()),
        answer => answer,
    }
}

/// The ids that are in some topics already. Only what lies at or above `floor` can be
/// of this epoch.
pub(super) async fn present(
    log: &KafkaLog,
    topics: &BTreeSet<&str>,
    floor: &TopicFloor,
) -> Result<Present> {
    let mut found = Present::new();
    for topic in topics.iter().copied() {
        let ends = ends(log, topic).await?;
        let known = floor.get(topic);
        let mut from = BTreeMap::new();
        let mut to = BTreeMap::new();
        for (partition, (low, high)) in ends {
            let start = known.and_then(|offsets| offsets.get(&partition)).copied().unwrap_or(low);
            // A floor beyond the end is of a topic that was made anew since.
            let start = if start > high { low } else { start.max(low) };
            from.insert(partition, start);
            to.insert(partition, high);
        }
        let records = log.read_range(topic, &from, &to).await?;
        let ids = records.into_iter().flat_map(|(_, record)| record.headers);
        let ids = ids.filter(|(name, _)| name == ID_HEADER).map(|(_, id)| id);
        found.insert(topic.to_owned(), ids.collect());
    }
    Ok(found)
}

/// Appends the records for the given topics, in order, except those present, and waits until all are
/// acknowledged.
pub(super) async fn append(
    writer: &impl LogWriter,
    outbox: &Outbox,
    topics: &BTreeSet<&str>,
    present: &Present,
) -> Result<()> {
    failpoint::reached("publish.before_topics")?;
    for (target, record) in outbox.iter() {
        let OutboxTarget::Topic { name } = target else {
            continue;
        };
        if !topics.contains(name.as_str()) {
            continue;
        }
        let is_there = present.get(name).is_some_and(|ids| ids.contains(record.id.as_bytes()));
        if !is_there {
            writer.append(name, record.to_produce()).await?;
        }
    }
    failpoint::reached("publish.appended")?;
    writer.flush().await?;
    failpoint::reached("publish.after_topics")
}
