//! `FindCoordinator`: this node, for groups. There is none for transactions.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::super::config::NODE_ID;
use super::super::dispatch::Call;
use super::{advertised, text};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let refused = match request.key_type {
        GROUP => None,
        TRANSACTION => Some((
            ResponseError::TransactionalIdAuthorizationFailed,
            "the embedded broker has no transactions; use Apache Kafka",
        )),
        _ => Some((ResponseError::InvalidRequest, "only groups have a coordinator here")),
    };
    let (host, port) = advertised(&call.shared, &call.peer);
    if call.version < 4 {
        let response = FindCoordinatorResponse::default();
        return match refused {
            None => response.with_node_id(BrokerId(NODE_ID)).with_host(host).with_port(port),
            Some((error, message)) => response
                .with_error_code(error.code())
                .with_error_message(Some(text(message)))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        };
    }
    let rows = request.coordinator_keys.into_iter().map(|key| {
        let row = Coordinator::default().with_key(key);
        match refused {
            None => row.with_node_id(BrokerId(NODE_ID)).with_host(host.clone()).with_port(port),
            Some((error, message)) => row
                .with_error_code(error.code())
                .with_error_message(Some(text(message)))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        }
    });
    FindCoordinatorResponse::default().with_coordinators(rows.collect())
}
