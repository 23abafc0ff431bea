//! A TCP proxy that misbehaves on demand: late, slow, silent, half closed, cut.
//!
//! It stands between a client and a server that are both real. What it has read it either passes
//! on or drops; it never changes a byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Passes everything on.
    Well,
    /// Every chunk is late by this.
    Late(Duration),
    /// So many bytes a second each way.
    Narrow(usize),
    /// Nothing is passed on, and nobody is told.
    Blackhole,
    /// Connections are reset, new ones too.
    Reset,
    /// What the server answers is not passed on, and its side is closed towards the client.
    HalfClosed,
    /// Connections are reset after so many bytes.
    CutAfter(usize),
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    network: Arc<watch::Sender<Network>>,
    target: watch::Sender<Option<SocketAddr>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens; connections wait until there is a target.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(watch::Sender::new(Network::Well));
        let target = watch::Sender::new(None);
        let (state, mut known) = (Arc::clone(&network), target.subscribe());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = known.wait_for(Option::is_some).await.map(|found| *found) else {
                    return;
                };
                if *state.borrow() == Network::Reset {
                    reset(&client);
                    continue;
                }
                if let Some(server) = server {
                    tokio::spawn(connect(client, server, state.subscribe()));
                }
            }
        });
        Self { address, network, target, accepting }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it leads.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        self.target.send_replace(Some(server));
    }

    /// From now on the network is like this.
    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Closing sends a reset and no farewell.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

async fn connect(client: TcpStream, server: SocketAddr, network: watch::Receiver<Network>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return reset(&client);
    };
    let _quick = (client.set_nodelay(true).is_ok(), server.set_nodelay(true).is_ok());
    let _no_farewell = (reset(&client), reset(&server));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first direction to end takes the other with it, like a reset does.
    tokio::select! {
        () = pass(from_client, to_server, network.clone(), false) => {}
        () = pass(from_server, to_client, network, true) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    is_answer: bool,
) {
    let mut buffer = vec![0; CHUNK];
    let mut passed = 0;
    let mut cut = None;
    loop {
        let now = *network.borrow_and_update();
        let limit = match now {
            Network::Reset => return,
            Network::Blackhole => {
                if network.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Network::HalfClosed if is_answer => {
                drop(to.shutdown().await);
                // The other direction goes on as if nothing were wrong.
                return std::future::pending().await;
            }
            Network::CutAfter(bytes) => {
                let end = *cut.get_or_insert(passed + bytes);
                if passed >= end {
                    return;
                }
                (end - passed).min(CHUNK)
            }
            Network::Narrow(rate) => (rate / 10).clamp(1, CHUNK),
            _ => CHUNK,
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..limit]) => read,
            changed = network.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(count @ 1..) = read else { return };
        match now {
            Network::Late(by) => tokio::time::sleep(by).await,
            Network::Narrow(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            _ => {}
        }
        // What was under way when the line was cut is lost.
        let is_lost = *network.borrow() == Network::Reset;
        if is_lost || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        passed += count;
    }
}
