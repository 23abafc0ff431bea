//! Small files of the job's tables are put together beside its own work, one table at a time.
//!
//! **Invariant.** Queries of this job read either all of the old files or the new one: the list
//! of files changes in one step, on the job's thread, after the Delta commit. The old files stay in
//! the bucket. A compaction that fails changes nothing and is tried again when more files came.
//! While a commit writes files of a table again no compaction of that table runs in this job; one
//! of another process is noticed when the Delta commit is made.

use tidemill_connectors::{
    sinks::delta::{self, CompactSettings, Compacted},
    store::Store,
};
use tidemill_contract::{Result, RevisedTable};
use tokio::task::JoinHandle;

use super::run::Run;

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compaction {
    view: String,
    task: JoinHandle<Result<Option<Compacted>>>,
}

impl Run<'_> {
    /// Takes over what a compaction did; starts the next one that is worth it.
    pub(super) fn tend_files(&mut self) {
        if let Some(done) = self.compaction.take_if(|compaction| compaction.task.is_finished()) {
            self.finish(done);
        }
        self.clean_tables();
        let files_min = self.environment.compact_files;
        let settings = CompactSettings { files_min, ..CompactSettings::default() };
        if self.compaction.is_none()
            && self.cleaning.is_none()
            && let Some(view) = self.tables.take_fragmented(settings.files_min)
        {
            let store = Store::clone(&self.environment.store);
            let table = view.clone();
            let work = async move { Box::pin(delta::compact(&store, &table, settings)).await };
            self.compaction =
                Some(Compaction { view, task: self.environment.executor.spawn(work) });
        }
    }

    /// Waits for a compaction under way, so that one that was worth beginning is not lost.
    pub(super) fn finish_compaction(&mut self) {
        if let Some(done) = self.compaction.take() {
            self.finish(done);
        }
    }

    /// Files of these tables are about to be written again.
    pub(super) fn wait_for_compaction(&mut self, revised: &[RevisedTable]) {
        let is_revised = |view: &str| revised.iter().any(|table| table.view == view);
        if let Some(running) = self.compaction.take_if(|running| is_revised(&running.view)) {
            self.finish(running);
        }
    }

    /// The files of revised tables are no longer those known.
    pub(super) fn list_revised(&mut self, revised: &[RevisedTable]) -> Result<()> {
        for table in revised {
            let listed = delta::files(&self.environment.store, &table.view);
            let files = self.environment.executor.block_on(Box::pin(listed))?;
            self.tables.list_anew(&table.view, files);
        }
        Ok(())
    }

    fn finish(&mut self, done: Compaction) {
        let view = done.view;
        match self.environment.executor.block_on(done.task) {
            Ok(Ok(Some(Compacted { removed, added }))) => {
                tracing::info!(job = %self.config.name, view, files = removed.len(), "compacted");
                // The table itself knows best: what was put together may itself come from a
                // compaction that this job, started again meanwhile, has not heard of.
                let listed = delta::files(&self.environment.store, &view);
                match self.environment.executor.block_on(Box::pin(listed)) {
                    Ok(files) => self.tables.list_anew(&view, files),
                    Err(_) => self.tables.compacted(&view, &removed, added),
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(job = %self.config.name, view, %error, "compaction failed");
            }
            Err(error) => {
                tracing::warn!(job = %self.config.name, view, %error, "compaction ended early");
            }
        }
    }
}
