//! Small files of the job's tables are put together beside its own work, one table at a time.
//!
//! **Invariant.** Queries of this job read either all of the old files or the new one: the list
//! of files changes in one step, on the job's thread, after the Delta commit. The old files stay in
//! the bucket. A compaction that fails changes nothing and is tried again when more files came.

use tidemill_connectors::{
    sinks::delta::{self, CompactSettings, Compacted},
    store::Store,
};
use tidemill_contract::Result;
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

    fn finish(&mut self, done: Compaction) {
        let view = done.view;
        match self.environment.executor.block_on(done.task) {
            Ok(Ok(Some(Compacted { removed, added }))) => {
                tracing::info!(job = %self.config.name, view, files = removed.len(), "compacted");
                self.tables.compacted(&view, &removed, added);
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
