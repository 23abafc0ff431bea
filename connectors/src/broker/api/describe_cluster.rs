//! `DescribeCluster`: one node.

use std::sync::Arc;

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

use super::super::config::NODE_ID;
use super::super::dispatch::Call;
use super::{advertised, text};

pub(in super::super) async fn handle(
    call: Arc<Call>,
    _: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let (host, port) = advertised(&call.shared, &call.peer);
    let broker = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(NODE_ID))
        .with_host(host)
        .with_port(port);
    DescribeClusterResponse::default()
        .with_cluster_id(text(call.shared.storage.cluster_id.clone()))
        .with_controller_id(BrokerId(NODE_ID))
        .with_brokers(vec![broker])
}
