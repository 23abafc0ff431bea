//! Closed rows on their way into files: buffered per view until there are enough of them or they
//! have waited long enough, so that file sizes do not depend on how often a job commits.
//!
//! The rows are part of the state, so nothing is lost, and queries read them from memory. Also
//! keeps the list of files published so far: with the buffer it is all of a view's closed rows at
//! one point.
//!
//! The rows of a window are in the buffer or in files, never in both. When a revision replaces
//! rows that are in files, the new ones wait in the buffer for the next commit, which always makes
//! a file of them, and until then the window's rows in files count no more.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use arrow::{array::RecordBatch, compute::concat_batches};
use tidemill_contract::{Error, Result, RevisedTable, StagedFile, WindowBounds};

use super::revise::{RevisedWindow, WindowColumns, take_windows};

/// Small batches are joined when so many have come together: keeps the state's size near that of
/// its rows.
const JOIN_BATCHES: usize = 256;

/// Rows of so many full files make a commit due before its time.
const FILES_WAITING: usize = 4;

/// The buffered rows of one view.
#[derive(Debug, Clone, Default)]
struct Buffer {
    /// Where the rows tell their window, if the view may be revised.
    columns: Option<WindowColumns>,
    /// Windows whose rows in files are replaced with the next commit, with the number of those.
    replaced: BTreeMap<WindowBounds, u64>,
    joined: Vec<RecordBatch>,
    recent: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    since: Option<Instant>,
    files: Vec<String>,
    /// Files that came since the last look at whether there are too many small ones.
    unjudged: usize,
}

impl Buffer {
    fn push(&mut self, rows: RecordBatch) -> Result<()> {
        self.rows += rows.num_rows();
        self.bytes += rows.get_array_memory_size();
        self.since.get_or_insert_with(Instant::now);
        self.recent.push(rows);
        if self.recent.len() >= JOIN_BATCHES {
            let schema = self.recent[0].schema();
            let joined = concat_batches(&schema, &self.recent)
                .map_err(|e| Error::internal(format!("closed rows cannot be joined: {e}")))?;
            self.recent.clear();
            self.joined.push(joined);
        }
        Ok(())
    }

    /// Puts the new rows of windows in the place of the old ones.
    fn revise(&mut self, revisions: &[RevisedWindow]) -> Result<()> {
        let columns = self.columns.as_ref();
        let columns = columns.ok_or_else(|| Error::internal("a view that cannot be revised"))?;
        let windows = revisions.iter().map(|revision| revision.window).collect();
        let mut taken = BTreeMap::new();
        for batch in self.joined.iter_mut().chain(&mut self.recent) {
            *batch = take_windows(batch, columns, &windows, &mut taken)?;
        }
        self.joined.retain(|batch| batch.num_rows() > 0);
        self.recent.retain(|batch| batch.num_rows() > 0);
        let left = || self.joined.iter().chain(&self.recent);
        self.rows = left().map(RecordBatch::num_rows).sum();
        self.bytes = left().map(RecordBatch::get_array_memory_size).sum();
        for revision in revisions {
            let found = taken.get(&revision.window).copied().unwrap_or(0);
            if found == 0 && revision.before > 0 && !self.replaced.contains_key(&revision.window) {
                self.replaced.insert(revision.window, revision.before);
            } else if found != revision.before {
                let what = format!("a window has {found} closed rows, not {}", revision.before);
                return Err(Error::internal(what));
            }
            if revision.rows.num_rows() > 0 {
                self.push(revision.rows.clone())?;
            }
        }
        Ok(())
    }

    fn batches(&self) -> Vec<RecordBatch> {
        self.joined.iter().chain(&self.recent).cloned().collect()
    }

    fn take(&mut self) -> Vec<RecordBatch> {
        self.rows = 0;
        self.bytes = 0;
        self.since = None;
        let mut taken = std::mem::take(&mut self.joined);
        taken.append(&mut self.recent);
        taken
    }
}

/// The closed rows of a view that are not in files.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    pub(crate) rows: Vec<RecordBatch>,
    /// Windows whose rows in files they replace.
    pub(crate) replaced: Vec<WindowBounds>,
    /// The columns that hold start and end of a row's window, if the view may be revised.
    pub(crate) columns: Option<(String, String)>,
}

/// When buffered rows get a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushSettings {
    /// Rows of one view.
    pub(crate) rows: usize,
    /// Bytes of all views' rows.
    pub(crate) bytes: usize,
    /// Age of the oldest row.
    pub(crate) age: Duration,
}

/// What a commit does with the buffered rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Files for what is large or old enough.
    Due,
    /// Files for everything.
    All,
}

/// The buffers of all views of a job.
#[derive(Debug)]
pub(crate) struct Tables {
    settings: FlushSettings,
    views: BTreeMap<String, Buffer>,
}

impl Tables {
    /// Empty buffers.
    pub(crate) fn new(
        settings: FlushSettings,
        views: impl IntoIterator<Item = (String, Option<WindowColumns>)>,
    ) -> Self {
        let buffer = |columns| Buffer { columns, ..Buffer::default() };
        let views = views.into_iter().map(|(view, columns)| (view, buffer(columns))).collect();
        Self { settings, views }
    }

    /// The view's rows go to a table of this job.
    pub(crate) fn contains(&self, view: &str) -> bool {
        self.views.contains_key(view)
    }

    /// Adds closed rows.
    pub(crate) fn push(&mut self, view: &str, rows: RecordBatch) -> Result<()> {
        match self.views.get_mut(view) {
            Some(buffer) => buffer.push(rows),
            None => Err(Error::internal(format!("view '{view}' has no table in this job"))),
        }
    }

    /// Replaces the rows of closed windows.
    pub(crate) fn revise(&mut self, view: &str, revisions: &[RevisedWindow]) -> Result<()> {
        match self.views.get_mut(view) {
            Some(buffer) => buffer.revise(revisions),
            None => Err(Error::internal(format!("view '{view}' has no table in this job"))),
        }
    }

    /// Takes out which windows in files are replaced with this commit. Their new rows are among
    /// those that [`Self::take`] gave just before.
    pub(crate) fn take_revised(&mut self) -> Vec<RevisedTable> {
        let mut revised = Vec::new();
        for (view, buffer) in &mut self.views {
            let Some(columns) = &buffer.columns else { continue };
            let replaced = std::mem::take(&mut buffer.replaced);
            if !replaced.is_empty() {
                revised.push(RevisedTable {
                    view: view.clone(),
                    start_column: columns.start.1.clone(),
                    end_column: columns.end.1.clone(),
                    rows: replaced.values().sum(),
                    windows: replaced.into_keys().collect(),
                });
            }
        }
        revised
    }

    /// The view was dropped: its rows are of no use.
    pub(crate) fn remove(&mut self, view: &str) {
        self.views.remove(view);
    }

    /// Some buffer is large or old enough for a file.
    pub(crate) fn is_due(&self) -> bool {
        self.is_crowded() || self.views.values().any(|buffer| self.settings.is_due(buffer))
    }

    /// Some buffer has the rows of several full files. One file's worth waits for the next commit:
    /// a job that catches up would else do little but commit.
    pub(crate) fn is_large(&self) -> bool {
        let large = self.settings.rows.saturating_mul(FILES_WAITING);
        self.is_crowded() || self.views.values().any(|buffer| buffer.rows >= large)
    }

    /// All buffers together hold as much as they may.
    fn is_crowded(&self) -> bool {
        self.views.values().map(|buffer| buffer.bytes).sum::<usize>() >= self.settings.bytes
    }

    /// Some buffer holds rows.
    pub(crate) fn holds_rows(&self) -> bool {
        self.views.values().any(|buffer| buffer.rows > 0)
    }

    /// Takes out the rows that get a file with this commit.
    pub(crate) fn take(&mut self, flush: Flush) -> BTreeMap<String, Vec<RecordBatch>> {
        let settings = self.settings;
        let flush = if self.is_crowded() { Flush::All } else { flush };
        self.views
            .iter_mut()
            .filter(|(_, buffer)| buffer.rows > 0)
            .filter(|(_, buffer)| flush == Flush::All || settings.is_due(buffer))
            .map(|(view, buffer)| (view.clone(), buffer.take()))
            .collect()
    }

    /// The rows that stay, for the state.
    pub(crate) fn kept(&self) -> BTreeMap<String, Vec<RecordBatch>> {
        self.views.iter().map(|(view, buffer)| (view.clone(), buffer.batches())).collect()
    }

    /// The rows of one view as they are with further revisions, and the windows whose rows in
    /// files count no more.
    pub(crate) fn closed(&self, view: &str, revisions: &[RevisedWindow]) -> Result<Closed> {
        let Some(buffer) = self.views.get(view) else { return Ok(Closed::default()) };
        let mut buffer = buffer.clone();
        if !revisions.is_empty() {
            buffer.revise(revisions)?;
        }
        let rows = buffer.batches();
        let columns = buffer.columns.map(|columns| (columns.start.1, columns.end.1));
        Ok(Closed { rows, replaced: buffer.replaced.into_keys().collect(), columns })
    }

    /// The published files of one view.
    pub(crate) fn files(&self, view: &str) -> Vec<String> {
        self.views.get(view).map(|buffer| buffer.files.clone()).unwrap_or_default()
    }

    /// Files that are in the view's table already.
    pub(crate) fn set_files(&mut self, view: &str, files: Vec<String>) {
        if let Some(buffer) = self.views.get_mut(view) {
            buffer.unjudged = files.len();
            buffer.files = files;
        }
    }

    /// The files of a view after some were written again.
    pub(crate) fn list_anew(&mut self, view: &str, files: Vec<String>) {
        if let Some(buffer) = self.views.get_mut(view) {
            buffer.files = files;
        }
    }

    /// Files that a commit has just published.
    pub(crate) fn published(&mut self, files: &[StagedFile]) {
        for file in files {
            if let Some(buffer) = self.views.get_mut(&file.view) {
                buffer.files.push(file.path.clone());
                buffer.unjudged += 1;
            }
        }
    }
}

impl Tables {
    /// A view to which so many files came that small ones may be worth putting together; it is
    /// not named again until as many came anew.
    pub(crate) fn take_fragmented(&mut self, files: usize) -> Option<String> {
        let found = self.views.iter_mut().find(|(_, buffer)| buffer.unjudged >= files);
        found.map(|(view, buffer)| {
            buffer.unjudged = 0;
            view.clone()
        })
    }

    /// Some files of a view were put together into one.
    pub(crate) fn compacted(&mut self, view: &str, removed: &[String], added: String) {
        if let Some(buffer) = self.views.get_mut(view) {
            buffer.files.retain(|file| !removed.contains(file));
            buffer.files.push(added);
        }
    }
}

impl FlushSettings {
    fn is_due(&self, buffer: &Buffer) -> bool {
        if !buffer.replaced.is_empty() {
            return true;
        }
        let old = buffer.since.is_some_and(|since| since.elapsed() >= self.age);
        buffer.rows > 0 && (buffer.rows >= self.rows || old)
    }
}
