//! Records of one partition, many at a time: the only unsafe code of the log client.
//!
//! Why: the safe interface hands out one record per call, and each costs an event, an allocation,
//! locks and looks at the clock, more than decoding it. `rd_kafka_consume_batch_queue` pays for
//! the clock once per batch and for no event at all.
//!
//! Why it is sound: a [`Queue`] and a [`Batch`] keep the client they belong to; a batch owns its
//! messages, lends them no longer than it lives, and gives each back once. It never copies a record
//! and never waits for one.

#![allow(unsafe_code, reason = "the log client's library has no safe interface to batches")]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_header_get_all, rd_kafka_message_destroy,
    rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_message_timestamp,
    rd_kafka_queue_destroy, rd_kafka_queue_get_partition, rd_kafka_queue_t,
    rd_kafka_timestamp_type_t,
};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use tidemill_contract::Records;

/// The queue of one partition.
pub(super) struct Queue<C: ConsumerContext + 'static> {
    native: NonNull<rd_kafka_queue_t>,
    /// The queue is a part of it.
    consumer: Arc<BaseConsumer<C>>,
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
        Some(Self { native: NonNull::new(native)?, consumer: Arc::clone(consumer) })
    }

    /// Adds what is there to a batch of this partition, at most so many records; never waits.
    /// Gives how many records and errors came.
    pub(super) fn take(&mut self, most: usize, into: &mut Batch<C>) -> usize {
        into.room.resize(most, ptr::null_mut());
        // SAFETY: there is room for `most` pointers.
        let count = unsafe {
            rd_kafka_consume_batch_queue(self.native.as_ptr(), 0, into.room.as_mut_ptr(), most)
        };
        // An error is a negative count: there is nothing.
        let count = usize::try_from(count).unwrap_or(0);
        into.messages.extend(into.room.iter().take(count));
        count
    }

    /// A batch with nothing in it.
    pub(super) fn batch(&self) -> Batch<C> {
        Batch {
            messages: Vec::new(),
            room: Vec::new(),
            parsing: Mutex::new(()),
            _consumer: Arc::clone(&self.consumer),
        }
    }
}

/// Records, and until they are taken out errors, in the order they came.
pub(super) struct Batch<C: ConsumerContext + 'static> {
    /// None is null: the library wrote each.
    messages: Vec<*mut rd_kafka_message_t>,
    /// Where the library writes.
    room: Vec<*mut rd_kafka_message_t>,
    /// Held while the library parses the headers of a message, which it keeps in it.
    parsing: Mutex<()>,
    /// The messages must go before the client.
    _consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: the messages are this batch's alone, and librdkafka lets any thread read and destroy a
// message; the consumer is `Send` and `Sync`.
unsafe impl<C: ConsumerContext> Send for Batch<C> {}
// SAFETY: a message is only read; the one call that writes to it, to keep the headers it parsed,
// is made under a lock, and no other call reads what it writes.
unsafe impl<C: ConsumerContext> Sync for Batch<C> {}

impl<C: ConsumerContext> Drop for Batch<C> {
    fn drop(&mut self) {
        for message in self.messages.drain(..) {
            // SAFETY: the library handed it to us, nothing of it is lent any more.
            unsafe { rd_kafka_message_destroy(message) }
        }
    }
}

impl<C: ConsumerContext> Batch<C> {
    fn message(&self, index: usize) -> &rd_kafka_message_t {
        // SAFETY: the library handed it to us; it stays as it is until this batch is dropped.
        unsafe { &*self.messages[index] }
    }

    /// Looks at what came from place `first` on: keeps the records that `wanted` wants by their
    /// offset, gives each error to `failed`, and drops everything from the first that it gives back.
    pub(super) fn sort_out<E>(
        &mut self,
        first: usize,
        mut wanted: impl FnMut(i64) -> bool,
        mut failed: impl FnMut(KafkaError) -> Option<E>,
    ) -> Option<E> {
        let (mut kept, mut failure) = (first, None);
        for index in first..self.messages.len() {
            let message = self.message(index);
            let is_kept = failure.is_none()
                && match error(message) {
                    None => wanted(message.offset),
                    Some(error) => {
                        failure = failed(error);
                        false
                    }
                };
            if is_kept {
                self.messages.swap(kept, index);
                kept += 1;
            }
        }
        for message in self.messages.drain(kept..) {
            // SAFETY: as in `drop`.
            unsafe { rd_kafka_message_destroy(message) }
        }
        failure
    }

    /// Bytes of keys and values from place `first` on.
    pub(super) fn bytes(&self, first: usize) -> usize {
        let sizes = (first..self.messages.len()).map(|index| {
            let message = self.message(index);
            message.len + message.key_len
        });
        sizes.sum()
    }
}

/// What a message says instead of being a record.
fn error(message: &rd_kafka_message_t) -> Option<KafkaError> {
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => None,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
            Some(KafkaError::PartitionEOF(message.partition))
        }
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL => {
            Some(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal))
        }
        error => Some(KafkaError::MessageConsumption(error.into())),
    }
}

impl<C: ConsumerContext + 'static> Records for Batch<C> {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn offset(&self, index: usize) -> i64 {
        self.message(index).offset
    }

    fn timestamp_ms(&self, index: usize) -> i64 {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: both pointers are valid for the call.
        unsafe { rd_kafka_message_timestamp(self.message(index), &raw mut kind) }
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        let message = self.message(index);
        // SAFETY: pointer and length are those of the key, which lives as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    fn payload(&self, index: usize) -> Option<&[u8]> {
        let message = self.message(index);
        // SAFETY: as for the key.
        unsafe { bytes(message.payload, message.len) }
    }

    /// A header without a value has an empty one.
    fn headers(&self, index: usize) -> Vec<(Cow<'_, str>, &[u8])> {
        let mut found = Vec::new();
        let mut headers = ptr::null_mut();
        let _parsing = self.parsing.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both pointers are valid for the call, and nobody else parses; the list belongs
        // to the message.
        let outcome = unsafe { rd_kafka_message_headers(self.message(index), &raw mut headers) };
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
            // SAFETY: the name ends with a zero; value and length belong together.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, length)) };
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
