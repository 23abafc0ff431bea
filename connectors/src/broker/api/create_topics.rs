//! `CreateTopics`: durable before the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::super::dispatch::Call;
use super::super::storage::{Refusal, Topic};
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut rows = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let row = CreatableTopicResult::default().with_name(topic.name.clone());
        rows.push(match create(&call, topic, request.validate_only).await {
            Ok(Some(topic)) => describe(row, &topic),
            Ok(None) => row.with_num_partitions(-1).with_replication_factor(-1),
            Err(refusal) => row
                .with_error_code(refusal.error.code())
                .with_error_message(Some(text(refusal.message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        });
    }
    CreateTopicsResponse::default().with_topics(rows)
}

async fn create(
    call: &Call,
    topic: CreatableTopic,
    validate_only: bool,
) -> Result<Option<Arc<Topic>>, Refusal> {
    if !matches!(topic.replication_factor, -1 | 1) {
        return Err(Refusal::new(
            ResponseError::InvalidReplicationFactor,
            "the embedded broker is a single node: the replication factor is 1",
        ));
    }
    let mut overrides = BTreeMap::new();
    for config in topic.configs {
        let Some(value) = config.value else { continue };
        overrides.insert(config.name.as_str().to_owned(), value.as_str().to_owned());
    }
    // A manual assignment names the partitions one by one; there is one node to put them on.
    let partitions = match topic.assignments.is_empty() {
        true => topic.num_partitions,
        false => i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX),
    };
    let storage = &call.shared.storage;
    if validate_only {
        return storage.check_topic(&topic.name, partitions, &overrides).map(|_| None);
    }
    storage.create_topic(&topic.name, partitions, overrides).await.map(Some)
}

fn describe(row: CreatableTopicResult, topic: &Topic) -> CreatableTopicResult {
    let configs = topic.settings.rows(&topic.overrides).into_iter().map(|setting| {
        CreatableTopicConfigs::default()
            .with_name(text(setting.name))
            .with_value(Some(text(setting.value)))
            .with_config_source(if setting.is_default { 5 } else { 1 })
    });
    row.with_topic_id(topic.id)
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(Some(configs.collect()))
}
