//! tests

mod cli;
mod demo;
mod docs;
mod lake;
mod ledger;
mod tidy;
