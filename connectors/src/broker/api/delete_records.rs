//! `DeleteRecords`: moves the start of a partition's log.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::super::dispatch::Call;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let storage = &call.shared.storage;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut rows = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let index = wanted.partition_index;
            let deleted = match storage.partition(&topic.name, index) {
                Some(partition) => storage.delete_records(partition, wanted.offset).await,
                None => Err(ResponseError::UnknownTopicOrPartition),
            };
            let row = DeleteRecordsPartitionResult::default().with_partition_index(index);
            rows.push(match deleted {
                Ok(log_start) => row.with_low_watermark(log_start),
                Err(error) => row.with_low_watermark(-1).with_error_code(error.code()),
            });
        }
        topics
            .push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(rows));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}
