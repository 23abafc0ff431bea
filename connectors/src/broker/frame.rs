//! An answer on its way out: pieces that one call writes, large records lent, not copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Records of this size are lent; shorter ones are cheaper to copy than to point at.
const LEND_BYTES_MIN: usize = 16 << 10;

/// A frame: its length, then what the length counts.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Frame {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

/// A frame that is one piece, its length included.
impl From<Bytes> for Frame {
    fn from(whole: Bytes) -> Self {
        let mut frame = Self::default();
        frame.push(whole);
        frame
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining, "a frame is not written beyond its end");
        self.remaining -= count;
        let mut left = count;
        while let Some(front) = self.pieces.front_mut() {
            if left < front.len() {
                front.advance(left);
                return;
            }
            left -= front.len();
            // What is written is let go of at once: it may be memory for the next read.
            self.pieces.pop_front();
        }
    }
}

/// A frame in the making.
#[derive(Debug, Default)]
pub(super) struct FrameBuilder {
    done: Frame,
    /// Copied bytes after the last piece.
    pub(super) open: BytesMut,
}

impl FrameBuilder {
    /// Adds records, without a copy if they are large.
    pub(super) fn records(&mut self, records: Bytes) {
        if records.len() < LEND_BYTES_MIN {
            return self.open.put_slice(&records);
        }
        self.done.push(self.open.split().freeze());
        self.done.push(records);
    }

    /// Puts the length before everything; `None` if it does not fit into one.
    pub(super) fn finish(mut self) -> Option<Frame> {
        self.done.push(self.open.freeze());
        let length = i32::try_from(self.done.remaining).ok()?;
        self.done.pieces.push_front(Bytes::copy_from_slice(&length.to_be_bytes()));
        self.done.remaining += 4;
        Some(self.done)
    }
}
