//! Batches on their way into a file: large ones stay where the request has them, small ones are put
//! together.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::batch::{self, Batch, PLACE_BYTES};

/// Batches of this size are lent; shorter ones are cheaper to copy than to point at.
const LEND_BYTES_MIN: usize = 16 << 10;
/// Copied bytes whose memory is kept for the next flush.
const COPIED_BYTES_KEPT: usize = 1 << 20;

#[derive(Debug)]
enum Piece {
    /// A range of the copied bytes.
    Copied(Range<usize>),
    Lent(Bytes),
}

/// What was appended and not yet handed to the file, in file order.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
}

impl WriteBuffer {
    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Adds a batch with its place in the log.
    pub(super) fn push(&mut self, batch: &Batch, base_offset: i64) {
        self.bytes += batch.bytes.len();
        self.copy(&batch::place(batch, base_offset));
        let rest = batch.bytes.slice(PLACE_BYTES..);
        match rest.len() < LEND_BYTES_MIN {
            true => self.copy(&rest),
            false => self.pieces.push(Piece::Lent(rest)),
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        let from = self.copied.len();
        self.copied.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end += bytes.len(),
            _ => self.pieces.push(Piece::Copied(from..from + bytes.len())),
        }
    }

    /// Writes everything from a position of the file on.
    pub(super) fn write(&mut self, file: &File, position: u64) -> io::Result<()> {
        let mut position = position;
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Copied(range) => &self.copied[range.clone()],
                Piece::Lent(bytes) => bytes,
            };
            file.write_all_at(bytes, position)?;
            position += bytes.len() as u64;
        }
        self.clear();
        Ok(())
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
        self.pieces.clear();
        self.copied.clear();
        // One busy second must not pin its memory for ever.
        self.copied.shrink_to(COPIED_BYTES_KEPT);
    }
}
