//! What happens after a commit: files enter their Delta tables, records their topics and files.
//!
//! Why it can be repeated: a commit says what is true; publication only shows it, and each step
//! finds out by itself what an earlier try has done. It never makes anything true and never skips
//! a step because some other place says that it is done.
//!
//! | step | what keeps a second try from showing |
//! |---|---|
//! | 1. Delta tables, revised windows included | `txn(job, epoch)` in the table's log is read first |
//! | 2. topics | ids at or above `Commit::topic_floor` are read back and skipped |
//! | 3. files | the place of the epoch's bytes is known; the same bytes are written there |
//!
//! In this order: who hears of an alert finds the rows it speaks of.
//!
//! Invariants:
//! - after `Ok` everything the commit names can be seen, once;
//! - `publish` is called at most once per epoch and process, right after its commit; every other
//!   try is `roll_forward`;
//! - the writer is this job's own: a flush speaks of this job's records only.
//!
//! A place that refuses its part (a file that cannot be written, a topic that is not allowed) does
//! not keep the others from theirs: each gets its part, and `failures` names those that did not.
//!
//! Topics cannot refuse a writer, so before it appends a process looks whether it still has the
//! job. On the wire it is at least once with one stable id: a process that was stopped between
//! that look and the append, or a record whose acknowledgement was lost while it was still under
//! way, may repeat records. Readers that must not see that drop repeated `tm-id`s. Files need no
//! such rule: a late repeat writes the bytes that are there.

mod file;
mod topic;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use tidemill_connectors::failpoint;
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store::Store;
use tidemill_contract::{Commit, Error, ErrorKind, Result, StagedFile};

use crate::ledger::Ledger;
use crate::outbox::Outbox;
use crate::writer::WriterSlot;

pub use file::file_length;

/// Tables committed to at once.
const PARALLEL: usize = 4;

/// Where topics end, per topic and partition: `Commit::topic_floor`.
pub type TopicFloor = BTreeMap<String, BTreeMap<i32, i64>>;

/// A place where results are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The table of a view.
    Table(String),
    /// A topic, by its name on the broker.
    Topic(String),
    /// The file of a sink, by the sink's name.
    File(String),
}

/// Places that did not get their part, each with the reason.
pub type Failures = Vec<(Place, Error)>;

/// Publishes the commits of one job.
#[derive(Debug)]
pub struct Delivery {
    store: Store,
    log: KafkaLog,
    writer: WriterSlot,
    /// Places that others deliver to, or nobody.
    skipped: BTreeSet<Place>,
    failures: Failures,
}

impl Delivery {
    /// Publishes to the tables of `store` and the topics of `log`.
    pub fn new(store: Store, log: KafkaLog) -> Self {
        let writer = WriterSlot::prompt();
        Self { store, log, writer, skipped: BTreeSet::new(), failures: Vec::new() }
    }

    /// Leaves places out of [`Self::roll_forward`].
    pub fn skip(&mut self, places: impl IntoIterator<Item = Place>) {
        self.skipped.extend(places);
    }

    /// The places at fault if the last [`Self::roll_forward`] failed; empty if no place alone was.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Appends with a writer that an earlier delivery of the same job may have used.
    #[must_use]
    pub(crate) fn with_writer(self, writer: WriterSlot) -> Self {
        Self { writer, ..self }
    }

    /// Where the topics of an outbox end now. To be asked after the publication before is
    /// complete and put into the commit that names the outbox. A topic that does not exist yet
    /// has no partitions here.
    ///
    /// # Errors
    /// Kind `Unavailable` if the broker does not answer.
    pub async fn topic_floor(&self, outbox: &Outbox) -> Result<TopicFloor> {
        stream::iter(outbox.topics())
            .map(|topic| async move {
                let ends = topic::ends(&self.log, topic).await?;
                let floor = ends.into_iter().map(|(partition, (_, high))| (partition, high));
                Ok((topic.to_owned(), floor.collect()))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Publishes a commit for the first time, with the outbox that was staged for it still at
    /// hand. After any error use [`Self::roll_forward`].
    ///
    /// # Errors
    /// Kind `Unavailable` if trying again may help, `Fenced` if another process has the job; else
    /// what makes it impossible.
    pub async fn publish(
        &mut self,
        ledger: &mut Ledger,
        commit: &Commit,
        outbox: &Outbox,
    ) -> Result<()> {
        first(&self.add_files(commit).await?)?;
        let staged = commit.outbox.as_ref().map_or(0, |object| object.records);
        if staged != outbox.len() as u64 {
            let what = format!("epoch {}: the outbox is not the one staged", commit.epoch);
            return Err(Error::internal(what));
        }
        if !outbox.topics().is_empty() {
            ledger.check_newest().await?;
            let topics = outbox.topics();
            let writer = self.writer.writer(&self.log)?;
            topic::append(&*writer, outbox, &topics, &topic::Present::default()).await?;
        }
        first(&self.append_files(ledger, commit, outbox).await?)
    }

    /// Publishes what is still missing of a commit: after a failed try, and at recovery with the
    /// newest commit, whether or not it was published before. `outbox` is the one it names.
    ///
    /// # Errors
    /// As [`Self::publish`]. If some places alone are at fault, the others have their parts, and
    /// [`Self::failures`] names those.
    pub async fn roll_forward(
        &mut self,
        ledger: &mut Ledger,
        commit: &Commit,
        outbox: &Outbox,
    ) -> Result<()> {
        // No topic speaks of rows that cannot be found in their table.
        self.publish_tables(commit).await?;
        let mut failures = self.append_topics(ledger, commit, outbox).await?;
        failures.extend(self.append_files(ledger, commit, outbox).await?);
        self.failures = failures;
        first(&self.failures)
    }

    /// Adds the files of a commit to their tables; those of an epoch that is in a table already
    /// are left out.
    ///
    /// # Errors
    /// Kind `Unavailable` if trying again may help; [`Self::failures`] names the tables at fault.
    pub async fn publish_tables(&mut self, commit: &Commit) -> Result<()> {
        self.failures.clear();
        self.failures = self.add_files(commit).await?;
        first(&self.failures)
    }

    async fn add_files(&self, commit: &Commit) -> Result<Failures> {
        failpoint::reached("publish.before_tables")?;
        let (app, epoch) = match &commit.origin {
            Some(origin) => (&origin.job, origin.epoch),
            None => (&commit.job, commit.epoch),
        };
        let version = i64::try_from(epoch)
            .map_err(|_| Error::internal(format!("epoch {epoch} is out of range")))?;
        let mut tables: BTreeMap<&str, Vec<StagedFile>> = BTreeMap::new();
        for file in &commit.files {
            if !self.skipped.contains(&Place::Table(file.view.clone())) {
                tables.entry(&file.view).or_default().push(file.clone());
            }
        }
        for table in &commit.revised {
            if !self.skipped.contains(&Place::Table(table.view.clone())) {
                tables.entry(&table.view).or_default();
            }
        }
        let outcomes: Vec<Option<(Place, Error)>> = stream::iter(tables)
            .map(|(view, files)| async move {
                failpoint::reached("publish.before_table")?;
                let store = &self.store;
                // Boxed: the Delta client's futures are large.
                let published = match commit.revised.iter().find(|table| table.view == view) {
                    None => Box::pin(delta::add_files(store, view, &files, app, version)).await,
                    Some(table) => {
                        Box::pin(delta::revise_files(store, &files, table, app, version)).await
                    }
                };
                if let Err(error) = published {
                    return Ok(Some((Place::Table(view.to_owned()), error)));
                }
                failpoint::reached("publish.after_table").map(|()| None)
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// All topics at once; one by one to see which it is if one refuses for good.
    async fn append_topics(
        &mut self,
        ledger: &mut Ledger,
        commit: &Commit,
        outbox: &Outbox,
    ) -> Result<Failures> {
        let mut topics = outbox.topics();
        topics.retain(|topic| !self.skipped.contains(&Place::Topic((*topic).to_owned())));
        let mut failures = Failures::new();
        match self.append_missing(ledger, commit, outbox, &topics).await {
            Err(error) if is_lasting(&error) => {}
            outcome => return outcome.map(|()| failures),
        }
        for topic in topics {
            let alone = BTreeSet::from([topic]);
            match self.append_missing(ledger, commit, outbox, &alone).await {
                Err(error) if is_lasting(&error) => {
                    failures.push((Place::Topic(topic.to_owned()), error));
                }
                outcome => outcome?,
            }
        }
        Ok(failures)
    }

    async fn append_missing(
        &mut self,
        ledger: &mut Ledger,
        commit: &Commit,
        outbox: &Outbox,
        topics: &BTreeSet<&str>,
    ) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        self.writer.settle().await?;
        let present = topic::present(&self.log, topics, &commit.topic_floor).await?;
        ledger.check_newest().await?;
        topic::append(&*self.writer.writer(&self.log)?, outbox, topics, &present).await
    }

    /// Appends to the files that are not skipped; gives those that refused.
    async fn append_files(
        &self,
        ledger: &mut Ledger,
        commit: &Commit,
        outbox: &Outbox,
    ) -> Result<Failures> {
        if outbox.file_bytes().is_empty() {
            return Ok(Failures::new());
        }
        ledger.check_newest().await?;
        let failures = file::append(outbox, commit, &self.skipped).await?;
        if !failures.is_empty() {
            // A file that is longer than it should be may be the work of whoever has the job now.
            ledger.check_newest().await?;
        }
        Ok(failures)
    }
}

/// Trying again will not help by itself.
pub(crate) fn is_lasting(error: &Error) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Fenced)
}

fn first(failures: &Failures) -> Result<()> {
    failures.first().map_or(Ok(()), |(_, error)| Err(error.clone()))
}
