//! `OffsetForLeaderEpoch`: there was ever one leader, epoch 0, and it ends at the end of the log.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::super::dispatch::Call;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let rows = topic.partitions.iter().map(|wanted| {
            let row = EpochEndOffset::default().with_partition(wanted.partition);
            match call.shared.storage.partition(&topic.topic, wanted.partition) {
                None => row
                    .with_error_code(ResponseError::UnknownTopicOrPartition.code())
                    .with_leader_epoch(-1)
                    .with_end_offset(-1),
                Some(_) if wanted.leader_epoch != 0 => {
                    row.with_leader_epoch(-1).with_end_offset(-1)
                }
                Some(partition) => row.with_leader_epoch(0).with_end_offset(partition.bounds().1),
            }
        });
        let rows = rows.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(rows)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
