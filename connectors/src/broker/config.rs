//! Settings of the embedded broker: plain numbers and paths, each with the reason for its default.
//!
//! Never holds live objects; a broker can be started again from a clone of its settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What [`Broker::start`](super::Broker::start) needs to know.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// `host:port` told to clients when it differs from the address they connected to.
    pub advertised: Option<String>,
    /// Directory that holds everything durable; created if missing, locked while in use.
    pub data_dir: PathBuf,
    /// Partitions of a topic created without a count.
    pub default_partitions: i32,
    /// Whether a metadata or produce request may create a missing topic.
    pub auto_create_topics: bool,
    /// Bytes kept per partition; `None` keeps everything. A topic may override it.
    pub retention_bytes: Option<u64>,
    /// Age kept; `None` keeps everything. A topic may override it.
    pub retention_ms: Option<u64>,
    /// Size at which a segment is closed. Restart verifies the checksums of one open segment per
    /// partition, so this bounds the restart time too.
    pub segment_bytes: u64,
    /// Largest record batch accepted; a topic may override it with `max.message.bytes`.
    pub message_bytes_max: u64,
    /// How often retention looks for segments to delete.
    pub retention_interval: Duration,
    /// How long the first rebalance of an empty group waits for more members.
    pub group_initial_delay: Duration,
    /// Connections served at once; one more is closed at once.
    pub connections_max: usize,
    /// Bytes of requests held in memory at once over all connections.
    pub inflight_bytes_max: usize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9092)),
            advertised: None,
            data_dir: PathBuf::from("broker"),
            default_partitions: 4,
            auto_create_topics: true,
            retention_bytes: None,
            retention_ms: None,
            segment_bytes: 64 << 20,
            message_bytes_max: 32 << 20,
            retention_interval: Duration::from_secs(5),
            group_initial_delay: Duration::ZERO,
            connections_max: 1024,
            inflight_bytes_max: 256 << 20,
        }
    }
}

/// Largest request frame read; a longer length prefix closes the connection. librdkafka's and
/// Kafka's own `message.max.bytes` ceilings are of this order.
pub(super) const FRAME_BYTES_MAX: usize = 100 << 20;

/// Requests of one connection that may wait for their answer; clients pipeline five by default.
pub(super) const PIPELINE_MAX: usize = 32;

/// A connection that sends nothing for this long is closed, as in Apache Kafka.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(600);

/// A request body must arrive within this time once its length is known.
pub(super) const BODY_WAIT_MAX: Duration = Duration::from_secs(120);

/// Most bytes of records in one fetch answer, whatever the client asks for.
pub(super) const FETCH_BYTES_MAX: usize = 64 << 20;

/// Most partitions of one topic: each holds an open file.
pub(super) const PARTITIONS_MAX: i32 = 512;

/// Most topics, for the same reason.
pub(super) const TOPICS_MAX: usize = 2_000;

/// The one node of this cluster.
pub(super) const NODE_ID: i32 = 1;
