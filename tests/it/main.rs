//! The tests of the whole: the program as a process, jobs, ledger, docs and the tidiness of the tree.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

mod answer;
mod backends;
mod bucket;
mod cli;
mod dead;
mod demo;
mod docs;
mod fault;
mod feed;
mod isolation;
mod job;
mod lake;
mod late;
mod ledger;
mod pass;
mod receipts;
mod reliability;
mod stall;
mod tidy;
mod watermark;
