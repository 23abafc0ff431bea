//! The test binary `it`: the whole product from outside (processes, real Kafka and S3, kills), the
//! runtime's stages, and the rules of the house.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

mod backends;
mod cli;
mod demo;
mod docs;
mod feed;
mod job;
mod lake;
mod ledger;
mod tidy;
mod watermark;
