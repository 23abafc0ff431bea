//! tests

mod cli;
mod demo;
mod docs;
mod feed;
mod job;
mod lake;
mod ledger;
mod tidy;
mod watermark;
