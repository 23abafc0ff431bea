//! `LeaveGroup`: members go at once, the others rebalance.

use std::sync::Arc;

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::super::dispatch::Call;
use super::code;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let groups = &call.shared.groups;
    if call.version < 3 {
        let left = groups.leave(&request.group_id, &request.member_id, None);
        return LeaveGroupResponse::default().with_error_code(code(left));
    }
    let rows = request.members.into_iter().map(|member| {
        let instance_id = member.group_instance_id.as_ref().map(|id| id.as_str());
        let left = groups.leave(&request.group_id, &member.member_id, instance_id);
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code(left))
    });
    LeaveGroupResponse::default().with_members(rows.collect())
}
