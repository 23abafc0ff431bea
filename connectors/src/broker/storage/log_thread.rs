//! The one thread that writes: it takes every waiting request, appends, syncs once, answers.
//!
//! Group commit: while a sync runs, requests queue up; the next round takes them all. Several
//! dirty partitions are synced in parallel. Administrative tasks run between two rounds, so
//! creation, deletion and retention never race with an append. Never answers before the sync.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kafka_protocol::ResponseError;
use tidemill_contract::{Clock, SystemClock};
use tokio::sync::{mpsc, oneshot};

use super::appender::{Placed, storage_failed};
use super::batch::Batch;
use super::catalog::Catalog;
use super::offsets::{Entry, OffsetFile};
use super::partition::PartitionRef;
use super::producer_ids::ProducerIds;
use super::{Tables, TablesRef};

/// Bytes after which a round stops taking requests and syncs.
const ROUND_BYTES_MAX: usize = 64 << 20;
/// Partitions synced at the same time.
const SYNC_THREADS_MAX: usize = 8;

/// Records to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) partition: PartitionRef,
    pub(crate) batches: Vec<Batch>,
    pub(crate) reply: oneshot::Sender<Result<Placed, ResponseError>>,
}

/// Offsets to commit.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) entries: Vec<Entry>,
    pub(crate) reply: oneshot::Sender<Result<(), ResponseError>>,
}

/// Runs with exclusive access to everything durable.
pub(crate) type Task = Box<dyn FnOnce(&mut LogThread) + Send>;

/// What the log thread is asked to do.
pub(crate) enum Command {
    Append(Append),
    Commit(Commit),
    Task(Task),
    /// Finish and end.
    Stop,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Commit(_) => "Commit",
            Self::Task(_) => "Task",
            Self::Stop => "Stop",
        })
    }
}

/// Owner of everything that is written.
#[derive(Debug)]
pub(crate) struct LogThread {
    pub(crate) tables: TablesRef,
    pub(crate) catalog: Catalog,
    pub(crate) offset_file: OffsetFile,
    pub(crate) producer_ids: ProducerIds,
}

struct Waiting {
    partition: PartitionRef,
    placed: Placed,
    reply: oneshot::Sender<Result<Placed, ResponseError>>,
}

/// What was appended since the last sync.
#[derive(Default)]
struct Round {
    bytes: usize,
    touched: Vec<PartitionRef>,
    appends: Vec<Waiting>,
    commits: Vec<oneshot::Sender<Result<(), ResponseError>>>,
}

impl LogThread {
    /// Works until told to stop or until nobody can ask any more.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut round = Round::default();
            let mut next = Some(first);
            let mut stop = false;
            while let Some(command) = next.take() {
                match command {
                    Command::Append(append) => self.append(append, &mut round),
                    Command::Commit(commit) => {
                        self.offset_file.append(commit.entries);
                        round.commits.push(commit.reply);
                    }
                    Command::Task(task) => {
                        self.finish(std::mem::take(&mut round));
                        task(&mut self);
                    }
                    Command::Stop => stop = true,
                }
                if round.bytes < ROUND_BYTES_MAX && !stop {
                    next = commands.try_recv().ok();
                }
            }
            self.finish(round);
            if stop {
                break;
            }
        }
    }

    fn append(&mut self, append: Append, round: &mut Round) {
        let Append { partition, batches, reply } = append;
        let placed = partition.appender().append(&partition, &batches);
        if !round.touched.iter().any(|touched| touched.name == partition.name) {
            round.touched.push(PartitionRef::clone(&partition));
        }
        match placed {
            Ok(placed) => {
                round.bytes += batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
                round.appends.push(Waiting { partition, placed, reply });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Syncs what the round touched and answers its requests.
    fn finish(&mut self, round: Round) {
        match round.touched.as_slice() {
            [] => {}
            [one] => flush(one),
            many => flush_all(many),
        }
        for Waiting { partition, placed, reply } in round.appends {
            let (_, high_watermark) = partition.bounds();
            let durable = match placed.end_offset <= high_watermark {
                true => Ok(placed),
                false => Err(ResponseError::KafkaStorageError),
            };
            answer(reply, durable);
        }
        for partition in &round.touched {
            partition.appender().settle(partition);
        }
        if round.commits.is_empty() {
            return;
        }
        let flushed = self.offset_file.flush(&self.tables.offsets).map_err(|error| {
            tracing::error!(error = %error, "could not write committed offsets");
            ResponseError::KafkaStorageError
        });
        for reply in round.commits {
            answer(reply, flushed);
        }
    }

    /// Applies retention to every partition.
    pub(crate) fn retain(&mut self) {
        let now_ms = SystemClock.now_micros() / 1_000;
        for topic in self.tables.topics.all() {
            for partition in &topic.partitions {
                if let Err(error) = partition.retain(now_ms) {
                    storage_failed(partition, &error);
                    partition.appender().settle(partition);
                }
            }
        }
    }

    /// Makes entries of the offset table durable and visible, outside of a round.
    pub(crate) fn commit_now(&mut self, entries: Vec<Entry>) -> Result<(), ResponseError> {
        let Tables { offsets, .. } = &*self.tables;
        self.offset_file.append(entries);
        self.offset_file.flush(offsets).map_err(|error| {
            tracing::error!(error = %error, "could not write committed offsets");
            ResponseError::KafkaStorageError
        })
    }
}

/// Answers a request; its client may have gone, then nobody needs the answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("nobody waits for an answer any more");
    }
}

fn flush(partition: &PartitionRef) {
    // A panic is a failed write like any other: the thread that all writers wait for goes on.
    let work = AssertUnwindSafe(|| partition.appender().flush(partition));
    let flushed = catch_unwind(work).unwrap_or_else(|_panic| {
        partition.appender().give_up();
        Err(io::Error::other("writing panicked"))
    });
    if let Err(error) = flushed {
        storage_failed(partition, &error);
    }
}

fn flush_all(partitions: &[PartitionRef]) {
    let per_thread = partitions.len().div_ceil(SYNC_THREADS_MAX);
    std::thread::scope(|scope| {
        let mut chunks = partitions.chunks(per_thread);
        let mine = chunks.next();
        for chunk in chunks {
            scope.spawn(|| chunk.iter().for_each(flush));
        }
        mine.into_iter().flatten().for_each(flush);
    });
}
