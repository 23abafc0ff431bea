//! The rows a source could not take, looked at and submitted again: `SHOW DEAD`, `REPLAY DEAD`.
//!
//! A dead row lies in the topic `<source>.dead` and stays there; nothing here deletes one. What
//! was submitted again is in the replay book in the bucket (see [`book`]).
//!
//! Invariants:
//! - a dead row is submitted once, also when the process dies in the middle and the statement is
//!   sent again; `FORCE` alone submits it again;
//! - nothing is submitted that the source would refuse again;
//! - a submitted row that is refused after all is a new dead row that names the first one; nothing
//!   is replayed by itself.

mod book;
mod check;
mod original;
mod pages;
mod replay;
mod row;
mod select;
mod summary;

pub(crate) use book::{Book, check_entry};
pub(crate) use pages::newest;
pub(crate) use replay::{Mode, Replay};
pub(crate) use row::columns;
pub(crate) use summary::{Group, summary};

/// The topic of a source's dead rows.
pub(crate) fn topic(source: &str) -> String {
    format!("{source}.dead")
}
