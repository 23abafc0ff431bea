//! One file per request of the Kafka protocol, each with one entry point that `dispatch` names.
//!
//! Handlers translate between wire types and the store or the groups; they hold no state.

pub(super) mod api_versions;
pub(super) mod create_partitions;
pub(super) mod create_topics;
pub(super) mod delete_groups;
pub(super) mod delete_records;
pub(super) mod delete_topics;
pub(super) mod describe_cluster;
pub(super) mod describe_configs;
pub(super) mod describe_groups;
pub(super) mod fetch;
mod fetch_frame;
pub(super) mod find_coordinator;
pub(super) mod heartbeat;
pub(super) mod init_producer_id;
pub(super) mod join_group;
pub(super) mod leader_epoch;
pub(super) mod leave_group;
pub(super) mod list_groups;
pub(super) mod list_offsets;
pub(super) mod metadata;
pub(super) mod offset_commit;
pub(super) mod offset_fetch;
pub(super) mod produce;
pub(super) mod sync_group;

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use super::dispatch::Peer;

/// The code on the wire; 0 is success.
fn code<T>(result: Result<T, ResponseError>) -> i16 {
    result.err().map_or(0, |error| error.code())
}

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// Where clients shall connect: the configured address, or the one they used.
fn advertised(shared: &Shared, peer: &Peer) -> (StrBytes, i32) {
    let configured = shared.config.advertised.as_deref();
    let split = configured.and_then(|address| address.rsplit_once(':'));
    if let Some((host, port)) = split
        && let Ok(port) = port.parse::<u16>()
    {
        return (text(host), i32::from(port));
    }
    (text(peer.local.ip().to_string()), i32::from(peer.local.port()))
}
