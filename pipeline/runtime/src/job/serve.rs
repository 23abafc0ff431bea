//! Messages to a job at work, taken between two batches.

use std::sync::{
    Arc,
    mpsc::{Receiver, RecvTimeoutError, TryRecvError},
};

use tidemill_contract::{Error, Result};

use super::{
    Control, ViewSnapshot,
    control::Change,
    revise::RevisedWindow,
    run::{End, Run, STATUS_INTERVAL},
    tables::Flush,
};

impl Run<'_> {
    /// Takes the messages that wait. A paused or drained job waits for the next one.
    pub(super) fn serve(&mut self, inbox: &Receiver<Control>) -> Result<Option<End>> {
        loop {
            let message = if self.paused || self.drained {
                match inbox.recv_timeout(STATUS_INTERVAL) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => return Ok(None),
                    Err(RecvTimeoutError::Disconnected) => Control::Stop,
                }
            } else {
                match inbox.try_recv() {
                    Ok(message) => message,
                    Err(TryRecvError::Empty) => return Ok(None),
                    Err(TryRecvError::Disconnected) => Control::Stop,
                }
            };
            match message {
                Control::Stall { view, reply } => {
                    let _gone = reply.send(Ok(self.stall(&view))).is_err();
                }
                Control::View { view, limit, reply } => {
                    let snapshot = self.view(&view, limit);
                    let broken = snapshot.as_ref().err().filter(|_| self.is_broken).cloned();
                    // Whoever asked may have given up.
                    let _gone = reply.send(snapshot).is_err();
                    if let Some(error) = broken {
                        return Err(error);
                    }
                }
                Control::AddAlert(alert) => {
                    self.add_alert(&alert)?;
                    self.changes.borrow_mut().push(Change::AddAlert(alert));
                }
                Control::RemoveAlert(name) => {
                    self.dirty |= self.alerts.remove(&name).is_some();
                    self.changes.borrow_mut().push(Change::RemoveAlert(name));
                }
                Control::Mute { query, reply } => {
                    self.mute(query)?;
                    let _gone = reply.send(Ok(())).is_err();
                }
                Control::Recover(recovery) => recovery.refuse(&self.config.name),
                Control::Pause => self.set_paused(true)?,
                Control::Resume => self.set_paused(false)?,
                Control::Stop => {
                    self.stop()?;
                    return Ok(Some(End::Stopped));
                }
            }
            // Questions may come without end; a drained job must still see that its source goes on.
            if self.drained {
                return Ok(None);
            }
        }
    }

    /// Drops the results of a query, and commits so that nothing names them any more.
    fn mute(&mut self, query: String) -> Result<()> {
        // What it gave so far still goes out: the length of a sink's file must stay true.
        self.commit_if_dirty(Flush::Due)?;
        self.tables.remove(&query);
        self.told.remove(&query);
        self.sinks.remove(&query);
        self.file_bytes.remove(&query);
        self.muted.insert(query.clone());
        self.changes.borrow_mut().push(Change::Mute(query));
        self.commit(Flush::Due)
    }

    fn set_paused(&mut self, paused: bool) -> Result<()> {
        if paused {
            self.commit_if_dirty(Flush::Due)?;
        }
        self.paused = paused;
        self.changes.borrow_mut().push(Change::SetPaused(paused));
        self.tell();
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if !self.drained {
            self.commit_if_dirty(Flush::All)?;
        }
        self.finish_compaction();
        self.finish_pruning();
        self.tell();
        Ok(())
    }

    /// All rows of a view. After a panic the operators are of no use: `is_broken`.
    fn view(&mut self, view: &str, limit: usize) -> Result<ViewSnapshot> {
        let schema = self.config.catalog.query(view).map(|query| Arc::clone(&query.schema));
        let Some(schema) = schema.filter(|_| self.tables.contains(view)) else {
            return Err(Error::internal(format!(
                "view '{view}' is not of job '{}'",
                self.config.name
            )));
        };
        let live = match self.engine.peek(view, limit) {
            Ok(live) => live,
            Err(fault) if fault.is_harmless() => return Err(fault.into()),
            Err(fault) => {
                self.is_broken = true;
                return Err(self.blame.fault(fault));
            }
        };
        let Some(live) = live else {
            return Err(Error::invalid(
                "TM603",
                format!("the open windows of '{view}' are too large"),
            )
            .because(format!("a look at them may take {} MiB", limit >> 20))
            .help("wait until they are closed, or read the view's table in the bucket"));
        };
        let live = live.into_iter().map(|emission| emission.rows).collect();
        let revisions = match self.engine.peek_revisions(view) {
            Ok(revisions) => revisions,
            Err(fault) if fault.is_harmless() => return Err(fault.into()),
            Err(fault) => {
                self.is_broken = true;
                return Err(self.blame.fault(fault));
            }
        };
        let revisions = revisions.into_iter().map(RevisedWindow::of).collect::<Result<Vec<_>>>()?;
        let (files, closed) = (self.tables.files(view), self.tables.closed(view, &revisions)?);
        Ok(ViewSnapshot { schema, files, closed, live })
    }
}
