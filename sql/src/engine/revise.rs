//! Revisions: late rows reopen closed windows of a query with `LATE REVISE`.
//!
//! The slices of a closed window are kept until the watermark is so far beyond its end. A late
//! row is added to its slice like any other; before that the rows of every closed window over it
//! are computed and remembered as what was said. Asked for its revisions, a group computes these
//! windows again. Many late rows between two questions give one revision.
//!
//! **Invariants.** A window waits here only while late rows may still count in it. The rows
//! before a revision are those said last. A window beyond its time is never computed again.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use tidemill_contract::{Micros, Watermark, WindowBounds};

use super::fault::Fault;
use super::group::{Client, Closed, Group};
use super::receipt::Provenance;

/// A closed window of a client: index of the client, end, start.
pub(crate) type Reopened = (usize, Micros, Micros);

/// What was said of a window that late rows were added to since.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) before: RecordBatch,
    pub(crate) late_rows: u64,
}

impl Client {
    /// The watermark from which on no row counts any more in a window with this end.
    pub(super) fn horizon(&self, end: Micros) -> Micros {
        end.saturating_add(self.revise.unwrap_or(0))
    }

    /// The windows over a slice that are closed and may be revised.
    fn reopened(&self, slice: Micros, closed: Micros) -> Vec<WindowBounds> {
        if self.revise.is_none() || slice >= closed {
            return Vec::new();
        }
        let mut windows = self.grid().windows_at(slice);
        windows.retain(|window| window.end <= closed && self.horizon(window.end) > closed);
        windows
    }
}

impl Group {
    /// Remembers what was said of the closed windows over a slice that is about to get `rows`.
    pub(super) fn reopen(&mut self, slice: Micros, rows: u64) -> Result<(), Fault> {
        for index in 0..self.clients.len() {
            let windows = self.clients[index].reopened(slice, self.closed.0);
            if !windows.is_empty() {
                self.clients[index].counters.revised += rows;
            }
            for window in windows {
                let key = (index, window.end, window.start);
                match self.pending.get_mut(&key) {
                    Some(pending) => pending.late_rows += rows,
                    None => {
                        let before = self.said(index, window)?;
                        self.pending.insert(key, Pending { before, late_rows: rows });
                    }
                }
            }
        }
        Ok(())
    }

    /// Bytes held: keys, slices, and what was said of reopened windows.
    pub(crate) fn bytes(&self) -> usize {
        let said = self.pending.values().map(|pending| pending.before.get_array_memory_size());
        self.store.bytes() + said.sum::<usize>()
    }

    /// The revisions since it was asked last.
    pub(crate) fn revise(&mut self) -> Result<Vec<Closed>, Fault> {
        let mut revised = Vec::new();
        for ((client, end, start), pending) in std::mem::take(&mut self.pending) {
            let window = WindowBounds { start, end };
            let revision = self.revision(client, window, pending)?;
            if let Some(closed) = &revision {
                self.write_receipt(client, window, closed.rows.num_rows(), true);
            }
            revised.extend(revision);
        }
        Ok(revised)
    }

    /// The revisions since it was asked last, if for some window it is the last moment.
    pub(super) fn revise_before(&mut self, watermark: Watermark) -> Result<Vec<Closed>, Fault> {
        let over = |(client, end, _): &Reopened| self.clients[*client].horizon(*end) <= watermark.0;
        if self.pending.keys().any(over) { self.revise() } else { Ok(Vec::new()) }
    }

    /// The revisions of one query since it was asked last; they stay to be said.
    pub(crate) fn peek_revisions(&mut self, query: &str) -> Result<Vec<Closed>, Fault> {
        let mine = |(client, ..): &&Reopened| self.clients[*client].query == query;
        let keys: Vec<Reopened> = self.pending.keys().filter(mine).copied().collect();
        let mut revised = Vec::new();
        for (client, end, start) in keys {
            let Some(Pending { before, late_rows }) = self.pending.get(&(client, end, start))
            else {
                continue;
            };
            let pending = Pending { before: before.clone(), late_rows: *late_rows };
            revised.extend(self.revision(client, WindowBounds { start, end }, pending)?);
        }
        Ok(revised)
    }

    /// `None` if the late rows changed nothing.
    fn revision(
        &mut self,
        client: usize,
        window: WindowBounds,
        pending: Pending,
    ) -> Result<Option<Closed>, Fault> {
        let rows = self.said(client, window)?;
        if rows == pending.before {
            return Ok(None);
        }
        let query = self.clients[client].query.clone();
        let from = Provenance::default();
        Ok(Some(Closed { query, window, rows, from, revision: Some(pending) }))
    }

    fn said(&mut self, client: usize, window: WindowBounds) -> Result<RecordBatch, Fault> {
        let rows = self.emit(client, window)?.map(|closed| closed.rows);
        let schema = &self.clients[client].schema;
        Ok(rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
    }
}
