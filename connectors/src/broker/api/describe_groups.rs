//! `DescribeGroups`: state, members and assignments, for tools.

use std::sync::Arc;

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::super::dispatch::Call;
use super::super::group::Description;
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let groups = request.groups.into_iter().map(|id| {
        let described = match call.shared.groups.describe(&id) {
            Some(description) => fill(description),
            // Known by its offsets only, or not at all.
            None if call.shared.storage.tables.offsets.of_group(&id).is_empty() => {
                DescribedGroup::default().with_group_state(text("Dead"))
            }
            None => DescribedGroup::default().with_group_state(text("Empty")),
        };
        described.with_group_id(id)
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

fn fill(description: Description) -> DescribedGroup {
    let members = description.members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(member.id))
            .with_group_instance_id(member.instance_id.map(text))
            .with_client_id(text(member.client_id))
            .with_client_host(text(format!("/{}", member.client_host)))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    DescribedGroup::default()
        .with_group_state(text(description.state))
        .with_protocol_type(text(description.protocol_type))
        .with_protocol_data(text(description.protocol))
        .with_members(members.collect())
}
