//! Tests of the connectors: the broker and real Kafka under one client suite, sources, sinks.

mod broker;
mod cluster;
mod decode;
mod format;
mod log;
mod log_client;
mod log_suite;
mod python_clients;
mod sinks;
mod sources;
mod store;
mod wire;
