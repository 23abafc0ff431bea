//! `DeleteTopics`: the topic, its records and the offsets committed for it.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use super::super::dispatch::Call;
use super::super::storage::Refusal;
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let named = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState::default().with_name(Some(name)));
    let mut rows = Vec::new();
    for wanted in request.topics.into_iter().chain(named) {
        rows.push(delete(&call, wanted).await);
    }
    DeleteTopicsResponse::default().with_responses(rows)
}

async fn delete(call: &Call, wanted: DeleteTopicState) -> DeletableTopicResult {
    let storage = &call.shared.storage;
    let by_name = wanted.name.as_ref().map(|name| name.as_str().to_owned());
    let name = by_name
        .or_else(|| storage.tables.topics.by_id(wanted.topic_id).map(|topic| topic.name.clone()));
    let deleted = match &name {
        Some(name) => storage.delete_topic(name).await,
        None => Err(Refusal::new(ResponseError::UnknownTopicId, "no topic has this id")),
    };
    let row = DeletableTopicResult::default()
        .with_name(Some(TopicName(text(name.unwrap_or_default()))))
        .with_topic_id(if call.version >= 6 { wanted.topic_id } else { Uuid::nil() });
    match deleted {
        Ok(()) => row,
        Err(refusal) => {
            // Only version 5 and later carry a message.
            let message = (call.version >= 5).then(|| text(refusal.message));
            row.with_error_code(refusal.error.code()).with_error_message(message)
        }
    }
}
