//! `Produce`: check the batches, hand them to the log, answer when they are durable.
//!
//! Every batch is handed over before the next request of the connection is read, so pipelined
//! requests keep their order and share a sync. `acks=1` waits for the sync like `acks=all` does.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, TopicName};
use tidemill_contract::Result;
use tokio::sync::oneshot;

use super::super::dispatch::{self, Call, Pending};
use super::super::storage::{PartitionRef, Placed, batch};
use super::text;

type Answer = oneshot::Receiver<Result<Placed, ResponseError>>;

/// One partition of the request on its way.
struct Started {
    index: i32,
    outcome: Result<(PartitionRef, Answer), ResponseError>,
}

/// Starts the appends; the pending answer waits for them.
pub(in super::super) async fn start(mut call: Call) -> Result<Pending> {
    let request: ProduceRequest = dispatch::decode(&mut call)?;
    let refusal = refusal(&request);
    let acks = request.acks;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for TopicProduceData { name, partition_data, .. } in request.topic_data {
        let mut partitions = Vec::with_capacity(partition_data.len());
        for data in partition_data {
            let index = data.index;
            let outcome = match refusal {
                Some(error) => Err(error),
                None => append(&call, &name, data).await,
            };
            partitions.push(Started { index, outcome });
        }
        topics.push((name, partitions));
    }
    if acks == 0 {
        return Ok(Pending::Silent);
    }
    Ok(Pending::Answer(Box::pin(async move {
        let mut responses = Vec::with_capacity(topics.len());
        for (name, started) in topics {
            responses.push(finish(name, started).await);
        }
        dispatch::reply(&call, &ProduceResponse::default().with_responses(responses))
    })))
}

fn refusal(request: &ProduceRequest) -> Option<ResponseError> {
    if request.transactional_id.is_some() {
        return Some(ResponseError::TransactionalIdAuthorizationFailed);
    }
    (!matches!(request.acks, -1..=1)).then_some(ResponseError::InvalidRequiredAcks)
}

async fn append(
    call: &Call,
    topic: &str,
    data: PartitionProduceData,
) -> Result<(PartitionRef, Answer), ResponseError> {
    let storage = &call.shared.storage;
    let partition = storage.partition(topic, data.index);
    let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let records = data.records.ok_or(ResponseError::InvalidRecord)?;
    let batches = batch::split(&records, partition.settings.message_bytes_max)?;
    let answer = storage.append(PartitionRef::clone(&partition), batches).await;
    Ok((partition, answer))
}

async fn finish(name: TopicName, started: Vec<Started>) -> TopicProduceResponse {
    let mut rows = Vec::with_capacity(started.len());
    for Started { index, outcome } in started {
        let row = PartitionProduceResponse::default().with_index(index);
        let placed = match outcome {
            // Without an answer the log thread is gone: nothing is known to be durable.
            Ok((partition, answer)) => answer
                .await
                .unwrap_or(Err(ResponseError::BrokerNotAvailable))
                .map(|placed| (placed, partition.bounds().0)),
            Err(error) => Err(error),
        };
        rows.push(match placed {
            Ok((placed, log_start)) => {
                row.with_base_offset(placed.base_offset).with_log_start_offset(log_start)
            }
            Err(error) => row
                .with_error_code(error.code())
                .with_base_offset(-1)
                .with_error_message(message(error).map(text)),
        });
    }
    TopicProduceResponse::default().with_name(name).with_partition_responses(rows)
}

fn message(error: ResponseError) -> Option<&'static str> {
    match error {
        ResponseError::TransactionalIdAuthorizationFailed | ResponseError::InvalidTxnState => {
            Some("the embedded broker has no transactions; use Apache Kafka")
        }
        ResponseError::InvalidRecord => Some("the batch header contradicts its records"),
        ResponseError::KafkaStorageError => {
            Some("the broker cannot write to its disk; it may be full; try again later")
        }
        _ => None,
    }
}
