//! Whether the topics of a feed still hold what its book says is in them.
//!
//! Why it matters: which rows of an unfinished unit are there already is learnt from the topic. If
//! a part of it is gone, rows could be fed twice; if the topic was made anew, units the book calls
//! finished are not in it. Either stops the feed before it appends anything. What the jobs had not
//! read of a finished unit they report themselves.

use std::collections::BTreeMap;

use tidemill_contract::{Error, Result};

use super::{Feed, book::Book};

/// Ids of the topics now; one without an id is left out.
pub(super) async fn topic_ids(feed: &Feed) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    for topic in [&feed.topic, &feed.dead_topic] {
        let found = feed.log.topic(topic).await?;
        ids.extend(found.and_then(|found| Some((topic.clone(), found.id?))));
    }
    Ok(ids)
}

/// What is wrong, `None` if the topics continue what the book says.
pub(super) async fn find(
    feed: &Feed,
    book: &Book,
    ids: &BTreeMap<String, String>,
) -> Result<Option<Error>> {
    let mut reasons = Vec::new();
    for (topic, floor) in book.floor() {
        if let (Some(then), Some(now)) = (book.topic_ids().get(topic), ids.get(topic))
            && then != now
        {
            reasons.push(format!("topic '{topic}' was deleted and made anew"));
            continue;
        }
        let marks = feed.log.watermarks(topic).await?;
        for (partition, floor) in floor {
            match marks.get(partition) {
                None => reasons.push(format!("partition {partition} of '{topic}' is gone")),
                // Jobs quarantine there too, and what is old may go.
                Some((low, _)) if floor < low && *topic == feed.dead_topic => {
                    tracing::warn!(topic, floor, low, "quarantined rows were deleted");
                }
                Some((low, _)) if floor < low => reasons.push(format!(
                    "records [{floor}, {low}) of partition {partition} of '{topic}' are deleted"
                )),
                Some((_, high)) if high < floor => reasons.push(format!(
                    "partition {partition} of '{topic}' was cut from {floor} to {high}"
                )),
                Some(_) => {}
            }
        }
    }
    Ok((!reasons.is_empty()).then(|| error(feed, &reasons.join("; "))))
}

/// Where the rows of unfinished units begin once a loss is accepted, and in new topics: their end.
pub(super) async fn accepted_floor(
    feed: &Feed,
    book: &Book,
    ids: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, BTreeMap<i32, i64>>> {
    let mut floors = BTreeMap::new();
    for topic in [&feed.topic, &feed.dead_topic] {
        let known = book.floor().get(topic);
        let is_other = book.topic_ids().get(topic).is_some_and(|id| ids.get(topic) != Some(id));
        let floor = |(partition, (low, high)): (i32, (i64, i64))| {
            let known = known.map(|known| known.get(&partition).copied().unwrap_or(low));
            let floor = match known {
                None => high,
                Some(_) if is_other => low,
                Some(known) => known.clamp(low, high),
            };
            (partition, floor)
        };
        let marks = feed.log.watermarks(topic).await?;
        floors.insert(topic.clone(), marks.into_iter().map(floor).collect());
    }
    Ok(floors)
}

/// The topic must be the same from the first row of a unit to its last.
pub(super) async fn check_same(feed: &Feed, ids: &BTreeMap<String, String>) -> Result<()> {
    let now = feed.log.topic(&feed.topic).await?.and_then(|found| found.id);
    match (ids.get(&feed.topic), now) {
        (Some(then), Some(now)) if *then != now => {
            let what = format!("topic '{}' was deleted and made anew while it was fed", feed.topic);
            Err(error(feed, &what))
        }
        _ => Ok(()),
    }
}

fn error(feed: &Feed, reason: &str) -> Error {
    let source = &feed.source;
    let what = format!("DATA LOSS: what was fed of source '{source}' is not all in its topic");
    Error::corrupt("TM501", what).because(reason).help(format!(
        "RECOVER SOURCE {source} FROM EARLIEST or LATEST goes on: finished units are not fed again, \
         the unit that was being fed is fed again from its first row"
    ))
}
