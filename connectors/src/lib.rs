//! Everything that touches the outside: the log, the bucket, formats, sources and sinks.
//!
//! Why one crate: these share clients and rules (bounded buffers, no silent loss, no secrets in
//! messages), and nothing here compiles the query engine. It never sees `sql` and never decides
//! what a row means: it moves bytes, checks them against the declared columns, and says what it
//! could not move.

pub mod broker;
pub mod failpoint;
pub mod format;
pub mod log;
pub mod sinks;
pub mod sources;
pub mod store;
