//! Reading a partition: a range of batches for a fetch, an offset for a time.
//!
//! Blocking file reads: callers run them off the async threads. Never returns a byte beyond the
//! high watermark and never part of a batch.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::appender::storage_failed;
use super::batch::{self, HEADER_BYTES, Header};
use super::buffers::{Buffer, Buffers};
use super::partition::Partition;
use super::segment::INDEX_INTERVAL;

/// What a fetch of one partition found.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    /// Whole batches; the first may start before the offset asked for.
    pub(crate) records: Bytes,
    pub(crate) log_start: i64,
    pub(crate) high_watermark: i64,
}

/// Whether a fetch may exceed its byte limit to return its first batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overrun {
    /// Return one whole batch, however large: the client makes progress.
    FirstBatch,
    /// Stay within the limit, return nothing if need be.
    Never,
}

/// How much a read may return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes_max: usize,
    pub(crate) overrun: Overrun,
}

/// A range of durable bytes of one segment.
#[derive(Debug)]
struct Range {
    file: Arc<File>,
    from: u64,
    to: u64,
}

impl Partition {
    /// The batches from the one that holds `offset` on.
    pub(crate) fn read(
        &self,
        offset: i64,
        limit: Limit,
        buffers: &Arc<Buffers>,
    ) -> Result<Slice, ResponseError> {
        let (range, log_start, high_watermark) = {
            let state = self.state();
            Self::check_range(&state, offset)?;
            let segment = match offset < state.high_watermark {
                true => state.segment_of(offset),
                false => None,
            };
            let range = segment.map(|segment| Range {
                file: Arc::clone(&segment.file),
                from: segment.position_of(offset),
                to: segment.bytes,
            });
            (range, state.log_start, state.high_watermark)
        };
        let records = match range {
            None => Bytes::new(),
            Some(range) => read_batches(&range, offset, limit, buffers)
                .map_err(|error| storage_failed(self, &error))?,
        };
        Ok(Slice { records, log_start, high_watermark })
    }

    /// The first record at or after `timestamp`: offset and time; `None` if there is none.
    pub(crate) fn offset_for_time(
        &self,
        timestamp: i64,
    ) -> Result<Option<(i64, i64)>, ResponseError> {
        let (ranges, log_start) = {
            let state = self.state();
            let ranges: Vec<Range> = state
                .segments
                .iter()
                .filter(|segment| segment.next_offset > state.log_start)
                .filter_map(|segment| {
                    let from = segment.position_of_time(timestamp)?;
                    let file = Arc::clone(&segment.file);
                    Some(Range { file, from, to: segment.bytes })
                })
                .collect();
            (ranges, state.log_start)
        };
        for range in ranges {
            let found = find_time(&range, timestamp, log_start);
            if let Some(found) = found.map_err(|error| storage_failed(self, &error))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The record with the largest time: offset and time; `None` in an empty log.
    pub(crate) fn offset_of_max_time(&self) -> Result<Option<(i64, i64)>, ResponseError> {
        let largest = self.state().segments.iter().map(|segment| segment.max_timestamp).max();
        match largest {
            Some(timestamp) if timestamp >= 0 => self.offset_for_time(timestamp),
            _ => Ok(None),
        }
    }
}

fn read_batches(
    range: &Range,
    offset: i64,
    limit: Limit,
    buffers: &Arc<Buffers>,
) -> io::Result<Bytes> {
    let Limit { bytes_max, overrun } = limit;
    let available = usize::try_from(range.to - range.from).map_err(io::Error::other)?;
    // The wanted batch starts within one index interval of the entry.
    let wanted = bytes_max.saturating_add(2 * INDEX_INTERVAL as usize).min(available);
    let mut buffer = buffers.take(wanted);
    range.file.read_exact_at(&mut buffer, range.from)?;

    let mut start = 0;
    let first = loop {
        let Some(header) = buffer.get(start..).and_then(Header::parse) else {
            return Err(io::Error::other("the index points at no batch"));
        };
        if header.last_offset() >= offset {
            break header;
        }
        start += header.total_bytes;
    };
    if first.total_bytes > bytes_max {
        if overrun == Overrun::Never {
            return Ok(Bytes::new());
        }
        return read_one(range, buffer, start, first.total_bytes);
    }
    let mut end = start;
    while let Some(header) = buffer.get(end..).and_then(Header::parse) {
        let next = end + header.total_bytes;
        if next > buffer.len() || next - start > bytes_max {
            break;
        }
        end = next;
    }
    Ok(Bytes::from_owner(buffer).slice(start..end))
}

/// One batch that is larger than the limit; what was read already is not read again.
fn read_one(range: &Range, mut buffer: Buffer, start: usize, bytes: usize) -> io::Result<Bytes> {
    let end = start + bytes;
    let read = buffer.len();
    if end > read {
        buffer.grow(end);
        range.file.read_exact_at(&mut buffer[read..], range.from + read as u64)?;
    }
    Ok(Bytes::from_owner(buffer).slice(start..end))
}

fn find_time(range: &Range, timestamp: i64, log_start: i64) -> io::Result<Option<(i64, i64)>> {
    let mut position = range.from;
    let mut head = [0; HEADER_BYTES];
    while position + HEADER_BYTES as u64 <= range.to {
        range.file.read_exact_at(&mut head, position)?;
        let Some(header) = Header::parse(&head) else {
            return Err(io::Error::other("the index points at no batch"));
        };
        if header.max_timestamp >= timestamp && header.last_offset() >= log_start {
            let mut bytes = vec![0; header.total_bytes];
            range.file.read_exact_at(&mut bytes, position)?;
            if let Some((offset, time)) = batch::find_time(&header, &bytes, timestamp) {
                return Ok(Some((offset.max(log_start), time)));
            }
        }
        position += header.total_bytes as u64;
    }
    Ok(None)
}
