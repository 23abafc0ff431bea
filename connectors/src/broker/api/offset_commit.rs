//! `OffsetCommit`: durable before the answer; a member of an old generation is refused.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::super::dispatch::Call;
use super::super::group::MemberRef;
use super::super::storage::{Committed, Entry};
use super::code;

/// As in Apache Kafka (`offset.metadata.max.bytes`).
const METADATA_BYTES_MAX: usize = 4_096;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let member = MemberRef {
        id: request.member_id.as_str().to_owned(),
        instance_id: request.group_instance_id.map(|id| id.as_str().to_owned()),
        generation: request.generation_id_or_member_epoch,
    };
    let mut verdict = call.shared.groups.may_commit(&request.group_id, &member);
    let mut entries = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let index = partition.partition_index;
            let metadata = partition.committed_metadata.unwrap_or_default();
            let checked = check(&call, &topic.name, index, metadata.len());
            if checked.is_ok() {
                entries.push(Entry {
                    group: request.group_id.as_str().to_owned(),
                    topic: topic.name.as_str().to_owned(),
                    partition: index,
                    committed: Some(Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.as_str().to_owned(),
                    }),
                });
            }
            rows.push((index, checked));
        }
        topics.push((topic.name, rows));
    }
    if verdict.is_ok() && !entries.is_empty() {
        verdict = call.shared.storage.commit(entries).await;
    }
    let topics = topics.into_iter().map(|(name, rows)| {
        let rows = rows.into_iter().map(|(index, checked)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code(verdict.and(checked)))
        });
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(rows.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn check(call: &Call, topic: &str, index: i32, metadata: usize) -> Result<(), ResponseError> {
    if call.shared.storage.partition(topic, index).is_none() {
        return Err(ResponseError::UnknownTopicOrPartition);
    }
    match metadata > METADATA_BYTES_MAX {
        true => Err(ResponseError::OffsetMetadataTooLarge),
        false => Ok(()),
    }
}
