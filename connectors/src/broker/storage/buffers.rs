//! Memory for reads that is used again: fresh memory costs more than what is read into it.
//!
//! A buffer comes back when the last part of it has been sent. What lies in it from before is never
//! shown: a reader hands out only what it has read.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of idle buffers kept; what comes back beyond is freed.
const KEPT_BYTES_MAX: usize = 24 << 20;
/// Shorter buffers are not worth keeping.
const KEPT_BYTES_MIN: usize = 64 << 10;

/// Idle buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of that many bytes with anything in it.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Buffer {
        let again = if bytes < KEPT_BYTES_MIN { None } else { self.idle().pop() };
        let mut memory = again.unwrap_or_default();
        if memory.len() < bytes {
            // Nothing of the old content is worth moving.
            memory = vec![0; bytes];
        }
        Buffer { memory, bytes, home: Arc::clone(self) }
    }

    /// Frees what nobody uses.
    pub(crate) fn clear(&self) {
        let freed = std::mem::take(&mut *self.idle());
        drop(freed);
    }

    fn give_back(&self, memory: Vec<u8>) {
        let mut idle = self.idle();
        let kept: usize = idle.iter().map(Vec::len).sum();
        if memory.len() >= KEPT_BYTES_MIN && kept + memory.len() <= KEPT_BYTES_MAX {
            idle.push(memory);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory on loan.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    bytes: usize,
    home: Arc<Buffers>,
}

impl Buffer {
    /// Makes it longer, keeping what is in it.
    pub(crate) fn grow(&mut self, bytes: usize) {
        if self.memory.len() < bytes {
            self.memory.resize(bytes, 0);
        }
        self.bytes = self.bytes.max(bytes);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.memory));
    }
}
