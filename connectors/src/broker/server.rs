//! Accepting connections, and the upkeep that nobody asks for: retention and group time-outs.
//!
//! Never serves more connections than configured; one more is closed at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Shared;
use super::connection;

/// How often group deadlines are checked: the resolution of session time-outs.
const GROUP_TICK: Duration = Duration::from_millis(50);
/// Pause after a failed accept, which is most often "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until told to stop, then ends every connection.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while !*stop.borrow_and_update() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < shared.config.connections_max => {
                    connections.spawn(connection::serve(stream, peer, Arc::clone(&shared)));
                }
                Ok((_, peer)) => {
                    tracing::warn!(peer = %peer, "too many connections, closed one");
                }
                Err(error) => {
                    tracing::warn!(error = %error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "a connection task panicked");
                }
            }
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
    connections.shutdown().await;
}

/// Runs retention and group time-outs, and gives idle memory back, until told to stop.
pub(super) async fn upkeep(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut group_tick = tokio::time::interval(GROUP_TICK);
    group_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retention_tick = tokio::time::interval(shared.config.retention_interval);
    retention_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow_and_update() {
        tokio::select! {
            _ = group_tick.tick() => shared.groups.tick(),
            _ = retention_tick.tick() => {
                shared.buffers.clear();
                shared.storage.retain().await;
            }
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
}
