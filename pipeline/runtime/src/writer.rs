//! The one writer of a job or a feed, kept over all its tries.
//!
//! Why kept: a record under way when a try was given up may still arrive, and only the client that
//! sent it can tell, or send it again without making it twice. So whoever looks what is there
//! first lets the earlier try come to its end. A writer is never shared between two owners: a
//! flush speaks of its owner's records only.

use std::sync::{Arc, Mutex, PoisonError};

use tidemill_connectors::log::kafka::{KafkaLog, KafkaWriter};
use tidemill_contract::{LogWriter, Result};

/// Where the writer is kept; it is made at first use.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriterSlot(Arc<Mutex<Option<Arc<KafkaWriter>>>>);

impl WriterSlot {
    /// The writer.
    pub(crate) fn writer(&self, log: &KafkaLog) -> Result<Arc<KafkaWriter>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &*slot {
            return Ok(Arc::clone(writer));
        }
        Ok(Arc::clone(slot.insert(Arc::new(log.writer()?))))
    }

    /// Waits until nothing of an earlier try is under way: what it appended can be seen then.
    pub(crate) async fn settle(&self) -> Result<()> {
        let writer = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(writer) = writer else { return Ok(()) };
        let Err(error) = writer.flush().await else { return Ok(()) };
        if !writer.is_settled() {
            return Err(error);
        }
        tracing::warn!(%error, "an earlier try did not append everything");
        // A failed one may be beyond use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}
