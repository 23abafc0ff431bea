//! Records of one partition, many at a time: the only unsafe code of the log client.
//!
//! Why: the safe interface hands out one record per call, and each costs an event, an allocation,
//! locks and looks at the clock, more than decoding it. `rd_kafka_consume_batch_queue` pays for
//! the clock once per batch and for no event at all.
//!
//! Why it is sound: a [`Queue`] keeps the client it belongs to; a [`Batch`] owns its messages, lends
//! them no longer than it lives, and gives each back once. It never copies and never blocks.

#![allow(unsafe_code, reason = "the log client's library has no safe interface to batches")]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_header_get_all, rd_kafka_message_destroy,
    rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_message_timestamp,
    rd_kafka_queue_destroy, rd_kafka_queue_get_partition, rd_kafka_queue_t,
    rd_kafka_timestamp_type_t,
};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// The queue of one partition.
pub(super) struct Queue<C: ConsumerContext + 'static> {
    native: NonNull<rd_kafka_queue_t>,
    /// The queue is a part of it.
    _consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: a queue of librdkafka may be used by any thread, it has a lock of its own; the consumer
// is `Send` and `Sync`.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: this is the one reference that `of` got, and the client still lives.
        unsafe { rd_kafka_queue_destroy(self.native.as_ptr()) }
    }
}

impl<C: ConsumerContext> Queue<C> {
    /// The queue of a partition that was split off before; `None` if there is no such partition.
    pub(super) fn of(consumer: &Arc<BaseConsumer<C>>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives as long as `consumer`, the name as long as the call.
        let native = unsafe { rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) };
        Some(Self { native: NonNull::new(native)?, _consumer: Arc::clone(consumer) })
    }

    /// Takes what is there, at most so many records; never waits.
    pub(super) fn take(&mut self, most: usize) -> Batch<'_> {
        let mut messages = vec![ptr::null_mut(); most];
        // SAFETY: there is room for `most` pointers.
        let count = unsafe {
            rd_kafka_consume_batch_queue(self.native.as_ptr(), 0, messages.as_mut_ptr(), most)
        };
        // An error is a negative count: there is nothing.
        messages.truncate(usize::try_from(count).unwrap_or(0));
        Batch { messages, _queue: PhantomData }
    }
}

/// Records and errors in the order they came.
pub(super) struct Batch<'q> {
    /// None is null: the library wrote each.
    messages: Vec<*mut rd_kafka_message_t>,
    /// They must go before the client.
    _queue: PhantomData<&'q mut ()>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: the library handed it to us, nothing of it is lent any more.
            unsafe { rd_kafka_message_destroy(*message) }
        }
    }
}

impl Batch<'_> {
    /// How many records and errors there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Lends them.
    pub(super) fn iter(&self) -> impl Iterator<Item = KafkaResult<Record<'_>>> {
        self.messages.iter().map(|message| {
            // SAFETY: the library handed it to us; it stays as it is until this batch is dropped.
            let message = unsafe { &**message };
            match message.err {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(Record(message)),
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    Err(KafkaError::PartitionEOF(message.partition))
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL => {
                    Err(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal))
                }
                error => Err(KafkaError::MessageConsumption(error.into())),
            }
        })
    }
}

/// One record, lent by its batch.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a rd_kafka_message_t);

impl<'a> Record<'a> {
    /// Its offset in the partition.
    pub(super) fn offset(self) -> i64 {
        self.0.offset
    }

    /// Milliseconds since the epoch, -1 if it has none.
    pub(super) fn timestamp_ms(self) -> i64 {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: both pointers are valid for the call.
        unsafe { rd_kafka_message_timestamp(self.0, &raw mut kind) }
    }

    /// Its key.
    pub(super) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: pointer and length are those of the key, which lives as long as the message.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// Its value; `None` is a tombstone.
    pub(super) fn payload(self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// Its headers in order; a header without a value has an empty one.
    pub(super) fn headers(self) -> Vec<(Cow<'a, str>, &'a [u8])> {
        let mut found = Vec::new();
        let mut headers = ptr::null_mut();
        // SAFETY: both pointers are valid for the call; the list belongs to the message.
        let outcome = unsafe { rd_kafka_message_headers(self.0, &raw mut headers) };
        if outcome != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut length) = (ptr::null::<c_char>(), ptr::null(), 0);
        loop {
            // SAFETY: the list is not changed; what is written is valid as long as the message.
            let outcome = unsafe {
                rd_kafka_header_get_all(
                    headers,
                    found.len(),
                    &raw mut name,
                    &raw mut value,
                    &raw mut length,
                )
            };
            if outcome != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return found;
            }
            // SAFETY: the name ends with a zero; value and length belong together; both live as
            // long as the message.
            let (name, value): (&'a CStr, _) =
                unsafe { (CStr::from_ptr(name), bytes(value, length)) };
            found.push((name.to_string_lossy(), value.unwrap_or_default()));
        }
    }
}

/// # Safety
/// `length` bytes from `start` must be valid for `'a`, unless it is null.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: by the contract above.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}
