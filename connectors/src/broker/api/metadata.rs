//! `Metadata`: the one node, its topics and partitions; may create a missing topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use uuid::Uuid;

use super::super::config::NODE_ID;
use super::super::dispatch::Call;
use super::super::storage::Topic;
use super::{advertised, text};

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: MetadataRequest,
) -> MetadataResponse {
    let storage = &call.shared.storage;
    let topics = match request.topics {
        // Version 0 says "all" with an empty list.
        Some(wanted) if !(wanted.is_empty() && call.version == 0) => {
            let may_create =
                request.allow_auto_topic_creation && call.shared.config.auto_create_topics;
            let mut rows = Vec::with_capacity(wanted.len());
            for topic in wanted {
                rows.push(one(&call, topic, may_create).await);
            }
            rows
        }
        _ => storage.tables.topics.all().iter().map(|topic| describe(topic)).collect(),
    };
    let (host, port) = advertised(&call.shared, &call.peer);
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(NODE_ID))
        .with_host(host)
        .with_port(port);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(storage.cluster_id.clone())))
        .with_controller_id(BrokerId(NODE_ID))
        .with_topics(topics)
}

async fn one(call: &Call, wanted: MetadataRequestTopic, may_create: bool) -> MetadataResponseTopic {
    let storage = &call.shared.storage;
    let Some(name) = wanted.name else {
        return match storage.tables.topics.by_id(wanted.topic_id) {
            Some(topic) => describe(&topic),
            None => failed(None, wanted.topic_id, ResponseError::UnknownTopicId),
        };
    };
    if let Some(topic) = storage.topic(&name) {
        return describe(&topic);
    }
    if !may_create {
        let error = match super::super::storage::is_topic_name(&name) {
            true => ResponseError::UnknownTopicOrPartition,
            false => ResponseError::InvalidTopicException,
        };
        return failed(Some(name), Uuid::nil(), error);
    }
    match storage.create_topic(&name, -1, BTreeMap::new()).await {
        Ok(topic) => describe(&topic),
        // Another client was faster.
        Err(refusal) if refusal.error == ResponseError::TopicAlreadyExists => {
            match storage.topic(&name) {
                Some(topic) => describe(&topic),
                None => failed(Some(name), Uuid::nil(), ResponseError::LeaderNotAvailable),
            }
        }
        Err(refusal) => failed(Some(name), Uuid::nil(), refusal.error),
    }
}

fn failed(name: Option<TopicName>, id: Uuid, error: ResponseError) -> MetadataResponseTopic {
    // Versions before 12 cannot leave the name out.
    let name = name.or_else(|| Some(TopicName::default()));
    MetadataResponseTopic::default().with_error_code(error.code()).with_name(name).with_topic_id(id)
}

fn describe(topic: &Topic) -> MetadataResponseTopic {
    let node = BrokerId(NODE_ID);
    let partitions = topic.partitions.iter().map(|partition| {
        MetadataResponsePartition::default()
            .with_partition_index(partition.name.index)
            .with_leader_id(node)
            .with_leader_epoch(0)
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_partitions(partitions.collect())
}
