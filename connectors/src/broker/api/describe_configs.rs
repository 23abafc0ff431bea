//! `DescribeConfigs`: the settings of a topic, or the broker's few.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::super::config::NODE_ID;
use super::super::dispatch::Call;
use super::super::storage::{Refusal, TopicSettings};
use super::text;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from, in Kafka's numbers.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let rows = describe(&call, &resource);
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        match rows {
            Ok(rows) => {
                let wanted = resource.configuration_keys.filter(|keys| !keys.is_empty());
                let is_wanted = |row: &DescribeConfigsResourceResult| {
                    wanted.as_ref().is_none_or(|keys| keys.contains(&row.name))
                };
                result.with_configs(rows.into_iter().filter(is_wanted).collect())
            }
            Err(refusal) => result
                .with_error_code(refusal.error.code())
                .with_error_message(Some(text(refusal.message))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe(
    call: &Call,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            let topic = call.shared.storage.topic(name).ok_or_else(|| {
                let message = format!("no topic named '{name}'");
                Refusal::new(ResponseError::UnknownTopicOrPartition, message)
            })?;
            let settings = topic.settings.rows(&topic.overrides).into_iter();
            Ok(settings
                .map(|setting| {
                    let source = if setting.is_default { SOURCE_DEFAULT } else { SOURCE_TOPIC };
                    row(setting.name, setting.value, source).with_config_type(setting.kind)
                })
                .collect())
        }
        BROKER if name.is_empty() || name == NODE_ID.to_string() => Ok(broker_rows(call)),
        _ => Err(Refusal::new(
            ResponseError::InvalidRequest,
            "only topics and this one broker have settings",
        )),
    }
}

fn broker_rows(call: &Call) -> Vec<DescribeConfigsResourceResult> {
    let config = &call.shared.config;
    let defaults = TopicSettings::new(config, &BTreeMap::new());
    let topic_defaults = defaults.map(|defaults| defaults.rows(&BTreeMap::new()));
    let mut rows = vec![
        ("broker.id", NODE_ID.to_string()),
        ("num.partitions", config.default_partitions.to_string()),
        ("default.replication.factor", "1".to_owned()),
        ("auto.create.topics.enable", config.auto_create_topics.to_string()),
    ];
    // As in Apache Kafka, the broker's names of topic settings start with "log.".
    let names = [
        ("segment.bytes", "log.segment.bytes"),
        ("retention.bytes", "log.retention.bytes"),
        ("retention.ms", "log.retention.ms"),
        ("max.message.bytes", "message.max.bytes"),
    ];
    for setting in topic_defaults.unwrap_or_default() {
        let name = names.iter().find(|(topic_name, _)| *topic_name == setting.name);
        rows.extend(name.map(|(_, broker_name)| (*broker_name, setting.value)));
    }
    rows.into_iter().map(|(name, value)| row(name, value, SOURCE_STATIC)).collect()
}

fn row(name: &'static str, value: String, source: i8) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_read_only(true)
        .with_config_source(source)
}
