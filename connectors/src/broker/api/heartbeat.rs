//! `Heartbeat`: a member is alive; it learns that a rebalance began.

use std::sync::Arc;

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::super::dispatch::Call;
use super::super::group::MemberRef;
use super::code;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let member = MemberRef {
        id: request.member_id.as_str().to_owned(),
        instance_id: request.group_instance_id.map(|id| id.as_str().to_owned()),
        generation: request.generation_id,
    };
    let beaten = call.shared.groups.heartbeat(&request.group_id, &member);
    HeartbeatResponse::default().with_error_code(code(beaten))
}
