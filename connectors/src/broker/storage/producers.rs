//! Idempotent producers of one partition: who wrote what last, so that a retry is not stored twice.
//!
//! Invariants: per producer id at most five batches are remembered, as many as a client may have
//! in flight; a batch is either the next in sequence, a known repeat, or refused. The state is a
//! function of the stored batches: it is rebuilt by reading their headers at start.

use std::collections::{HashMap, VecDeque};

use kafka_protocol::ResponseError;

use super::batch::Header;

/// Batches remembered per producer; clients keep at most five requests in flight.
const RECENT_MAX: usize = 5;
/// Producers remembered per partition; the longest silent one is forgotten first.
const PRODUCERS_MAX: usize = 10_000;

/// What to do with a batch that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Store it.
    Fresh,
    /// It is stored already, from this offset on.
    Repeat { base_offset: i64 },
}

#[derive(Debug, Clone, Copy)]
struct Written {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    recent: VecDeque<Written>,
}

impl Producer {
    fn last(&self) -> Option<&Written> {
        self.recent.back()
    }
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
}

impl Producers {
    /// Judges a batch against what its producer wrote before.
    pub(crate) fn judge(&self, header: &Header) -> Result<Verdict, ResponseError> {
        if !header.is_idempotent() {
            return Ok(Verdict::Fresh);
        }
        // An unknown producer may start anywhere: its earlier batches may have been deleted.
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            return Ok(Verdict::Fresh);
        };
        if header.producer_epoch < producer.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if header.producer_epoch > producer.epoch {
            return match header.base_sequence {
                0 => Ok(Verdict::Fresh),
                _ => Err(ResponseError::OutOfOrderSequenceNumber),
            };
        }
        let repeat = producer.recent.iter().find(|written| {
            written.first_sequence == header.base_sequence
                && written.last_sequence == header.last_sequence()
        });
        if let Some(written) = repeat {
            return Ok(Verdict::Repeat { base_offset: written.base_offset });
        }
        let expected = match producer.last().map(|written| written.last_sequence) {
            None => return Ok(Verdict::Fresh),
            Some(i32::MAX) => 0,
            Some(last) => last + 1,
        };
        match header.base_sequence == expected {
            true => Ok(Verdict::Fresh),
            false => Err(ResponseError::OutOfOrderSequenceNumber),
        }
    }

    /// Remembers a stored batch.
    pub(crate) fn record(&mut self, header: &Header, base_offset: i64) {
        if !header.is_idempotent() {
            return;
        }
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&header.producer_id) {
            self.forget_oldest();
        }
        let producer = self
            .by_id
            .entry(header.producer_id)
            .or_insert_with(|| Producer { epoch: header.producer_epoch, recent: VecDeque::new() });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.recent.clear();
        }
        producer.recent.push_back(Written {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
        });
        if producer.recent.len() > RECENT_MAX {
            producer.recent.pop_front();
        }
    }

    /// The largest producer id seen, so that new ids never repeat one.
    pub(crate) fn largest_id(&self) -> Option<i64> {
        self.by_id.keys().max().copied()
    }

    fn forget_oldest(&mut self) {
        let oldest = self
            .by_id
            .iter()
            .min_by_key(|(_, producer)| producer.last().map(|written| written.base_offset))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.by_id.remove(&id);
        }
    }
}
