//! Runs an outside source into its topic, each row exactly once, across `kill -9`.
//!
//! Why it can: a row's identity is (unit, row number), every record carries it in its headers, and
//! the numbered objects `feeds/<source>/<seq>.json` say which units are complete and where the
//! topics ended then. A restarted feed reads the topics from there on, learns which rows of the
//! unfinished units arrived, and appends only the others. It never judges event time and never
//! drops a row: one it cannot append as JSON goes to the quarantine topic.
//!
//! Invariants: a unit is recorded as finished only after all its rows are acknowledged; the bad
//! rows of a unit are under the same rule.

mod append;
mod book;
mod loss;
mod seen;

use std::{
    collections::BTreeMap, collections::BTreeSet, fmt, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tidemill_connectors::{failpoint, log::kafka::KafkaLog, store::Store};
use tidemill_contract::{Error, ErrorKind, Result, Source, SourceSpec, panic_text};
use tokio::sync::{Notify, watch};

use crate::{
    breaker::Breaker,
    patience::{back_off, patiently},
    status::{Board, DATA_LOSS},
    writer::WriterSlot,
};
use append::Appender;
use book::Book;
pub(crate) use book::check_entry as check_record;
use seen::Seen;
pub(crate) use seen::identity as row_identity;

/// Option: partitions of a topic this feed creates.
pub(crate) const TOPIC_PARTITIONS: &str = "topic.partitions";
/// Tries in a row without progress before a feed gives up on an error of its own.
const ATTEMPTS_MAX: u32 = 10;

/// Where each partition of the topic ends once a bounded source is wholly in it (exclusive).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEnd {
    /// End offset by partition.
    pub ends: BTreeMap<i32, i64>,
}

/// Opens the source without the units that are done.
pub type OpenSource =
    Arc<dyn Fn(BTreeSet<String>) -> Result<Option<Box<dyn Source>>> + Send + Sync>;

/// A feed, ready to run.
#[derive(Clone)]
pub struct Feed {
    /// The source's name.
    pub source: String,
    /// The topic it feeds.
    pub topic: String,
    /// The topic its bad rows go to.
    pub dead_topic: String,
    /// Partitions to create the topic with.
    pub partitions: i32,
    /// Opens the outside.
    pub open: OpenSource,
    /// The log.
    pub log: KafkaLog,
    /// The bucket.
    pub store: Store,
    /// Where it says how it goes.
    pub board: Arc<Board>,
    /// Stops it when too many rows are bad.
    pub breaker: Breaker,
    /// Told when somebody accepts a loss of log data that has stopped it.
    pub accept: Arc<Notify>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A feed ready to read its source.
struct Prepared<'a> {
    appender: Appender<'a>,
    book: Book,
    seen: Seen,
    /// Ids of the topics.
    ids: BTreeMap<String, String>,
    /// The topics do not continue what the book says: nothing may be fed.
    lost: Option<Error>,
}

/// Why a feed returned.
enum Outcome {
    Drained(FeedEnd),
    Stopped,
}

impl Feed {
    /// The feed of a declared source.
    ///
    /// # Errors
    /// `TM113` if the number of partitions is wrong.
    pub fn of_source(
        spec: &SourceSpec,
        log: KafkaLog,
        store: Store,
        board: Arc<Board>,
    ) -> Result<Self> {
        let owned = spec.clone();
        Ok(Self {
            source: spec.name.clone(),
            topic: spec.topic().to_owned(),
            dead_topic: format!("{}.dead", spec.name),
            partitions: topic_partitions(spec)?,
            open: Arc::new(move |done| tidemill_connectors::sources::open(&owned, done)),
            log,
            store,
            board,
            breaker: Breaker::of_source(spec)?,
            accept: Arc::default(),
        })
    }

    /// Runs until the source is drained, `stop` turns true, or it fails. The end of a bounded
    /// source is sent once; what does not answer is waited for, however long it takes.
    pub async fn run(self, end: watch::Sender<Option<FeedEnd>>, stop: watch::Receiver<bool>) {
        self.run_with(WriterSlot::default(), end, stop).await;
    }

    /// As [`Feed::run`], with the writer of an earlier run that gave up.
    pub(crate) async fn run_with(
        self,
        writer: WriterSlot,
        end: watch::Sender<Option<FeedEnd>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut attempt = 0;
        let mut is_accepted = false;
        loop {
            let rows_before = self.rows();
            // A panic is an error of this feed and of nothing else.
            let once =
                AssertUnwindSafe(self.run_once(&writer, &mut stop, is_accepted)).catch_unwind();
            let ended = once.await.unwrap_or_else(|panic| Err(panicked(&self.source, &*panic)));
            let error = match ended {
                Ok(Outcome::Drained(found)) => {
                    tracing::info!(source = %self.source, rows = self.rows(), "feed drained");
                    end.send_replace(Some(found));
                    self.tell("done", None);
                    return;
                }
                Ok(Outcome::Stopped) => return self.tell("stopped", None),
                Err(error) => error,
            };
            if error.code == "TM501" {
                tracing::error!(source = %self.source, %error, "feed waits: log data is lost");
                self.board.fail_feed(&self.source, DATA_LOSS, &error);
                tokio::select! {
                    () = self.accept.notified() => {}
                    () = stopped(&mut stop) => return self.tell("stopped", None),
                }
                self.board.clear_feed_failure(&self.source);
                (attempt, is_accepted) = (0, true);
                continue;
            }
            attempt = if self.rows() > rows_before { 1 } else { attempt + 1 };
            let may_help = match error.kind {
                ErrorKind::Unavailable => true,
                ErrorKind::Internal => attempt <= ATTEMPTS_MAX,
                _ => false,
            };
            if !may_help {
                tracing::error!(source = %self.source, %error, "feed failed");
                return self.board.fail_feed(&self.source, "failed", &error);
            }
            tracing::warn!(source = %self.source, %error, attempt, "feed tries again");
            self.tell("degraded", Some(&error));
            if sleep_or_stop(back_off(attempt), &mut stop).await {
                return self.tell("stopped", None);
            }
        }
    }

    async fn run_once(
        &self,
        writer: &WriterSlot,
        stop: &mut watch::Receiver<bool>,
        is_accepted: bool,
    ) -> Result<Outcome> {
        let Prepared { mut appender, mut book, mut seen, ids, mut lost } =
            self.patiently(self.prepare(writer, is_accepted)).await?;
        let Some(mut source) = (self.open)(book.done().clone())? else {
            return Err(Error::internal(format!("source '{}' has nothing to feed", self.source)));
        };
        failpoint::reached("feed.opened")?;
        self.tell("running", None);
        loop {
            let unit = tokio::select! {
                unit = source.next_unit() => unit?,
                () = stopped(stop) => return appender.flush().await.map(|()| Outcome::Stopped),
            };
            let Some(unit) = unit else { break };
            if let Some(lost) = lost.take() {
                return Err(lost);
            }
            let known = seen.take(&unit);
            // A paced source need not wait again for what is in the topic already.
            source.already_fed(known.len());
            appender.begin(&unit, known);
            loop {
                let rows = tokio::select! {
                    rows = source.next_rows() => rows?,
                    () = stopped(stop) => return appender.flush().await.map(|()| Outcome::Stopped),
                };
                if rows.is_empty() {
                    break;
                }
                self.patiently(appender.append(rows)).await?;
            }
            let finish = async {
                appender.flush().await?;
                loss::check_same(self, &ids).await?;
                let ends = self.topic_ends().await?;
                book.write(&[unit], ends, ids.clone(), appender.totals()).await
            };
            self.patiently(finish).await?;
        }
        let finish = async {
            appender.flush().await?;
            self.log.watermarks(&self.topic).await
        };
        let ends = self.patiently(finish).await?;
        let ends = ends.into_iter().map(|(partition, (_, end))| (partition, end)).collect();
        Ok(Outcome::Drained(FeedEnd { ends }))
    }

    /// Topics, what is finished, and what of the rest has arrived.
    async fn prepare(&self, writer: &WriterSlot, is_accepted: bool) -> Result<Prepared<'_>> {
        // Early: its client needs up to half a second before it can send.
        writer.writer(&self.log)?;
        let partitions = self.log.ensure_topic(&self.topic, self.partitions, &[]).await?;
        self.log.ensure_topic(&self.dead_topic, 1, &[]).await?;
        let mut book = Book::load(&self.store, &self.source).await?;
        let ids = loss::topic_ids(self).await?;
        let mut lost = loss::find(self, &book, &ids).await?;
        if book.is_new() || is_accepted && lost.is_some() {
            lost = None;
            let floor = loss::accepted_floor(self, &book, &ids).await?;
            book.write(&[], floor, ids.clone(), book.totals()).await?;
        }
        // Before the look: rows of an earlier try must not arrive after it.
        writer.settle().await?;
        let seen = Seen::scan(&self.log, book.floor(), book.done()).await?;
        let appender = Appender::new(self, writer.writer(&self.log)?, partitions, &book)?;
        Ok(Prepared { appender, book, seen, ids, lost })
    }

    /// Does some work; if it takes long the status says that it waits.
    async fn patiently<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut was_slow = false;
        let outcome = patiently(work, || {
            was_slow = true;
            let what = format!("the feed of source '{}' waits", self.source);
            let error = Error::unavailable("TM507", what)
                .because("the log or the bucket has not answered for some seconds");
            self.tell("degraded", Some(&error));
        })
        .await;
        if was_slow && outcome.is_ok() {
            self.tell("running", None);
        }
        outcome
    }

    async fn topic_ends(&self) -> Result<BTreeMap<String, BTreeMap<i32, i64>>> {
        let mut ends = BTreeMap::new();
        for topic in [&self.topic, &self.dead_topic] {
            let marks = self.log.watermarks(topic).await?;
            let marks = marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect();
            ends.insert(topic.clone(), marks);
        }
        Ok(ends)
    }

    fn rows(&self) -> u64 {
        let status = self.board.status();
        status.feeds.iter().find(|feed| feed.source == self.source).map_or(0, |feed| feed.rows)
    }

    fn tell(&self, state: &str, error: Option<&Error>) {
        self.board.update_feed(&self.source, |feed| {
            state.clone_into(&mut feed.state);
            feed.done = state == "done";
            feed.error = error.map(ToString::to_string);
        });
    }
}

fn panicked(source: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic_text(panic);
    Error::internal(format!("the feed of source '{source}' panicked: {text}"))
}

/// Partitions the topic of a source is created with.
///
/// # Errors
/// `TM113` if the option is not a number from 1 to 1024.
pub(crate) fn topic_partitions(spec: &SourceSpec) -> Result<i32> {
    let Some(text) = spec.options.get(TOPIC_PARTITIONS) else {
        return Ok(1);
    };
    text.parse().ok().filter(|count| (1..=1024).contains(count)).ok_or_else(|| {
        Error::invalid(
            "TM113",
            format!("source '{}': option '{TOPIC_PARTITIONS}' cannot be '{text}'", spec.name),
        )
        .at(spec.options.span(TOPIC_PARTITIONS))
        .help("write a number from 1 to 1024")
    })
}

/// Returns when `stop` is true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could want this to go on.
    let _gone = stop.wait_for(|stop| *stop).await.is_err();
}

/// Waits; true if it was told to stop.
async fn sleep_or_stop(wait: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(wait, stopped(stop)).await.is_ok()
}
