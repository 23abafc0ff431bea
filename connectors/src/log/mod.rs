//! Logs: what the contract's `LogReader` and `LogWriter` are implemented on.
//!
//! There is one client path, librdkafka, for the embedded broker and for real Kafka alike; this
//! module never speaks the wire protocol itself.

pub mod kafka;
