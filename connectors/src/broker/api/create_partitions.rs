//! `CreatePartitions`: raises the number of partitions of a topic.

use std::sync::Arc;

use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::super::dispatch::Call;
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut rows = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let grown = match request.validate_only {
            true => Ok(()),
            false => call.shared.storage.add_partitions(&topic.name, topic.count).await,
        };
        let row = CreatePartitionsTopicResult::default().with_name(topic.name);
        rows.push(match grown {
            Ok(()) => row,
            Err(refusal) => row
                .with_error_code(refusal.error.code())
                .with_error_message(Some(text(refusal.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(rows)
}
