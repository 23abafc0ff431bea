//! `OffsetFetch`: what groups committed; -1 where nothing was.

use std::sync::Arc;

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};

use super::super::dispatch::Call;
use super::super::storage::{Committed, OffsetTable};
use super::text;

/// Per topic: partitions and what was committed there.
type Found = Vec<(TopicName, Vec<(i32, Option<Committed>)>)>;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let offsets = &call.shared.storage.tables.offsets;
    if call.version < 8 {
        let wanted = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
        });
        let topics = find(offsets, &request.group_id, wanted).into_iter().map(|(name, rows)| {
            let rows = rows.into_iter().map(|(index, committed)| old_row(index, committed));
            OffsetFetchResponseTopic::default().with_name(name).with_partitions(rows.collect())
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let groups = request.groups.into_iter().map(|group| {
        let wanted = group.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
        });
        let topics = find(offsets, &group.group_id, wanted).into_iter().map(|(name, rows)| {
            let rows = rows.into_iter().map(|(index, committed)| row(index, committed));
            OffsetFetchResponseTopics::default().with_name(name).with_partitions(rows.collect())
        });
        let topics = topics.collect();
        OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics)
    });
    OffsetFetchResponse::default().with_groups(groups.collect())
}

/// `wanted` of `None` means everything the group committed.
fn find(offsets: &OffsetTable, group: &str, wanted: Option<Vec<(TopicName, Vec<i32>)>>) -> Found {
    let Some(wanted) = wanted else {
        let all = offsets.of_group(group).into_iter().map(|(topic, rows)| {
            let rows = rows.into_iter().map(|(index, committed)| (index, Some(committed)));
            (TopicName(text(topic)), rows.collect())
        });
        return all.collect();
    };
    let rows = |topic: &TopicName, indexes: Vec<i32>| {
        let row = |index| (index, offsets.get(group, topic, index));
        indexes.into_iter().map(row).collect()
    };
    wanted
        .into_iter()
        .map(|(topic, indexes)| {
            let rows = rows(&topic, indexes);
            (topic, rows)
        })
        .collect()
}

fn row(index: i32, committed: Option<Committed>) -> OffsetFetchResponsePartitions {
    let row = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match committed {
        Some(committed) => row
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(committed.metadata))),
        None => row
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(text(""))),
    }
}

fn old_row(index: i32, committed: Option<Committed>) -> OffsetFetchResponsePartition {
    let new = row(index, committed);
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(new.committed_offset)
        .with_committed_leader_epoch(new.committed_leader_epoch)
        .with_metadata(new.metadata)
}
