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
pub(crate) struct WriterSlot {
    made: Arc<Mutex<Option<Arc<KafkaWriter>>>>,
    is_prompt: bool,
}

impl WriterSlot {
    /// Of a writer that waits for no further records before it sends the first.
    pub(crate) fn prompt() -> Self {
        Self { is_prompt: true, ..Self::default() }
    }

    /// The writer.
    pub(crate) fn writer(&self, log: &KafkaLog) -> Result<Arc<KafkaWriter>> {
        let mut slot = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &*slot {
            return Ok(Arc::clone(writer));
        }
        let writer = if self.is_prompt { log.prompt_writer()? } else { log.writer()? };
        Ok(Arc::clone(slot.insert(Arc::new(writer))))
    }

    /// Waits until nothing of an earlier try is under way: what it appended can be seen then.
    pub(crate) async fn settle(&self) -> Result<()> {
        let writer = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(writer) = writer else { return Ok(()) };
        let Err(error) = writer.flush().await else { return Ok(()) };
        if !writer.is_settled() {
            return Err(error);
        }
        tracing::warn!(%error, "an earlier try did not append everything");
        // A failed one may be beyond use.
        self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}
