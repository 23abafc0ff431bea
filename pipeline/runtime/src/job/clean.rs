//! The job's tables are cleaned beside its own work, rarely, and never while files are put
//! together: see `crate::clean` for what may go.

use std::time::Instant;

use tidemill_connectors::store::Store;
use tidemill_contract::{Clock, Result, SystemClock, metric};
use tokio::task::JoinHandle;

use super::run::Run;
use crate::{clean, ledger::Pruned};

/// Old commits being taken away.
pub(super) type Pruning = JoinHandle<Result<Pruned>>;
/// A clean-up under way; gives the number of files deleted.
pub(super) type Cleaning = JoinHandle<Result<usize>>;

impl Run<'_> {
    /// Takes over what a clean-up did; starts the next one when it is due.
    pub(super) fn clean_tables(&mut self) {
        if let Some(done) = self.cleaning.take_if(|task| task.is_finished()) {
            self.cleaned(done);
        }
        let settings = self.environment.clean;
        let is_due = self.cleaned_at.is_none_or(|at| at.elapsed() >= settings.interval);
        // Only after a commit of this incarnation: until then the epochs may belong to a rival.
        let published = self.ledger.own_published();
        let Some(published) = published.filter(|_| is_due && self.compaction.is_none()) else {
            return;
        };
        if self.cleaning.is_some() {
            return;
        }
        self.cleaned_at = Some(Instant::now());
        let store = Store::clone(&self.environment.store);
        let (job, views) = (self.config.name.clone(), self.config.views());
        let now = SystemClock.now_micros();
        let work = async move {
            let work = clean::clean_tables(&store, &job, &views, published, settings, now);
            Box::pin(work).await.map(|deleted| deleted.len())
        };
        self.cleaning = Some(self.environment.executor.spawn(work));
    }

    /// Takes away old commits now and then, beside the next ones.
    pub(super) fn prune(&mut self) {
        if self.pruning.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.finish_pruning();
        if let Some(work) = self.ledger.pruning() {
            self.pruning = Some(self.environment.executor.spawn(work));
        }
    }

    /// Waits for it.
    pub(super) fn finish_pruning(&mut self) {
        let Some(task) = self.pruning.take() else { return };
        let job = &self.config.name;
        match self.environment.executor.block_on(task) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%job, %error, "old commits cannot be removed yet"),
            Err(error) => tracing::warn!(%job, %error, "removing old commits ended early"),
        }
    }

    fn cleaned(&self, done: Cleaning) {
        let job = &self.config.name;
        match self.environment.executor.block_on(done) {
            Ok(Ok(files)) => {
                let count = u64::try_from(files).unwrap_or(u64::MAX);
                metrics::counter!(metric::FILES_CLEANED, "job" => job.clone()).increment(count);
                if files > 0 {
                    tracing::info!(%job, files, "files nobody needs were deleted");
                }
            }
            Ok(Err(error)) => tracing::warn!(%job, %error, "tables cannot be cleaned yet"),
            Err(error) => tracing::warn!(%job, %error, "a clean-up ended early"),
        }
    }
}
