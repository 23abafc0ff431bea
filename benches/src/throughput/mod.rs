//! Brokers side by side: what a client gets out of them, and what they spend on it.

pub mod fetch;
pub mod process;
pub mod produce;
pub mod report;
pub mod systems;

use serde::{Deserialize, Serialize};

/// What went through a client: enough to tell that nothing was lost, changed or doubled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Records.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Sum over all payloads of their eight-byte words, independent of order.
    pub sum: u64,
}

impl Content {
    /// Counts one record.
    pub fn add(&mut self, payload: &[u8]) {
        self.records += 1;
        self.bytes += payload.len() as u64;
        let (words, rest) = payload.as_chunks::<8>();
        for word in words {
            self.sum = self.sum.wrapping_add(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.sum = self.sum.wrapping_add(u64::from(*byte));
        }
    }
}

/// What a client says when it has ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ClientRun {
    /// From the first record to the last acknowledgement, or to the last record received; the client
    /// is connected by then.
    pub wall_ns: u64,
    /// CPU time of the client in that time.
    pub cpu_ns: u64,
    /// What went through.
    pub content: Content,
}
