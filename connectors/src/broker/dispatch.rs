//! The table of requests this broker answers: one row each, with the versions it announces.
//!
//! Adding a request is one file in `api/` and one row here. A request outside the table closes the
//! connection, as Apache Kafka does, except `ApiVersions`, which clients use to find out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tidemill_contract::{Error, Result};

use super::Shared;
use super::api;
use super::frame::Frame;
use super::guard::Guarded;

/// A future of a row's handler.
pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) remote: SocketAddr,
    /// The address the client reached us at: the one to advertise.
    pub(super) local: SocketAddr,
}

/// One request, header decoded, body not yet.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) client_id: String,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    body: Bytes,
    trial: Trial,
}

/// Whether a body must be decoded on trial first; see [`Guarded`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    Needed,
    Spared,
}

/// Only records make a request long: everything else names topics, partitions and members.
const ADMIN_FRAME_BYTES_MAX: usize = 4 << 20;

/// A request that was started.
pub(super) enum Pending {
    /// The frame to send.
    Answer(BoxFuture<Result<Frame>>),
    /// The client wants no answer.
    Silent,
}

/// One row of the table.
pub(super) struct Api {
    pub(super) key: ApiKey,
    pub(super) version_min: i16,
    pub(super) version_max: i16,
    start: fn(Call) -> BoxFuture<Result<Pending>>,
}

/// A row whose handler turns a request into its response.
macro_rules! row {
    ($key:ident, $min:literal..=$max:literal, $handler:path) => {
        Api {
            key: ApiKey::$key,
            version_min: $min,
            version_max: $max,
            start: |call| Box::pin(async move { answer(call, $handler) }),
        }
    };
}

/// Every request this broker knows.
pub(super) const TABLE: &[Api] = &[
    // Version 0 is announced for clients that look for it; the codec starts at 3, as Kafka 4 does.
    Api {
        key: ApiKey::Produce,
        version_min: 0,
        version_max: 11,
        start: |call| Box::pin(api::produce::start(call)),
    },
    // From version 13 on topics are named by id only.
    Api {
        key: ApiKey::Fetch,
        version_min: 4,
        version_max: 12,
        start: |call| Box::pin(async move { api::fetch::start(call) }),
    },
    row!(ListOffsets, 1..=7, api::list_offsets::handle),
    row!(Metadata, 0..=12, api::metadata::handle),
    row!(OffsetCommit, 2..=9, api::offset_commit::handle),
    row!(OffsetFetch, 1..=9, api::offset_fetch::handle),
    row!(FindCoordinator, 0..=4, api::find_coordinator::handle),
    row!(JoinGroup, 0..=9, api::join_group::handle),
    row!(Heartbeat, 0..=4, api::heartbeat::handle),
    row!(LeaveGroup, 0..=5, api::leave_group::handle),
    row!(SyncGroup, 0..=5, api::sync_group::handle),
    row!(DescribeGroups, 0..=5, api::describe_groups::handle),
    row!(ListGroups, 0..=4, api::list_groups::handle),
    row!(ApiVersions, 0..=4, api::api_versions::handle),
    row!(CreateTopics, 2..=7, api::create_topics::handle),
    row!(DeleteTopics, 1..=6, api::delete_topics::handle),
    row!(DeleteRecords, 0..=2, api::delete_records::handle),
    row!(InitProducerId, 0..=4, api::init_producer_id::handle),
    row!(OffsetForLeaderEpoch, 2..=4, api::leader_epoch::handle),
    row!(DescribeConfigs, 1..=4, api::describe_configs::handle),
    row!(CreatePartitions, 0..=3, api::create_partitions::handle),
    row!(DeleteGroups, 0..=2, api::delete_groups::handle),
    row!(DescribeCluster, 0..=1, api::describe_cluster::handle),
];

/// Decodes the header of a frame and starts its request.
pub(super) async fn start(frame: Bytes, peer: Peer, shared: &Arc<Shared>) -> Result<Pending> {
    let mut head = frame.clone();
    if head.remaining() < 8 {
        return Err(malformed("the frame is shorter than a request header"));
    }
    let (key, version, correlation_id) = (head.get_i16(), head.get_i16(), head.get_i32());
    let Some(api) = TABLE.iter().find(|api| api.key as i16 == key) else {
        return Err(malformed(format!("request {key} is not known")));
    };
    if version < api.version_min || version > api.version_max {
        if api.key == ApiKey::ApiVersions {
            let answer = encode(correlation_id, 0, &api::api_versions::unsupported());
            return Ok(Pending::Answer(Box::pin(async move { answer })));
        }
        return Err(malformed(format!("request {key} in version {version} is not known")));
    }
    if api.key != ApiKey::Produce && frame.len() > ADMIN_FRAME_BYTES_MAX {
        return Err(malformed(format!("request {key} is longer than such a request can be")));
    }
    let header_version = api.key.request_header_version(version);
    let mut guarded = Guarded::new(frame);
    let header = RequestHeader::decode(&mut guarded, header_version)
        .map_err(|error| malformed(error.to_string()))?;
    let body = guarded.into_rest();
    // Header version 2 goes with variable-length encodings, which need no trial.
    let trial = if header_version < 2 { Trial::Needed } else { Trial::Spared };
    let client_id = header.client_id.map_or_else(String::new, |id| id.as_str().to_owned());
    let shared = Arc::clone(shared);
    (api.start)(Call { shared, peer, client_id, version, correlation_id, body, trial }).await
}

/// Decodes the body of a call.
pub(super) fn decode<R: Decodable>(call: &mut Call) -> Result<R> {
    let body = std::mem::take(&mut call.body);
    let failed = |error| malformed(format!("{error}"));
    if call.trial == Trial::Needed {
        R::decode(&mut Guarded::trial(body.clone()), call.version).map_err(failed)?;
    }
    R::decode(&mut Guarded::new(body), call.version).map_err(failed)
}

/// Encodes the response to a call as a frame.
pub(super) fn reply<R: Encodable + HeaderVersion>(call: &Call, response: &R) -> Result<Frame> {
    encode(call.correlation_id, call.version, response)
}

fn answer<R, F, Fut>(mut call: Call, handler: F) -> Result<Pending>
where
    R: Request + Send + 'static,
    R::Response: Send,
    F: FnOnce(Arc<Call>, R) -> Fut + Send + 'static,
    Fut: Future<Output = R::Response> + Send,
{
    let request: R = decode(&mut call)?;
    let call = Arc::new(call);
    Ok(Pending::Answer(Box::pin(async move {
        let response = handler(Arc::clone(&call), request).await;
        reply(&call, &response)
    })))
}

fn encode<R: Encodable + HeaderVersion>(
    correlation_id: i32,
    version: i16,
    response: &R,
) -> Result<Frame> {
    let encoded = || -> std::result::Result<BytesMut, Box<dyn std::error::Error + Send + Sync>> {
        let header = ResponseHeader::default().with_correlation_id(correlation_id);
        let header_version = R::header_version(version);
        let length = header.compute_size(header_version)? + response.compute_size(version)?;
        let mut frame = BytesMut::with_capacity(4 + length);
        frame.put_i32(i32::try_from(length)?);
        header.encode(&mut frame, header_version)?;
        response.encode(&mut frame, version)?;
        Ok(frame)
    };
    match encoded() {
        Ok(frame) => Ok(frame.freeze().into()),
        Err(error) => {
            tracing::error!(error = %error, version, "could not encode a response");
            Err(Error::internal(format!("could not encode a response: {error}")))
        }
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::invalid("TM615", "a client sent a request that cannot be read").because(reason)
}
