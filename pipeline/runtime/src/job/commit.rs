//! One epoch: snapshot, stage, commit record, publication. Until the record is created nothing of
//! the epoch is true; after it everything is, and is rolled forward by whoever comes next.

use std::{collections::BTreeMap, time::Instant};

use tidemill_connectors::{failpoint, store::Store};
use tidemill_contract::{
    Clock, Commit, Error, ErrorKind, LogReader, PartitionId, Result, SystemClock, metric,
};

use super::{
    count,
    parts::PART_ROWS,
    run::Run,
    state::{EncodedState, Header, JobState},
    step::step_until,
    tables::Flush,
};
use crate::{
    delivery::{Place, is_lasting},
    outbox::Outbox,
    publish::{Staged, StagedEpoch},
};

/// Tries to give one commit to a store that does not say whether it took it.
const COMMIT_TRIES: u32 = 3;

impl Run<'_> {
    /// Makes everything since the last commit true, and visible.
    pub(super) fn commit(&mut self, flush: Flush) -> Result<()> {
        self.check_topic()?;
        let started = Instant::now();
        let revisions = self.engine.revise().map_err(|fault| self.blame.fault(fault))?;
        self.emit(revisions)?;
        self.keep_receipts()?;
        let drift = count::drift(&self.records, &self.engine.counters(), &self.direct);
        self.tell();
        count::check(&self.config.name, drift)?;

        let rows = self.tables.take(flush);
        let revised = self.tables.take_revised();
        self.wait_for_compaction(&revised);
        let EncodedState { bytes: state, parts } = self.snapshot()?.encode(&self.parts)?;
        self.gauge_state(state.len() as u64 - parts.bytes.len() as u64 + parts.total());
        let outbox = std::mem::take(&mut self.outbox);
        let (environment, config) = (self.environment, self.config);
        let until = started + environment.commit_timeout;
        let store = Store::clone(&environment.store);
        let staging = Staged::new(store, &config.name, self.ledger.next_epoch());
        // Side by side: neither needs the other's answer.
        let floor = async {
            self.ensure_topics(&outbox).await?;
            failpoint::reached("commit.before_floor")?;
            self.delivery.topic_floor(&outbox).await
        };
        let work = async { tokio::try_join!(staging.stage(rows, state, &outbox), floor) };
        let (staged, floor) = step_until(environment, config, until, work)?;
        let record = self.record(staged, floor);
        let commit = Commit { shared_state: parts.objects(), revised, ..record };
        failpoint::reached("commit.before_create")?;
        step_until(environment, config, until, self.create(&commit))?;
        failpoint::reached("commit.after_create")?;
        self.parts.committed(commit.state.as_ref(), &parts);
        let seconds = started.elapsed().as_secs_f64();
        metrics::histogram!(metric::COMMIT_SECONDS, "job" => config.name.clone()).record(seconds);

        step_until(environment, config, until, self.publish(&commit, &outbox))?;
        self.ledger.mark_published(commit.epoch);
        self.tables.published(&commit.files);
        self.list_revised(&commit.revised)?;
        self.dirty = false;
        self.trouble = None;
        self.has_alerts = false;
        self.report_progress();
        self.prune();
        self.committed_at = Instant::now();
        self.commit_took = started.elapsed();
        self.tell();
        Ok(())
    }

    fn snapshot(&mut self) -> Result<JobState> {
        let partitions = self.clock.memory();
        let alerts = self.alerts.iter().map(|(name, alert)| (name.clone(), alert.snapshot()));
        let header = Header {
            queries: self.counting(),
            alerts: alerts.collect(),
            partitions: partitions.into_iter().map(|(id, memory)| (id.0, memory)).collect(),
            records: self.records,
            told: self.told.clone(),
            tables: Vec::new(),
            parts: Vec::new(),
        };
        Ok(JobState {
            header,
            engine: self.engine.snapshot_parts(PART_ROWS)?,
            tables: self.tables.kept(),
        })
    }

    /// The queries whose results count.
    fn counting(&self) -> BTreeMap<String, u64> {
        let mut outputs = self.config.outputs.clone();
        outputs.retain(|name, _| !self.muted.contains(name));
        outputs
    }

    fn record(&mut self, staged: StagedEpoch, floor: crate::delivery::TopicFloor) -> Commit {
        // Of a log that may be another one the end says nothing.
        let is_connected = !self.reader.was_disconnected();
        let memory = self.clock.memory();
        let mut partitions = self.progress.clone();
        for (partition, progress) in &mut partitions {
            if let Some(memory) = memory.get(&PartitionId(*partition)) {
                progress.watermark = memory.watermark;
            }
            let end = self.reader.end_offset(PartitionId(*partition)).filter(|_| is_connected);
            progress.end = progress.end.max(end);
        }
        Commit {
            written_at: SystemClock.now_micros(),
            partitions,
            watermark: self.clock.current(),
            drained: self.clock.is_finished(),
            state: staged.state,
            files: staged.files,
            outbox: staged.outbox,
            topic_floor: floor,
            file_sink_bytes: self.file_bytes.clone(),
            counters: self.counters(),
            topic_id: self.watch.id.clone(),
            losses: self.losses.clone(),
            catalog_version: self.config.catalog_version,
            queries: Some(self.counting()),
            ..self.ledger.draft()
        }
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::from([
            ("records".to_owned(), self.records.records),
            ("rows".to_owned(), self.records.rows),
            ("quarantined".to_owned(), self.records.dead),
            ("tombstones".to_owned(), self.records.tombstones),
            ("lost".to_owned(), self.records.lost),
        ]);
        if self.records.duplicates > 0 {
            counters.insert("duplicates".to_owned(), self.records.duplicates);
        }
        for (query, count) in self.engine.counters() {
            counters.insert(format!("{query}.rows_in"), count.rows_in);
            counters.insert(format!("{query}.counted"), count.counted);
            counters.insert(format!("{query}.filtered"), count.filtered);
            counters.insert(format!("{query}.late"), count.late);
            if count.revised > 0 {
                counters.insert(format!("{query}.revised"), count.revised);
            }
        }
        counters
    }

    async fn create(&mut self, commit: &Commit) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.ledger.commit(commit.clone()).await {
                Err(error) if error.kind == ErrorKind::Unavailable && tries < COMMIT_TRIES => {
                    tracing::warn!(job = %self.config.name, %error, "commit is unclear, asked again");
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Shows what is true now. What refuses for good is looked for at once, place by place.
    async fn publish(&mut self, commit: &Commit, outbox: &Outbox) -> Result<()> {
        let published = self.delivery.publish(&mut self.ledger, commit, outbox);
        let Err(error) = Box::pin(published).await else {
            return Ok(());
        };
        if !is_lasting(&error) {
            return Err(error);
        }
        let rolled = self.delivery.roll_forward(&mut self.ledger, commit, outbox);
        let outcome = Box::pin(rolled).await;
        self.blame.places(self.delivery.failures());
        outcome
    }

    /// Topics that records go to must be there before their ends are noted.
    async fn ensure_topics(&mut self, outbox: &Outbox) -> Result<()> {
        for topic in outbox.topics() {
            if !self.ensured_topics.contains(topic) {
                self.environment.log.ensure_topic(topic, 1, &[]).await.map_err(|e: Error| {
                    if is_lasting(&e) {
                        self.blame.place(Place::Topic(topic.to_owned()));
                    }
                    e.help("the topic is where this job's records go")
                })?;
                self.ensured_topics.insert(topic.to_owned());
            }
        }
        Ok(())
    }

    /// Group offsets are a hint for dashboards.
    fn report_progress(&mut self) {
        let next: Vec<(PartitionId, i64)> = self
            .progress
            .iter()
            .map(|(partition, progress)| (PartitionId(*partition), progress.next_offset))
            .collect();
        self.reader.report_progress(&next);
    }

    #[allow(clippy::cast_precision_loss)] // A size on a dashboard.
    fn gauge_state(&self, bytes: u64) {
        metrics::gauge!(metric::STATE_BYTES, "job" => self.config.name.clone()).set(bytes as f64);
    }
}
