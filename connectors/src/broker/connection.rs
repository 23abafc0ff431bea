//! One client connection: frames in, answers out, in order.
//!
//! Requests are started in the order they arrive and answered in that order; a produce request is
//! handed to the log before the next one is read, so that pipelined requests share a sync. Memory
//! is bounded: a frame is read only when its bytes fit into the broker's budget, and only so many
//! requests of one connection wait at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::Shared;
use super::config::{BODY_WAIT_MAX, FRAME_BYTES_MAX, IDLE_MAX, PIPELINE_MAX};
use super::dispatch::{self, Peer, Pending};

/// Bytes reserved before a frame has proved that it is as long as it says.
const RESERVE_BYTES: usize = 1 << 20;

/// An answer in the making, and the memory its request holds.
struct Queued {
    pending: Pending,
    _permit: OwnedSemaphorePermit,
}

/// Serves until the client goes, misbehaves, or the broker stops.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    if let Err(error) = serve_frames(stream, peer, shared).await {
        tracing::debug!(peer = %peer, error = %error, "connection ended");
    }
}

async fn serve_frames(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let peer = Peer { remote: peer, local };
    let (read, write) = stream.into_split();
    let (queue, queued) = mpsc::channel(PIPELINE_MAX);
    tokio::select! {
        read = read_requests(read, peer, shared, queue) => read,
        written = write_answers(write, queued) => written,
    }
}

async fn read_requests(
    mut stream: OwnedReadHalf,
    peer: Peer,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Queued>,
) -> io::Result<()> {
    loop {
        let Some((frame, permit)) = read_frame(&mut stream, &shared.inflight).await? else {
            return Ok(());
        };
        let pending = dispatch::start(frame, peer, &shared).await.map_err(io::Error::other)?;
        let queued = Queued { pending, _permit: permit };
        if queue.send(queued).await.is_err() {
            return Ok(());
        }
    }
}

async fn write_answers(
    mut stream: OwnedWriteHalf,
    mut queued: mpsc::Receiver<Queued>,
) -> io::Result<()> {
    while let Some(next) = queued.recv().await {
        let Queued { pending, _permit } = next;
        if let Pending::Answer(answer) = pending {
            let mut frame = answer.await.map_err(io::Error::other)?;
            stream.write_all_buf(&mut frame).await?;
        }
    }
    Ok(())
}

/// One length-prefixed frame; `None` when the client closed between two frames.
async fn read_frame(
    stream: &mut OwnedReadHalf,
    inflight: &Arc<Semaphore>,
) -> io::Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    let mut prefix = [0; 4];
    match timeout(IDLE_MAX, stream.read_exact(&mut prefix)).await {
        Err(_) => return Ok(None),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Ok(read) => read?,
    };
    let length = usize::try_from((&prefix[..]).get_i32()).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("the request is longer than the largest frame"));
    }
    let kibibytes = u32::try_from(length.div_ceil(1024)).map_err(io::Error::other)?;
    let permit = Arc::clone(inflight).acquire_many_owned(kibibytes);
    let permit = permit.await.map_err(io::Error::other)?;
    let body = timeout(BODY_WAIT_MAX, read_body(stream, length)).await;
    let frame = body.map_err(|_| io::Error::other("the request did not arrive in time"))??;
    Ok(Some((frame, permit)))
}

async fn read_body(stream: &mut OwnedReadHalf, length: usize) -> io::Result<Bytes> {
    let mut frame = BytesMut::with_capacity(length.min(RESERVE_BYTES));
    let mut rest = stream.take(length as u64);
    while frame.len() < length {
        if frame.len() == frame.capacity() {
            frame.reserve((length - frame.len()).min(frame.len().max(RESERVE_BYTES)));
        }
        if rest.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}
