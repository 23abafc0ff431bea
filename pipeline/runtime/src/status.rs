//! What a running pipeline says of itself: jobs, feeds, counters.
//!
//! Plain data for the API, the CLI and the tests, and the one place where the numbers become
//! metrics. It never decides anything.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tidemill_contract::{Clock, Error, Loss, Micros, SystemClock, metric};
use tokio::sync::watch;

/// State of a job or feed that waits for somebody to accept a loss of log data.
pub(crate) const DATA_LOSS: &str = "data loss";

/// The whole pipeline.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// One entry a job, by name.
    pub jobs: Vec<JobStatus>,
    /// One entry a feed, by source.
    pub feeds: Vec<FeedStatus>,
}

/// Where each row that reached one query went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueryCount {
    /// Rows the query was given.
    pub rows_in: u64,
    /// Rows that reached a result.
    pub counted: u64,
    /// Rows a `WHERE` dropped.
    pub filtered: u64,
    /// Rows with no open window left.
    pub late: u64,
    /// Rows among the counted ones that changed a closed window.
    pub revised: u64,
}

/// One job.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JobStatus {
    /// Job name.
    pub name: String,
    /// Source it reads.
    pub source: String,
    /// Queries it runs.
    pub queries: Vec<String>,
    /// `starting`, `running`, `degraded`, `data loss`, `parked`, `paused`, `drained`, `stopped` or
    /// `fenced`.
    pub state: String,
    /// Why it is degraded, parked or fenced.
    pub error: Option<String>,
    /// More about a parked job.
    pub parked: Option<Parked>,
    /// Last committed epoch.
    pub epoch: u64,
    /// Source watermark, `None` before the first event and after the end of a bounded source.
    pub watermark_micros: Option<Micros>,
    /// Records read.
    pub rows_in: u64,
    /// Records sent to quarantine.
    pub rows_dead: u64,
    /// Rows with no open window left, over all queries.
    pub rows_late: u64,
    /// Records in the topic not yet read.
    pub lag_records: i64,
    /// Open slices in the operators.
    pub open_slices: usize,
    /// Bytes of the operators' state in memory.
    pub state_bytes: usize,
    /// Offsets that were never read and whose loss was accepted.
    pub records_lost: u64,
    /// Ranges of the log that were lost: accepted ones, and those somebody must decide about.
    pub losses: Vec<Loss>,
    /// Rows not accounted for: always 0.
    pub conservation_drift: i64,
    /// Per query: where its rows went.
    pub counters: BTreeMap<String, QueryCount>,
}

/// A job that was given up until somebody says `RESUME`. Its last commit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// Why.
    pub reason: String,
    /// The way out.
    pub help: String,
    /// Since when (wall clock).
    pub at_micros: Micros,
    /// How often it was tried in a row.
    pub tries: u32,
}

/// One feed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FeedStatus {
    /// Source it feeds.
    pub source: String,
    /// Connector kind.
    pub connector: String,
    /// Rows in the topic from this source.
    pub rows: u64,
    /// Rows sent to quarantine.
    pub dead: u64,
    /// `starting`, `running`, `degraded`, `done`, `stopped`, `data loss` or `failed`.
    pub state: String,
    /// The source ends by itself.
    pub bounded: bool,
    /// All of a bounded source is in the topic.
    pub done: bool,
    /// Why it is degraded or failed.
    pub error: Option<String>,
}

impl Status {
    /// There are jobs, and none of them goes on by itself.
    pub fn is_given_up(&self) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().all(JobStatus::is_given_up)
    }

    /// Nothing more will happen by itself: every feed and job is done or waits for a person.
    pub(crate) fn is_settled(&self) -> bool {
        let failed_feed =
            |source: &str| self.feeds.iter().any(|feed| feed.source == source && feed.is_failed());
        // Without its feed a job's end will never be known.
        let job_is_settled = |job: &JobStatus| {
            job.state == "drained" || job.is_given_up() || failed_feed(&job.source)
        };
        self.feeds.iter().all(|feed| feed.done || feed.is_failed())
            && self.jobs.iter().all(job_is_settled)
    }
}

impl JobStatus {
    /// It does not go on by itself.
    fn is_given_up(&self) -> bool {
        matches!(self.state.as_str(), "parked" | "fenced" | DATA_LOSS)
    }

    /// Sets the job's metrics from this status.
    pub fn export(&self) {
        let job = || self.name.clone();
        metrics::counter!(metric::ROWS_IN, "job" => job()).absolute(self.rows_in);
        metrics::counter!(metric::ROWS_DEAD, "job" => job()).absolute(self.rows_dead);
        metrics::counter!(metric::RECORDS_LOST, "job" => job()).absolute(self.records_lost);
        let open = self.losses.iter().filter(|loss| loss.accepted_at.is_none()).count();
        metrics::gauge!(metric::DATA_LOSS, "job" => job())
            .set(as_gauge(i64::try_from(open).unwrap_or(i64::MAX)));
        metrics::gauge!(metric::CONSERVATION_DRIFT, "job" => job())
            .set(as_gauge(self.conservation_drift));
        metrics::gauge!(metric::LAG_RECORDS, "job" => job()).set(as_gauge(self.lag_records));
        metrics::gauge!(metric::OPEN_WINDOWS, "job" => job())
            .set(as_gauge(i64::try_from(self.open_slices).unwrap_or(i64::MAX)));
        metrics::gauge!(metric::STATE_MEMORY_BYTES, "job" => job())
            .set(as_gauge(i64::try_from(self.state_bytes).unwrap_or(i64::MAX)));
        metrics::gauge!(metric::JOB_PARKED, "job" => job())
            .set(f64::from(u8::from(self.parked.is_some())));
        metrics::gauge!(metric::EPOCH, "job" => job())
            .set(as_gauge(i64::try_from(self.epoch).unwrap_or(i64::MAX)));
        if let Some(watermark) = self.watermark_micros {
            metrics::gauge!(metric::WATERMARK, "job" => job()).set(as_gauge(watermark) / 1e6);
        }
        for (query, count) in &self.counters {
            let labels = || [("job", job()), ("query", query.clone())];
            metrics::counter!(metric::ROWS_COUNTED, &labels()).absolute(count.counted);
            metrics::counter!(metric::ROWS_FILTERED, &labels()).absolute(count.filtered);
            metrics::counter!(metric::ROWS_LATE, &labels()).absolute(count.late);
            metrics::counter!(metric::ROWS_REVISED, &labels()).absolute(count.revised);
        }
    }
}

impl FeedStatus {
    fn is_failed(&self) -> bool {
        matches!(self.state.as_str(), "failed" | DATA_LOSS)
    }

    /// Sets the feed's metrics from this status.
    pub fn export(&self) {
        metrics::counter!(metric::FEED_ROWS, "source" => self.source.clone()).absolute(self.rows);
        metrics::counter!(metric::FEED_DEAD, "source" => self.source.clone()).absolute(self.dead);
    }
}

/// Where jobs and feeds put their status, and where everyone else reads it or waits for a change.
#[derive(Debug)]
pub struct Board {
    status: Mutex<Entries>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entries {
    jobs: BTreeMap<String, JobStatus>,
    feeds: BTreeMap<String, FeedStatus>,
    /// Why jobs are parked or ended, and feeds ended.
    failures: BTreeMap<String, Error>,
}

impl Default for Board {
    fn default() -> Self {
        Self { status: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Board {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Plain data: a panic of another holder leaves nothing half done that matters.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status of a job, exports it and wakes who waits.
    pub fn update_job(&self, name: &str, change: impl FnOnce(&mut JobStatus)) {
        let exported = {
            let mut entries = self.entries();
            let job = entries.jobs.entry(name.to_owned()).or_default();
            name.clone_into(&mut job.name);
            change(job);
            job.clone()
        };
        exported.export();
        self.changes.send_modify(|version| *version += 1);
    }

    /// Changes the status of a feed, exports it and wakes who waits.
    pub fn update_feed(&self, source: &str, change: impl FnOnce(&mut FeedStatus)) {
        let exported = {
            let mut entries = self.entries();
            let feed = entries.feeds.entry(source.to_owned()).or_default();
            source.clone_into(&mut feed.source);
            change(feed);
            feed.clone()
        };
        exported.export();
        self.changes.send_modify(|version| *version += 1);
    }

    /// Why a job is degraded, if it is.
    pub(crate) fn trouble_of(&self, job: &str) -> Option<String> {
        let entries = self.entries();
        let job = entries.jobs.get(job).filter(|job| job.state == "degraded");
        job.and_then(|job| job.error.clone())
    }

    /// Another process has the job: this one ended.
    pub fn fence_job(&self, name: &str, error: &Error) {
        self.entries().failures.insert(format!("job {name}"), error.clone());
        self.update_job(name, |job| {
            "fenced".clone_into(&mut job.state);
            job.error = Some(error.to_string());
        });
    }

    /// A job is given up until it is resumed; gives the error with the way out.
    pub fn park_job(&self, name: &str, error: &Error, tries: u32) -> Error {
        let query = self.first_query(|job| job.name == name);
        let way_out = format!("then RESUME {}; or DROP it", query.as_deref().unwrap_or(name));
        let parked = with_way_out(error, &way_out);
        let reason = Error { help: None, ..error.clone() };
        // First: whoever sees that the job is parked finds out why.
        self.entries().failures.insert(format!("job {name}"), parked.clone());
        self.update_job(name, |job| {
            "parked".clone_into(&mut job.state);
            job.error = Some(parked.to_string());
            job.parked = Some(Parked {
                reason: reason.to_string(),
                help: parked.help.clone().unwrap_or_default(),
                at_micros: SystemClock.now_micros(),
                tries,
            });
        });
        parked
    }

    /// A parked job tries again.
    pub fn resume_job(&self, name: &str) {
        self.entries().failures.remove(&format!("job {name}"));
        self.update_job(name, |job| {
            "starting".clone_into(&mut job.state);
            job.error = None;
            job.parked = None;
        });
    }

    /// A feed ended, or waits for somebody to accept a loss of log data (`state`). One that failed
    /// is given up until a query of its source is resumed; a loss has a way out of its own.
    pub fn fail_feed(&self, source: &str, state: &str, error: &Error) {
        let query = self.first_query(|job| job.source == source).filter(|_| state == "failed");
        let error = match query {
            Some(query) => with_way_out(error, &format!("then RESUME {query}")),
            None => error.clone(),
        };
        self.entries().failures.insert(format!("feed {source}"), error.clone());
        self.update_feed(source, |feed| {
            state.clone_into(&mut feed.state);
            feed.error = Some(error.to_string());
        });
    }

    /// A feed that was given up tries again; true if it was.
    pub fn resume_feed(&self, source: &str) -> bool {
        // In every other state its task is still there.
        let is_over = |feed: &FeedStatus| feed.state == "failed";
        let was_given_up = self.entries().feeds.get(source).is_some_and(is_over);
        if was_given_up {
            self.entries().failures.remove(&format!("feed {source}"));
            self.update_feed(source, |feed| {
                "starting".clone_into(&mut feed.state);
                feed.error = None;
            });
        }
        was_given_up
    }

    fn first_query(&self, is_meant: impl Fn(&JobStatus) -> bool) -> Option<String> {
        let entries = self.entries();
        let job = entries.jobs.values().find(|job| is_meant(job))?;
        job.queries.first().cloned()
    }

    /// Why a job or feed ended, if one did.
    pub fn failure(&self) -> Option<Error> {
        self.entries().failures.values().next().cloned()
    }

    /// A job waits for somebody to accept a loss of log data.
    pub fn lose_job(
        &self,
        name: &str,
        state: &str,
        error: &Error,
        change: impl FnOnce(&mut Vec<Loss>),
    ) {
        self.entries().failures.insert(format!("job {name}"), error.clone());
        self.update_job(name, |job| {
            state.clone_into(&mut job.state);
            job.error = Some(error.to_string());
            change(&mut job.losses);
        });
    }

    /// What ended a feed is dealt with: it begins again.
    pub fn clear_feed_failure(&self, source: &str) {
        self.entries().failures.remove(&format!("feed {source}"));
        self.update_feed(source, |feed| {
            "starting".clone_into(&mut feed.state);
            feed.error = None;
        });
    }

    /// Forgets a job.
    pub fn remove_job(&self, name: &str) {
        metrics::gauge!(metric::JOB_PARKED, "job" => name.to_owned()).set(0.0);
        self.entries().failures.remove(&format!("job {name}"));
        self.entries().jobs.remove(name);
        self.changes.send_modify(|version| *version += 1);
    }

    /// Forgets a feed.
    pub fn remove_feed(&self, source: &str) {
        self.entries().failures.remove(&format!("feed {source}"));
        self.entries().feeds.remove(source);
        self.changes.send_modify(|version| *version += 1);
    }

    /// Everything as it is now.
    pub fn status(&self) -> Status {
        let entries = self.entries();
        Status {
            jobs: entries.jobs.values().cloned().collect(),
            feeds: entries.feeds.values().cloned().collect(),
        }
    }

    /// Sees every change from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The error, with what to do when its cause is gone.
fn with_way_out(error: &Error, way_out: &str) -> Error {
    let help = match &error.help {
        Some(help) => format!("{help}; {way_out}"),
        None => format!("remove the cause, {way_out}"),
    };
    error.clone().help(help)
}

/// A gauge value. Precision beyond 2^53 does not matter on a dashboard.
#[allow(clippy::cast_precision_loss)]
fn as_gauge(value: i64) -> f64 {
    value as f64
}
