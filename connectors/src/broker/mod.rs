//! The embedded broker: a Kafka-protocol server inside this process, so that there is one client
//! path, librdkafka, with or without Apache Kafka, and any Kafka tool can talk to one binary.
//!
//! It stores record batches as they arrive, acknowledges after the sync (many requests share one),
//! recovers a torn tail by checksum, serves long-poll fetches, consumer groups with durable
//! offsets, idempotent producers, and retention by bytes and age.
//!
//! It is a **single node**: no replication, no transactions, no compaction, no access control, no
//! encryption. Transactional requests are refused with an error code that says so. Beyond one
//! machine, use Apache Kafka: the same client suite runs against both.
//!
//! ```text
//! server → connection → dispatch → api/<name> → storage (log thread, files)
//!                                             → group   (members, generations)
//! ```
//!
//! Invariants: an acknowledged record is on disk; a record a consumer saw is on disk; memory is
//! bounded by limits on frames, requests in flight and connections.

mod api;
mod config;
mod connection;
mod dispatch;
mod frame;
mod group;
mod guard;
mod server;
mod storage;

use std::net::SocketAddr;
use std::sync::Arc;

use tidemill_contract::{Error, Result};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use config::BrokerConfig;
use group::Coordinator;
use storage::{Buffers, Storage, StorageThread};

/// What every request may use.
#[derive(Debug)]
struct Shared {
    config: BrokerConfig,
    storage: Storage,
    /// Memory for what fetches read.
    buffers: Arc<Buffers>,
    groups: Coordinator,
    /// Kibibytes of requests that may still be read into memory.
    inflight: Arc<Semaphore>,
}

/// A running broker. Dropping it without [`stop`](Self::stop) ends it like a crash would: nothing
/// acknowledged is lost.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    storage: Option<StorageThread>,
}

impl Broker {
    /// Recovers the data directory, binds the port and serves on the current tokio runtime.
    pub async fn start(config: BrokerConfig) -> Result<Self> {
        let opened = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Storage::open(&config)).await
        };
        let (storage, thread) =
            opened.map_err(|_| Error::internal("opening the broker's data panicked"))??;
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            Error::unavailable("TM610", format!("the broker cannot listen on {}", config.listen))
                .because(error.to_string())
                .help("choose another address, or port 0 for a free one")
        })?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::unavailable("TM610", format!("no local address: {error}")))?;
        let shared = Arc::new(Shared {
            groups: Coordinator::new(config.group_initial_delay),
            inflight: Arc::new(Semaphore::new(config.inflight_bytes_max.div_ceil(1024))),
            storage,
            buffers: Arc::default(),
            config,
        });
        let stop = watch::Sender::new(false);
        let server = tokio::spawn(server::accept(listener, Arc::clone(&shared), stop.subscribe()));
        let upkeep = tokio::spawn(server::upkeep(shared, stop.subscribe()));
        tracing::info!(address = %address, "embedded broker is listening");
        Ok(Self { address, stop, server, upkeep, storage: Some(thread) })
    }

    /// Where it listens; the port is the real one if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving, syncs and closes everything, and frees the data directory.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        let joined = (&mut self.server).await.and((&mut self.upkeep).await);
        joined.map_err(|_| Error::internal("the broker's server task panicked"))?;
        let Some(storage) = self.storage.take() else {
            return Ok(());
        };
        let stopped = tokio::task::spawn_blocking(move || storage.stop()).await;
        stopped.map_err(|_| Error::internal("stopping the broker's log thread panicked"))?
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
