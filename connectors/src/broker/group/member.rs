//! One member of a group: its time-outs, its subscription, and the answer it waits for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::oneshot;

use super::messages::{Join, JoinRefused, Joined, Synced};

/// Where the answer to a join goes.
pub(super) type JoinReply = oneshot::Sender<Result<Joined, JoinRefused>>;
/// Where the answer to a sync goes.
pub(super) type SyncReply = oneshot::Sender<Result<Synced, ResponseError>>;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    pub(super) join_reply: Option<JoinReply>,
    pub(super) sync_reply: Option<SyncReply>,
    /// The session ends here unless the member is heard of.
    pub(super) expires: Instant,
}

impl Member {
    pub(super) fn new(join: Join, now: Instant) -> Self {
        let session_timeout = milliseconds(join.session_timeout_ms);
        Self {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout,
            rebalance_timeout: milliseconds(join.rebalance_timeout_ms),
            protocols: join.protocols,
            assignment: Bytes::new(),
            join_reply: None,
            sync_reply: None,
            expires: now + session_timeout,
        }
    }

    /// Takes over what a repeated join says.
    pub(super) fn update(&mut self, join: Join, now: Instant) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout = milliseconds(join.session_timeout_ms);
        self.rebalance_timeout = milliseconds(join.rebalance_timeout_ms);
        self.protocols = join.protocols;
        self.heard_of(now);
    }

    /// Starts the session time-out again.
    pub(super) fn heard_of(&mut self, now: Instant) {
        self.expires = now + self.session_timeout;
    }

    /// The subscription for one assignor.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Whether it waits for a join whose connection is still there.
    pub(super) fn is_joining(&self) -> bool {
        self.join_reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

fn milliseconds(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}
