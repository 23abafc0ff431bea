//! Producer ids, unique for the life of the data directory.
//!
//! Ids are reserved in blocks: the end of a block is durable before its first id is given out, so
//! a crash skips ids and never repeats one. Owned by the log thread.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemill_contract::Result;

use super::files::{self, failed};

/// Ids reserved at once: one file write per so many producers.
const BLOCK: i64 = 1_000;

#[derive(Debug, Serialize, Deserialize)]
struct Reserved {
    /// One past the last reserved id.
    end: i64,
}

/// Gives out producer ids.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    path: PathBuf,
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// Goes on after the last reserved block and after every id seen in a log.
    pub(crate) fn open(path: PathBuf, largest_seen: Option<i64>) -> Result<Self> {
        let reserved: Option<Reserved> = files::read_json(&path)?;
        let end = reserved.map_or(0, |reserved| reserved.end);
        let next = end.max(largest_seen.map_or(0, |id| id + 1));
        Ok(Self { path, next, end: next })
    }

    /// A new id.
    pub(crate) fn next(&mut self) -> Result<i64> {
        if self.next >= self.end {
            let end = self.next + BLOCK;
            let written = files::replace_json(&self.path, &Reserved { end });
            written.map_err(|error| failed("write", &self.path, &error))?;
            self.end = end;
        }
        let id = self.next;
        self.next += 1;
        Ok(id)
    }
}
