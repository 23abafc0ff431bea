//! `DeleteGroups`: forgets the offsets of groups without members.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::super::dispatch::Call;
use super::code;

pub(in super::super) async fn handle(
    call: Arc<Call>,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut rows = Vec::with_capacity(request.groups_names.len());
    for id in request.groups_names {
        let deleted = delete(&call, &id).await;
        let row = DeletableGroupResult::default().with_group_id(id);
        rows.push(row.with_error_code(code(deleted)));
    }
    DeleteGroupsResponse::default().with_results(rows)
}

async fn delete(call: &Call, id: &str) -> Result<(), ResponseError> {
    let known = call.shared.groups.remove_empty(id)?;
    let deletions = call.shared.storage.tables.offsets.deletions_of_group(id);
    if deletions.is_empty() {
        return if known { Ok(()) } else { Err(ResponseError::GroupIdNotFound) };
    }
    call.shared.storage.commit(deletions).await
}
