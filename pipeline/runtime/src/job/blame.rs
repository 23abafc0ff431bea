//! Who was at fault when an incarnation of a job failed: it outlives the incarnation, so that it
//! is known after a panic too.
//!
//! It only remembers; `isolate` decides. An empty blame means that the job as a whole failed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use tidemill_contract::{Commit, Error, PartitionProgress, Result};
use tidemill_sql::engine::Fault;

use super::control::Change;
use crate::delivery::{Failures, Place};

/// What an incarnation leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// What messages changed for good.
    pub(super) changes: RefCell<Vec<Change>>,
    pub(super) blame: Blame,
    /// Where a job without a commit began to read.
    pub(super) start: RefCell<Option<BTreeMap<i32, PartitionProgress>>>,
    /// A commit by which queries of this job have left already.
    pub(super) parted: RefCell<Option<Commit>>,
}

/// Queries and places whose work failed.
#[derive(Debug, Default)]
pub(super) struct Blame {
    queries: RefCell<BTreeSet<String>>,
    places: RefCell<BTreeSet<Place>>,
}

impl Blame {
    /// Does work for one query: an error or a panic in it is that query's.
    pub(super) fn during<T>(&self, query: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_new = self.queries.borrow_mut().insert(query.to_owned());
        let done = work()?;
        if is_new {
            self.queries.borrow_mut().remove(query);
        }
        Ok(done)
    }

    /// The operators say whose work failed.
    pub(super) fn fault(&self, fault: Fault) -> Error {
        self.queries.borrow_mut().extend(fault.queries().iter().cloned());
        fault.into()
    }

    /// A query cannot go on.
    pub(super) fn query(&self, query: &str) {
        self.queries.borrow_mut().insert(query.to_owned());
    }

    /// A place refuses what goes there.
    pub(super) fn place(&self, place: Place) {
        self.places.borrow_mut().insert(place);
    }

    /// Places that did not get their part of a commit.
    pub(super) fn places(&self, failures: &Failures) {
        self.places.borrow_mut().extend(failures.iter().map(|(place, _)| place.clone()));
    }

    pub(super) fn take(&self) -> (BTreeSet<String>, BTreeSet<Place>) {
        (self.queries.take(), self.places.take())
    }
}
