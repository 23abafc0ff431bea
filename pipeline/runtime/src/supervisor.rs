//! Starts, stops and addresses feeds and jobs as the catalog changes.
//!
//! It holds handles only: what a job does is the job's, what a query is the catalog's. It never
//! restarts a job or feed that failed by itself: they try again themselves, and what they give up
//! on waits until a person says `RESUME`.

use std::{collections::BTreeMap, sync::Arc};

use object_store::path::Path;
use tidemill_connectors::{
    log::kafka::{KafkaLog, KafkaSettings},
    sinks::delta,
    sources, store,
};
use tidemill_contract::{Error, ErrorKind, Loss, Result, SourceSpec};
use tidemill_sql::catalog::{Catalog, RegisteredAlert};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    assignment::{self, Share},
    feed::{Feed, FeedEnd, topic_partitions},
    job::{Bound, Control, JobConfig, JobEnvironment, JobHandle, JobProbe, RecoverFrom},
    status::DATA_LOSS,
    writer::WriterSlot,
};

/// Option: where a bounded read of an existing topic ends.
const BOUNDED_MODE: &str = "scan.bounded.mode";
/// Option: a fed source is followed for ever.
const MONITOR_INTERVAL: &str = "source.monitor-interval";

/// The catalog at one version, with the number of each query's `CREATE` statement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) created: BTreeMap<String, u64>,
    pub(crate) version: u64,
}

impl Registry {
    /// The queries at whose root a source is.
    fn queries_of(&self, source: &str) -> BTreeMap<String, u64> {
        let queries = self.catalog.queries().values();
        let queries = queries.filter(|query| query.root_source == source);
        let numbered = queries.filter_map(|query| {
            self.created.get(&query.name).map(|number| (query.name.clone(), *number))
        });
        numbered.collect()
    }
}

#[derive(Debug)]
struct FeedHandle {
    accept: Arc<Notify>,
    stop: watch::Sender<bool>,
    /// Kept for a run after one that gave up.
    writer: WriterSlot,
    /// Written by the feed when it is drained, and by who appends to its topic after that.
    ended: watch::Sender<Option<FeedEnd>>,
    end: watch::Receiver<Option<FeedEnd>>,
    task: JoinHandle<()>,
}

/// All feeds and jobs of a process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    environment: JobEnvironment,
    jobs: BTreeMap<String, JobHandle>,
    feeds: BTreeMap<String, FeedHandle>,
    unbounded: bool,
}

impl Supervisor {
    /// Runs nothing yet.
    pub(crate) fn new(environment: JobEnvironment) -> Self {
        Self { environment, jobs: BTreeMap::new(), feeds: BTreeMap::new(), unbounded: false }
    }

    /// Starts the feeds and jobs of the whole catalog.
    pub(crate) async fn start_all(&mut self, registry: &Registry) -> Result<()> {
        for source in registry.catalog.sources().values() {
            self.start_source(registry, source).await?;
        }
        Ok(())
    }

    /// Starts the jobs of a source. If a commit of theirs is damaged nobody can say which job has
    /// which query: none of them starts until it is repaired, and the other sources go on.
    async fn start_source(&mut self, registry: &Registry, source: &SourceSpec) -> Result<()> {
        let queries = registry.queries_of(&source.name);
        if queries.is_empty() {
            return Ok(());
        }
        let shares = match self.divide(&source.name, &queries).await {
            Err(error) if error.kind == ErrorKind::Corrupt => {
                let board = &self.environment.board;
                board.update_job(&source.name, |status| {
                    status.source.clone_from(&source.name);
                    status.queries = queries.keys().cloned().collect();
                });
                let parked = board.park_job(&source.name, &error, 1);
                tracing::error!(source = %source.name, error = %parked, "no job of it starts");
                return Ok(());
            }
            shares => shares?,
        };
        for share in shares {
            if !self.jobs.contains_key(&share.job) {
                self.start_job(registry, source, share).await?;
            }
        }
        Ok(())
    }

    /// A query was registered while running: it gets a job of its own, unless the source has no
    /// job yet.
    pub(crate) async fn add_query(&mut self, registry: &Registry, name: &str) -> Result<()> {
        let (Some(query), Some(number)) =
            (registry.catalog.query(name), registry.created.get(name))
        else {
            return Err(Error::internal(format!("query '{name}' is not registered")));
        };
        let Some(source) = registry.catalog.source(&query.root_source) else {
            return Err(Error::internal(format!("query '{name}' has no source")));
        };
        let alone = BTreeMap::from([(name.to_owned(), *number)]);
        let share = if self.jobs.contains_key(&source.name) {
            Share { job: assignment::own_job(&source.name, *number), outputs: alone }
        } else {
            let shares = self.divide(&source.name, &alone).await?;
            let share = shares.into_iter().next();
            share.ok_or_else(|| Error::internal(format!("query '{name}' has no job")))?
        };
        self.start_job(registry, source, share).await
    }

    /// Queries left their jobs: the jobs they went to are started.
    pub(crate) async fn follow_partings(&mut self, registry: &Registry) -> Result<()> {
        for source in registry.catalog.sources().values() {
            if !self.reads(&source.name) {
                continue;
            }
            let queries = registry.queries_of(&source.name);
            for share in self.divide(&source.name, &queries).await? {
                // Nobody ever leaves for the source's first job.
                if share.job == source.name || self.jobs.contains_key(&share.job) {
                    continue;
                }
                for job in self.jobs.values_mut() {
                    job.outputs.retain(|name, _| !share.outputs.contains_key(name));
                }
                self.start_job(registry, source, share).await?;
            }
        }
        Ok(())
    }

    async fn divide(&self, source: &str, queries: &BTreeMap<String, u64>) -> Result<Vec<Share>> {
        let JobEnvironment { store, writer, .. } = &self.environment;
        Box::pin(assignment::divide(store, writer, source, queries)).await
    }

    async fn start_job(
        &mut self,
        registry: &Registry,
        source: &SourceSpec,
        share: Share,
    ) -> Result<()> {
        let log = source_log(&self.environment.log, source)?;
        let partitions = topic_partitions(source)?;
        log.ensure_topic(source.topic(), partitions, &[]).await?;
        let bound = self.bound_of(source)?;
        self.unbounded |= !bound.is_bounded();
        let paused =
            share.outputs.keys().any(|name| registry.catalog.query(name).is_some_and(|q| q.paused));
        let alerts = registry.catalog.alerts().values();
        let alerts = alerts.filter(|alert| share.outputs.contains_key(&alert.spec.view)).cloned();
        let config = JobConfig {
            quarantines: share.job == source.name || !self.reads(&source.name),
            name: share.job.clone(),
            source: source.clone(),
            log,
            writer: WriterSlot::prompt(),
            catalog: Arc::clone(&registry.catalog),
            catalog_version: registry.version,
            alerts: alerts.collect(),
            queries: assignment::with_inputs(&registry.catalog, share.outputs.keys()),
            outputs: share.outputs,
            bound,
            paused,
            left_out: std::collections::BTreeSet::new(),
        };
        let handle = JobHandle::spawn(self.environment.clone(), config)?;
        self.jobs.insert(share.job, handle);
        Ok(())
    }

    /// Some job reads this source.
    fn reads(&self, source: &str) -> bool {
        self.jobs.values().any(|job| job.source == source)
    }

    /// Where a source ends; starts its feed if it needs one.
    fn bound_of(&mut self, source: &SourceSpec) -> Result<Bound> {
        let ending = ending(source);
        if ending == Ending::Fixed {
            return Ok(Bound::AtStart);
        }
        if matches!(sources::open(source, std::collections::BTreeSet::new()), Ok(None)) {
            return Ok(Bound::Never);
        }
        let is_bounded = ending == Ending::Fed;
        if !self.feeds.contains_key(&source.name) {
            let feed = self.start_feed(source, is_bounded)?;
            self.feeds.insert(source.name.clone(), feed);
        }
        let end = self.feeds.get(&source.name).filter(|_| is_bounded).map(|feed| feed.end.clone());
        Ok(end.map_or(Bound::Never, Bound::Feed))
    }

    fn start_feed(&self, source: &SourceSpec, is_bounded: bool) -> Result<FeedHandle> {
        let feed = self.feed_of(source)?;
        let environment = &self.environment;
        environment.board.update_feed(&source.name, |status| {
            source.connector().clone_into(&mut status.connector);
            status.bounded = is_bounded;
            "starting".clone_into(&mut status.state);
        });
        let accept = Arc::clone(&feed.accept);
        let (stop, stopped) = watch::channel(false);
        let (ended, end) = watch::channel(None);
        let writer = WriterSlot::default();
        let run = feed.run_with(writer.clone(), ended.clone(), stopped);
        let task = environment.executor.spawn(run);
        Ok(FeedHandle { accept, stop, writer, ended, end, task })
    }

    fn feed_of(&self, source: &SourceSpec) -> Result<Feed> {
        let JobEnvironment { log, store, board, .. } = &self.environment;
        Feed::of_source(source, log.clone(), store::Store::clone(store), Arc::clone(board))
    }

    /// Lets a feed that gave up try again; true if it had.
    fn resume_feed(&mut self, registry: &Registry, source: &str) -> Result<bool> {
        let Some(spec) = registry.catalog.source(source) else { return Ok(false) };
        let feed = self.feed_of(spec)?;
        let Some(handle) = self.feeds.get_mut(source) else { return Ok(false) };
        if !self.environment.board.resume_feed(source) {
            return Ok(false);
        }
        let (stop, stopped) = watch::channel(false);
        handle.accept = Arc::clone(&feed.accept);
        let run = feed.run_with(handle.writer.clone(), handle.ended.clone(), stopped);
        handle.task = self.environment.executor.spawn(run);
        handle.stop = stop;
        Ok(true)
    }

    /// A query was dropped: its results go, and its job if nothing else runs in it.
    pub(crate) async fn drop_query(&mut self, name: &str) -> Result<()> {
        let job = self.jobs.iter_mut().find(|(_, job)| job.outputs.contains_key(name));
        if let Some((job_name, job)) = job {
            // A failed job cannot answer; it is stopped or its rows are removed all the same.
            let muted = job.mute(name).await;
            job.outputs.remove(name);
            if job.outputs.is_empty() {
                let job_name = job_name.clone();
                if let Some(job) = self.jobs.remove(&job_name) {
                    job.stop().await;
                    self.environment.board.remove_job(&job_name);
                }
            } else {
                muted?;
            }
        }
        self.remove_objects(&delta::location(name)).await
    }

    /// A source was dropped: its feed stops and its jobs are forgotten, so that one of the same
    /// name begins anew. What the feed has finished stays known, as does the topic.
    pub(crate) async fn drop_source(&mut self, name: &str) -> Result<()> {
        if let Some(feed) = self.feeds.remove(name) {
            feed.stop().await;
            self.environment.board.remove_feed(name);
        }
        for folder in ["commits", "state", "outbox"] {
            self.remove_objects(&Path::from_iter([folder, name])).await?;
        }
        Ok(())
    }

    async fn remove_objects(&self, folder: &Path) -> Result<()> {
        let store = &self.environment.store;
        for object in store::list(store, folder).await? {
            store::delete(store, &object).await?;
        }
        Ok(())
    }

    /// The topic of a bounded feed ends further on now: its job reads up to there.
    pub(crate) fn extend_end(&self, source: &str, ends: &BTreeMap<i32, i64>) {
        let Some(feed) = self.feeds.get(source) else { return };
        feed.ended.send_modify(|end| {
            // A feed that is not drained yet will find the end itself.
            for (partition, bound) in end.iter_mut().flat_map(|end| &mut end.ends) {
                *bound = ends.get(partition).map_or(*bound, |end| (*end).max(*bound));
            }
        });
    }

    /// Watches a view from now on.
    pub(crate) async fn add_alert(&self, alert: &RegisteredAlert) -> Result<()> {
        let job = self.job_of(&alert.spec.view)?;
        job.send(Control::AddAlert(Box::new(alert.clone()))).await
    }

    /// Watches no more.
    pub(crate) async fn drop_alert(&self, name: &str) -> Result<()> {
        for job in self.jobs.values() {
            job.send(Control::RemoveAlert(name.to_owned())).await?;
        }
        Ok(())
    }

    /// Pauses or resumes the job of a query; returns the queries that run in it.
    pub(crate) async fn set_paused(&self, query: &str, paused: bool) -> Result<Vec<String>> {
        let job = self.job_of(query)?;
        job.send(if paused { Control::Pause } else { Control::Resume }).await?;
        Ok(job.outputs.keys().cloned().collect())
    }

    /// Lets a parked job of this query, and the feed of its source if that gave up, try again; true
    /// if there was one.
    pub(crate) async fn unpark(&mut self, registry: &Registry, query: &str) -> Result<bool> {
        if !self.runs(query)
            && let Some(known) = registry.catalog.query(query)
            && let Some(source) = registry.catalog.source(&known.root_source)
        {
            self.environment.board.remove_job(&source.name);
            self.start_source(registry, source).await?;
            return Ok(true);
        }
        let job = self.job_of(query)?;
        let status = self.environment.board.status();
        let is_parked =
            status.jobs.iter().any(|status| status.name == job.name() && status.parked.is_some());
        let source = job.source.clone();
        if is_parked {
            job.send(Control::Resume).await?;
        }
        let was_given_up = self.resume_feed(registry, &source)?;
        Ok(is_parked || was_given_up)
    }

    /// Lets the feed and the jobs of a source that a loss of log data has stopped go on; gives
    /// what each job accepted.
    pub(crate) async fn recover(
        &self,
        source: &str,
        from: RecoverFrom,
    ) -> Result<Vec<(String, Vec<Loss>)>> {
        let status = self.environment.board.status();
        let stopped = status.jobs.iter().filter(|job| job.source == source);
        let stopped = stopped.filter(|job| job.state == DATA_LOSS);
        let is_feed_stopped = self.recover_feed(source).await?;
        let mut accepted = Vec::new();
        for name in stopped.map(|job| &job.name) {
            let Some(job) = self.jobs.get(name) else { continue };
            accepted.push((name.clone(), job.recover(from).await?));
        }
        if accepted.is_empty() && !is_feed_stopped {
            let what = format!("no job of source '{source}' is stopped by a loss of log data");
            return Err(Error::invalid("TM521", what)
                .help("SHOW JOBS says how the jobs are, SHOW LOSSES what was lost"));
        }
        Ok(accepted)
    }

    /// Lets a feed that a loss has stopped begin again, and waits until it has; false if it is
    /// not stopped by one.
    async fn recover_feed(&self, source: &str) -> Result<bool> {
        let board = &self.environment.board;
        let mut changes = board.changes();
        let state = || {
            let status = board.status();
            let feed = status.feeds.into_iter().find(|feed| feed.source == source);
            feed.map(|feed| (feed.state, feed.error))
        };
        let Some(feed) = self.feeds.get(source) else { return Ok(false) };
        if state().is_none_or(|(state, _)| state != DATA_LOSS) {
            return Ok(false);
        }
        board.clear_feed_failure(source);
        feed.accept.notify_one();
        loop {
            changes.borrow_and_update();
            match state() {
                Some((state, _)) if state == "starting" => {}
                Some((_, Some(error))) => {
                    let what = format!("the feed of source '{source}' begins again, and waits");
                    return Err(Error::unavailable("TM507", what).because(error));
                }
                _ => return Ok(true),
            }
            if changes.changed().await.is_err() {
                return Err(Error::internal("the status board is gone"));
            }
        }
    }

    /// Whom to ask for the rows of each query.
    pub(crate) fn probes(&self) -> BTreeMap<String, JobProbe> {
        let mut probes = BTreeMap::new();
        for job in self.jobs.values() {
            probes.extend(job.outputs.keys().map(|name| (name.clone(), job.probe())));
        }
        probes
    }

    /// Some job runs this query.
    pub(crate) fn runs(&self, query: &str) -> bool {
        self.job_of(query).is_ok()
    }

    fn job_of(&self, query: &str) -> Result<&JobHandle> {
        let job = self.jobs.values().find(|job| job.outputs.contains_key(query));
        job.ok_or_else(|| Error::internal(format!("no job runs '{query}'")))
    }

    /// Some source that is read never ends.
    pub(crate) fn is_unbounded(&self) -> bool {
        self.unbounded
    }

    /// Stops everything: feeds first, then the jobs with a last commit each.
    pub(crate) async fn stop(self) {
        for feed in self.feeds.into_values() {
            feed.stop().await;
        }
        futures::future::join_all(self.jobs.into_values().map(JobHandle::stop)).await;
    }
}

impl FeedHandle {
    async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a feed panicked");
        }
    }
}

/// How a source ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Never.
    Never,
    /// Where its topic ended when its job first started.
    Fixed,
    /// Where its feed says.
    Fed,
}

/// How a source ends, by its declaration.
pub(crate) fn ending(source: &SourceSpec) -> Ending {
    let is_fed = !matches!(sources::open(source, std::collections::BTreeSet::new()), Ok(None));
    let follows = source.options.get(MONITOR_INTERVAL).is_some();
    let is_fixed = source.options.get(BOUNDED_MODE) == Some("latest-offset");
    match (is_fed, follows, is_fixed) {
        (true, false, _) => Ending::Fed,
        (false, _, true) => Ending::Fixed,
        _ => Ending::Never,
    }
}

/// The log a source's topic is in: the process's own unless the source names other properties.
pub(crate) fn source_log(log: &KafkaLog, source: &SourceSpec) -> Result<KafkaLog> {
    let mut settings: KafkaSettings = log.settings().clone();
    let mut is_other = false;
    for (key, value) in source.options.iter() {
        let Some(key) = key.strip_prefix("properties.") else { continue };
        is_other = true;
        if key == "bootstrap.servers" {
            value.clone_into(&mut settings.brokers);
        } else {
            settings.properties.insert(key.to_owned(), value.to_owned());
        }
    }
    if is_other { log.with_settings(settings) } else { Ok(log.clone()) }
}
