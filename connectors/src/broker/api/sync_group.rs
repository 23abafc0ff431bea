//! `SyncGroup`: the leader hands in the assignments, everyone waits for its own.

use std::sync::Arc;

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::super::dispatch::Call;
use super::super::group::{MemberRef, Sync};
use super::text;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let sync = Sync {
        member: MemberRef {
            id: request.member_id.as_str().to_owned(),
            instance_id: request.group_instance_id.map(|id| id.as_str().to_owned()),
            generation: request.generation_id,
        },
        assignments: request
            .assignments
            .into_iter()
            .map(|one| (one.member_id.as_str().to_owned(), one.assignment))
            .collect(),
    };
    match call.shared.groups.sync(&request.group_id, sync).await {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(Some(text(synced.protocol_type)))
            .with_protocol_name(Some(text(synced.protocol)))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}
