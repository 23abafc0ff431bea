//! A buffer that does not believe lengths.
//!
//! The codec reserves memory for as many array elements as a request *claims* before it reads the
//! first: thirteen bytes could claim two thousand million and end the process. Every element has
//! at least one byte, so no honest length exceeds the bytes that follow it.
//!
//! Lengths come in two encodings. A variable-length one is recognised as such and refused at once.
//! A fixed one looks like any other 32-bit number, so a request of such a version is first decoded
//! on trial, with every 32-bit number cut down to little more than the bytes that are left: a lie
//! then runs out of bytes, and the decoded values are thrown away. Records are slices, so a trial copies nothing.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::buf::ByteBuf;

/// What happens to 32-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Kept,
    CutToRemaining,
}

/// Bytes of a request, read with suspicion.
#[derive(Debug)]
pub(super) struct Guarded {
    bytes: Bytes,
    numbers: Numbers,
    /// The variable-length number being read, and how many of its bits are known.
    partial: u64,
    bits: u32,
}

impl Guarded {
    /// For the real decoding.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, numbers: Numbers::Kept, partial: 0, bits: 0 }
    }

    /// For decoding on trial; the values are meaningless.
    pub(super) fn trial(bytes: Bytes) -> Self {
        Self { numbers: Numbers::CutToRemaining, ..Self::new(bytes) }
    }

    /// What is left.
    pub(super) fn into_rest(self) -> Bytes {
        self.bytes
    }

    fn forget_partial(&mut self) {
        self.partial = 0;
        self.bits = 0;
    }

    fn too_short(&self, requested: usize) -> TryGetError {
        TryGetError { requested, available: self.bytes.len() }
    }
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.forget_partial();
        self.bytes.advance(count);
    }

    /// The codec reads variable-length numbers, and booleans, byte by byte through this.
    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = *self.bytes.first().ok_or_else(|| self.too_short(1))?;
        self.bytes.advance(1);
        self.partial |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        if byte < 0x80 || self.bits >= 35 {
            // Compact lengths are stored plus one.
            let claimed = usize::try_from(self.partial.saturating_sub(1)).unwrap_or(usize::MAX);
            self.forget_partial();
            if claimed > self.bytes.len() {
                return Err(self.too_short(claimed));
            }
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        let bytes: [u8; 4] = match self.bytes.get(..4).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => bytes,
            None => return Err(self.too_short(4)),
        };
        self.advance(4);
        let number = i32::from_be_bytes(bytes);
        Ok(match self.numbers {
            Numbers::Kept => number,
            Numbers::CutToRemaining => {
                // One more than honest, or a lie at the very end would pass as "none".
                number.min(i32::try_from(self.bytes.len() + 1).unwrap_or(i32::MAX))
            }
        })
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.forget_partial();
        self.bytes.split_to(size)
    }
}
