//! `ListGroups`: every group with members or committed offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};

use super::super::dispatch::Call;
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let stored = call.shared.storage.tables.offsets.group_names();
    let empty = |name| (name, ("Empty", String::new()));
    let mut groups: BTreeMap<String, (&'static str, String)> =
        stored.into_iter().map(empty).collect();
    groups.extend(call.shared.groups.list());
    let wanted = &request.states_filter;
    let rows = groups
        .into_iter()
        .filter(|(_, (state, _))| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(state))
        })
        .map(|(name, (state, protocol_type))| {
            let row = ListedGroup::default()
                .with_group_id(GroupId(text(name)))
                .with_protocol_type(text(protocol_type));
            // Version 4 and later carry the state.
            match call.version >= 4 {
                true => row.with_group_state(text(state)),
                false => row,
            }
        });
    ListGroupsResponse::default().with_groups(rows.collect())
}
