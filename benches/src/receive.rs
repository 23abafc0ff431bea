//! The payloads of a topic as cheaply as librdkafka gives them: what `a0` and `floor` stand on.
//!
//! The one call that hands over many messages at once, their bytes lent. Written apart from the
//! product's reader, so that a fault of the one is no fault of the other. It never copies.

#![allow(unsafe_code, reason = "the log client's library has no safe interface to batches")]

use std::ptr;

use anyhow::{Result, bail};
use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_message_t,
    rd_kafka_queue_destroy, rd_kafka_queue_get_consumer,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaRespErr;

/// Messages taken at once.
const AT_ONCE: usize = 1024;
/// Longest wait for the next, in milliseconds.
const WAIT_MS: i32 = 30_000;

/// Calls `handle` with the payloads of the next `count` messages of what is assigned.
///
/// # Errors
/// The first of `handle`, of the client, or that no message came for 30 s.
pub fn payloads(
    consumer: &BaseConsumer,
    count: u64,
    mut handle: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    // SAFETY: the client lives as long as `consumer`; the reference is given back below.
    let queue = unsafe { rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    let mut messages = vec![ptr::null_mut(); AT_ONCE];
    let (mut received, mut outcome) = (0, Ok(()));
    while received < count && outcome.is_ok() {
        // It waits until it has as many as it is told.
        let most = AT_ONCE.min(usize::try_from(count - received).unwrap_or(AT_ONCE));
        // SAFETY: there is room for as many pointers.
        let taken =
            unsafe { rd_kafka_consume_batch_queue(queue, WAIT_MS, messages.as_mut_ptr(), most) };
        let taken = usize::try_from(taken).unwrap_or(0);
        if taken == 0 {
            outcome = Err(anyhow::anyhow!("nothing for 30 s"));
        }
        for message in messages.iter().take(taken) {
            // SAFETY: the library wrote these, and each is given back once, after its use.
            unsafe {
                if outcome.is_ok() {
                    outcome = payload(&**message).and_then(&mut handle);
                }
                rd_kafka_message_destroy(*message);
            }
            received += 1;
        }
    }
    // SAFETY: the reference from above, not used any more.
    unsafe { rd_kafka_queue_destroy(queue) };
    outcome
}

/// # Safety
/// The message must be one that the library handed over and that was not given back.
unsafe fn payload(message: &rd_kafka_message_t) -> Result<&[u8]> {
    if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        bail!("the client reports {:?}", message.err);
    }
    if message.payload.is_null() {
        bail!("a record without payload");
    }
    // SAFETY: pointer and length belong together, and live as long as the message.
    Ok(unsafe { std::slice::from_raw_parts(message.payload.cast(), message.len) })
}
