//! `JoinGroup`: enters a group and waits for the rebalance to gather its members.

use std::sync::Arc;

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::super::dispatch::Call;
use super::super::group::{Join, JoinRefused, Joined};
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let join = Join {
        member_id: request.member_id.as_str().to_owned(),
        instance_id: request.group_instance_id.map(|id| id.as_str().to_owned()),
        client_id: call.client_id.clone(),
        client_host: call.peer.remote.ip().to_string(),
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 knows one time-out only.
        rebalance_timeout_ms: match request.rebalance_timeout_ms {
            -1 => request.session_timeout_ms,
            timeout_ms => timeout_ms,
        },
        protocol_type: request.protocol_type.as_str().to_owned(),
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| (protocol.name.as_str().to_owned(), protocol.metadata))
            .collect(),
        // From version 4 on a new member gets its id first and then joins with it.
        needs_known_id: call.version >= 4,
    };
    match call.shared.groups.join(&request.group_id, join).await {
        Ok(joined) => respond(&call, joined),
        Err(JoinRefused { error, member_id }) => JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_generation_id(-1)
            .with_protocol_name(nullable(&call, None))
            .with_member_id(text(member_id)),
    }
}

/// Before version 7 the protocol name cannot be left out.
fn nullable(call: &Call, name: Option<String>) -> Option<kafka_protocol::protocol::StrBytes> {
    match name {
        Some(name) => Some(text(name)),
        None if call.version >= 7 => None,
        None => Some(text("")),
    }
}

fn respond(call: &Call, joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.id))
            .with_group_instance_id(member.instance_id.map(text))
            .with_metadata(member.metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(Some(text(joined.protocol_type)))
        .with_protocol_name(nullable(call, Some(joined.protocol)))
        .with_leader(text(joined.leader))
        .with_member_id(text(joined.member_id))
        .with_members(members.collect())
}
