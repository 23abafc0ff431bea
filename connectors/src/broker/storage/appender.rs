//! The writing half of a partition: collects batches, writes them with one call, syncs, publishes.
//!
//! Runs on the log thread only. `append` buffers; nothing is durable, and nothing is seen by a
//! reader, until `flush` returned. If a write or a sync fails, `settle` cuts the file back to its
//! durable length before anything else is appended: after a failed sync the kernel may have
//! dropped the pages.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;

use kafka_protocol::ResponseError;

use super::batch::Batch;
use super::partition::Partition;
use super::producers::{Producers, Verdict};
use super::recovery::{self, Recovered};
use super::segment::{self, Segment, Stored};
use super::write_buffer::WriteBuffer;
use crate::failpoint;

/// Buffered bytes after which a write starts without waiting for the flush.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// Where the batches of one request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) base_offset: i64,
    /// The request is durable once the high watermark reached this.
    pub(crate) end_offset: i64,
}

/// State of the open segment.
#[derive(Debug)]
pub(crate) struct Appender {
    file: Arc<File>,
    /// Bytes handed to the file, durable or not.
    written: u64,
    buffer: WriteBuffer,
    /// Batches appended since the last flush.
    pending: Vec<Stored>,
    next_offset: i64,
    pub(super) producers: Producers,
    failed: bool,
}

impl Appender {
    /// An appender at the end of what was recovered; takes its producers.
    pub(super) fn new(recovered: &mut Recovered) -> Self {
        let producers = std::mem::take(&mut recovered.producers);
        let open = recovered.segments.last().expect("recovery returns at least one segment");
        Self {
            file: Arc::clone(&open.file),
            written: open.bytes,
            buffer: WriteBuffer::default(),
            pending: Vec::new(),
            next_offset: open.next_offset,
            producers,
            failed: false,
        }
    }

    /// The offset of the next record.
    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Buffers the batches of one request, all or none.
    pub(super) fn append(
        &mut self,
        partition: &Partition,
        batches: &[Batch],
    ) -> Result<Placed, ResponseError> {
        if self.failed {
            return Err(ResponseError::KafkaStorageError);
        }
        // Judge every batch first: a request is stored whole or not at all.
        let mut fresh = 0;
        let mut repeat_from = None;
        for batch in batches {
            match self.producers.judge(&batch.header)? {
                Verdict::Fresh => fresh += 1,
                Verdict::Repeat { base_offset } => {
                    repeat_from = repeat_from.or(Some((base_offset, &batch.header)));
                }
            }
        }
        if let Some((base_offset, header)) = repeat_from {
            if fresh > 0 {
                return Err(ResponseError::OutOfOrderSequenceNumber);
            }
            let end_offset = base_offset + i64::from(header.last_offset_delta) + 1;
            return Ok(Placed { base_offset, end_offset });
        }
        let incoming: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        let size = self.written + self.buffer.len() as u64;
        if size > 0 && size + incoming as u64 > partition.settings.segment_bytes {
            self.roll(partition).map_err(|error| storage_failed(partition, &error))?;
        }
        Ok(self.buffer_all(partition, batches))
    }

    fn buffer_all(&mut self, partition: &Partition, batches: &[Batch]) -> Placed {
        let base_offset = self.next_offset;
        for batch in batches {
            let position = self.written + self.buffer.len() as u64;
            self.buffer.push(batch, self.next_offset);
            self.producers.record(&batch.header, self.next_offset);
            let stored = Stored::new(&batch.header, self.next_offset, position);
            self.next_offset = stored.last_offset + 1;
            self.pending.push(stored);
        }
        if self.buffer.len() > BUFFER_BYTES_MAX {
            // A failure is remembered and reported by the flush that follows.
            if let Err(error) = self.write_buffer() {
                self.failed = true;
                storage_failed(partition, &error);
            }
        }
        Placed { base_offset, end_offset: self.next_offset }
    }

    /// Makes everything appended durable and visible.
    pub(super) fn flush(&mut self, partition: &Partition) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write of this flush failed"));
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let flushed = self.write_and_sync();
        flushed.inspect_err(|_| self.failed = true)?;
        let mut state = partition.state_mut();
        let open = state.segments.last_mut().expect("a partition has an open segment");
        for stored in self.pending.drain(..) {
            open.note(&stored);
        }
        state.high_watermark = open.next_offset;
        let high_watermark = state.high_watermark;
        drop(state);
        partition.announce(high_watermark);
        Ok(())
    }

    fn write_and_sync(&mut self) -> io::Result<()> {
        let pass = |name| failpoint::reached(name).map_err(io::Error::other);
        pass("feed.broker_before_write")?;
        self.write_buffer()?;
        pass("feed.broker_before_sync")?;
        self.file.sync_data()?;
        pass("feed.broker_after_sync")
    }

    /// Closes the open segment and starts the next one.
    pub(super) fn roll(&mut self, partition: &Partition) -> io::Result<()> {
        self.flush(partition)?;
        let segment = Segment::create(&partition.dir, self.next_offset).inspect_err(|_| {
            self.failed = true;
            // An empty file left here would look like a hole in the log at the next start.
            drop(fs::remove_file(segment::path_of(&partition.dir, self.next_offset)));
        })?;
        self.file = Arc::clone(&segment.file);
        self.written = 0;
        partition.state_mut().segments.push(segment);
        Ok(())
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let bytes = self.buffer.len() as u64;
        self.buffer.write(&self.file, self.written)?;
        self.written += bytes;
        Ok(())
    }

    /// What was appended since the last flush is not durable; the next [`Self::settle`] drops it.
    pub(super) fn give_up(&mut self) {
        self.failed = true;
    }

    /// Called once the requests of a flush were answered: after a failure, goes back to the
    /// durable end. Until that worked every append is refused, so that no offset is given twice
    /// within one flush.
    pub(super) fn settle(&mut self, partition: &Partition) {
        if self.failed
            && let Err(error) = self.heal(partition)
        {
            storage_failed(partition, &error);
        }
    }

    fn heal(&mut self, partition: &Partition) -> io::Result<()> {
        let state = partition.state();
        let open = state.segments.last().expect("a partition has an open segment");
        open.file.set_len(open.bytes)?;
        open.file.sync_all()?;
        let files: Vec<_> = state
            .segments
            .iter()
            .map(|segment| (Arc::clone(&segment.file), segment.bytes))
            .collect();
        self.file = Arc::clone(&open.file);
        self.written = open.bytes;
        self.next_offset = open.next_offset;
        drop(state);
        self.pending.clear();
        self.buffer.clear();
        self.producers = recovery::rescan_producers(&files)?;
        self.failed = false;
        Ok(())
    }
}

/// Logs a storage failure once and names it for the client.
pub(super) fn storage_failed(partition: &Partition, error: &io::Error) -> ResponseError {
    tracing::error!(partition = %partition.name.dir(), error = %error, "could not write to the log");
    ResponseError::KafkaStorageError
}
