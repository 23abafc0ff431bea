//! Tests of the connectors: the broker and real Kafka under one client suite, sources, sinks.

mod cluster;
mod log_client;
mod log_suite;
mod format;
mod log;
mod sinks;
mod sources;
mod store;
