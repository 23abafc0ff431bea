//! `ListOffsets`: the first, the last, the one at a time, the one with the largest time.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::super::dispatch::Call;
use super::super::storage::PartitionRef;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const LARGEST_TIME: i64 = -3;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let index = wanted.partition_index;
            let partition = call.shared.storage.partition(&topic.name, index);
            let found = match partition {
                Some(partition) => find(partition, wanted.timestamp).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            let row = ListOffsetsPartitionResponse::default().with_partition_index(index);
            rows.push(match found {
                Ok((offset, timestamp)) => row
                    .with_offset(offset)
                    .with_timestamp(timestamp)
                    .with_leader_epoch(if offset < 0 || call.version < 4 { -1 } else { 0 }),
                Err(error) => row.with_error_code(error.code()).with_offset(-1).with_timestamp(-1),
            });
        }
        topics
            .push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(rows));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// Offset and time; -1 for "none".
async fn find(partition: PartitionRef, timestamp: i64) -> Result<(i64, i64), ResponseError> {
    let (log_start, high_watermark) = partition.bounds();
    match timestamp {
        LATEST => return Ok((high_watermark, -1)),
        EARLIEST => return Ok((log_start, -1)),
        LARGEST_TIME | 0.. => {}
        _ => return Err(ResponseError::UnsupportedVersion),
    }
    let search = tokio::task::spawn_blocking(move || match timestamp {
        LARGEST_TIME => partition.offset_of_max_time(),
        _ => partition.offset_for_time(timestamp),
    });
    let found = search.await.unwrap_or(Err(ResponseError::UnknownServerError))?;
    Ok(found.unwrap_or((-1, -1)))
}
