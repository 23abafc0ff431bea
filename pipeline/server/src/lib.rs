//! The program behind the command `tidemill`: command line, configuration, HTTP, telemetry, demo.
//!
//! Why it is a library: the binary stays a few lines, and the tests run the very same entry point.
//! It never computes, stores or delivers anything itself; all of that is the runtime's.

pub mod allocator;
pub mod cli;
pub mod config;
pub mod demo;
pub mod diagnostic;
pub mod output;
pub mod routes;
pub mod telemetry;
