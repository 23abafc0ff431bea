//! `ApiVersions`: which requests this broker answers, in which versions.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::super::dispatch::{Call, TABLE};

pub(in super::super) async fn handle(_: Arc<Call>, _: ApiVersionsRequest) -> ApiVersionsResponse {
    listing()
}

/// The answer, in version 0, to a client that asked in a version we do not know.
pub(in super::super) fn unsupported() -> ApiVersionsResponse {
    listing().with_error_code(ResponseError::UnsupportedVersion.code())
}

fn listing() -> ApiVersionsResponse {
    let rows = TABLE.iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.version_min)
            .with_max_version(api.version_max)
    });
    ApiVersionsResponse::default().with_api_keys(rows.collect())
}
