//! Appends to topics with acknowledgement, idempotently and with a bounded buffer.
//!
//! Why not one future per record: a flush needs to know only that nothing is outstanding and
//! whether anything failed. It never drops a record silently: the first failure comes out of the
//! next `append` or `flush`. It never gives a record up because a broker is away: given up it
//! might still arrive, and whoever appended it again would have it twice.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tidemill_contract::{Error, LogWriter, ProduceRecord, Result};
use tokio::sync::Notify;

use super::{KafkaSettings, failure, properties};

/// Longest wait for a delivery before the counters are looked at again.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How long records may wait without a single acknowledgement before the caller is told. The
/// client itself goes on trying to send them.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// When records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Some milliseconds after the first, so that more go together.
    Batches,
    /// As soon as the connection is free.
    AtOnce,
}

/// A writer to any topic of one cluster.
pub struct KafkaWriter {
    producer: ThreadedProducer<Context>,
    deliveries: Arc<Deliveries>,
}

/// Counts of what was handed over and what came back.
#[derive(Default)]
struct Deliveries {
    sent: AtomicU64,
    done: AtomicU64,
    progress: Notify,
    failure: Mutex<Option<Error>>,
}

struct Context(Arc<Deliveries>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let mut failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| failure::append(message.topic(), error));
        }
        self.0.done.fetch_add(1, Ordering::Release);
        self.0.progress.notify_waiters();
    }
}

impl fmt::Debug for KafkaWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaWriter")
            .field("sent", &self.deliveries.sent)
            .field("done", &self.deliveries.done)
            .finish_non_exhaustive()
    }
}

impl KafkaWriter {
    pub(super) fn open(
        settings: &KafkaSettings,
        buffer_bytes: Option<usize>,
        pace: Pace,
    ) -> Result<Self> {
        let deliveries = Arc::new(Deliveries::default());
        let producer = properties::writer(settings, buffer_bytes, pace)
            .create_with_context(Context(Arc::clone(&deliveries)))
            .map_err(|e| failure::setup(&e))?;
        Ok(Self { producer, deliveries })
    }

    /// Hands a record to the client; `Ok(false)` if its buffer is full.
    fn offer(&self, topic: &str, record: &ProduceRecord) -> Result<bool> {
        let mut message: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        if let Some(partition) = record.partition {
            message = message.partition(partition.0);
        }
        if let Some(key) = &record.key {
            message = message.key(key);
        }
        if let Some(payload) = &record.payload {
            message = message.payload(payload);
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            message = message.timestamp(timestamp_ms);
        }
        if !record.headers.is_empty() {
            message = message.headers(native_headers(&record.headers));
        }
        // Counted first: a delivery must never be seen before its send.
        self.deliveries.sent.fetch_add(1, Ordering::AcqRel);
        match self.producer.send(message) {
            Ok(()) => Ok(true),
            Err((error, _)) => {
                self.deliveries.sent.fetch_sub(1, Ordering::AcqRel);
                match error {
                    KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => Ok(false),
                    other => Err(failure::append(topic, &other)),
                }
            }
        }
    }

    fn failed(&self) -> Option<Error> {
        self.deliveries.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the next delivery, or a moment if none comes.
    async fn progress_unless(&self, reached: impl Fn() -> bool) {
        let notified = self.deliveries.progress.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !reached() {
            // Either way the caller looks again.
            drop(tokio::time::timeout(RECHECK_INTERVAL, notified).await);
        }
    }

    /// Nothing is under way any more, whatever became of it.
    pub fn is_settled(&self) -> bool {
        self.all_done() || self.producer.client().fatal_error().is_some()
    }

    fn all_done(&self) -> bool {
        self.deliveries.done.load(Ordering::Acquire) >= self.deliveries.sent.load(Ordering::Acquire)
    }
}

/// Notices when nothing is acknowledged any more.
struct Stall {
    seen: u64,
    since: Instant,
}

impl Stall {
    fn begin(deliveries: &Deliveries) -> Self {
        Self { seen: deliveries.done.load(Ordering::Acquire), since: Instant::now() }
    }

    fn check(&mut self, deliveries: &Deliveries) -> Result<()> {
        let done = deliveries.done.load(Ordering::Acquire);
        if done != self.seen {
            *self = Self { seen: done, since: Instant::now() };
        }
        if self.since.elapsed() < STALL_TIMEOUT {
            return Ok(());
        }
        let what = format!("the log has acknowledged no record for {STALL_TIMEOUT:?}");
        Err(Error::unavailable("TM519", what)
            .because("the broker does not answer, or refuses records for now")
            .help("check that the broker is up and has room on its disk; it is tried again"))
    }
}

fn native_headers(headers: &[(String, Bytes)]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |built, (key, value)| {
        built.insert(Header { key, value: Some(&value[..]) })
    })
}

#[async_trait::async_trait]
impl LogWriter for KafkaWriter {
    async fn append(&self, topic: &str, record: ProduceRecord) -> Result<()> {
        let mut stall = Stall::begin(&self.deliveries);
        loop {
            if let Some(error) = self.failed() {
                return Err(error);
            }
            let seen = self.deliveries.done.load(Ordering::Acquire);
            if self.offer(topic, &record)? {
                return Ok(());
            }
            self.progress_unless(|| self.deliveries.done.load(Ordering::Acquire) > seen).await;
            stall.check(&self.deliveries)?;
        }
    }

    async fn flush(&self) -> Result<()> {
        let mut stall = Stall::begin(&self.deliveries);
        while !self.all_done() {
            self.progress_unless(|| self.all_done()).await;
            stall.check(&self.deliveries)?;
        }
        let mut failure = self.deliveries.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
