//! Appends the rows of the current unit to the topic, bad ones to the quarantine topic, and counts.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tidemill_connectors::{failpoint, log::kafka::KafkaWriter};
use tidemill_contract::{
    Clock, Error, LogWriter, PartitionId, ProduceRecord, Result, RowFault, SourceRow, SystemClock,
};

use super::{
    Feed,
    book::Book,
    seen::{RowSet, headers},
};
use crate::{breaker::Breaker, quarantine};

/// Rows between two waits for acknowledgement: bounds how much is under way. Each wait leaves the
/// broker without work for a round trip and a sync.
const FLUSH_ROWS: u64 = 65_536;

/// The writing half of one run of a feed.
pub(super) struct Appender<'a> {
    feed: &'a Feed,
    writer: Arc<KafkaWriter>,
    partitions: u64,
    unit: Bytes,
    known: RowSet,
    rows: u64,
    dead: u64,
    unflushed: u64,
    breaker: Breaker,
}

impl<'a> Appender<'a> {
    pub(super) fn new(
        feed: &'a Feed,
        writer: Arc<KafkaWriter>,
        partitions: i32,
        book: &Book,
    ) -> Result<Self> {
        let count = u64::try_from(partitions).ok().filter(|count| *count > 0);
        let (rows, dead) = book.totals();
        Ok(Self {
            feed,
            writer,
            partitions: count.ok_or_else(|| {
                Error::internal(format!("topic '{}' has {partitions} partitions", feed.topic))
            })?,
            unit: Bytes::new(),
            known: RowSet::default(),
            rows,
            dead,
            unflushed: 0,
            breaker: feed.breaker.clone(),
        })
    }

    /// The next rows are of this unit, of which `known` are there already.
    pub(super) fn begin(&mut self, unit: &str, known: RowSet) {
        self.unit = Bytes::copy_from_slice(unit.as_bytes());
        self.known = known;
    }

    /// Appends rows that are not there yet.
    ///
    /// # Errors
    /// `TM591` if too many of the newest are bad: what was given is durable then.
    pub(super) async fn append(&mut self, rows: Vec<SourceRow>) -> Result<()> {
        failpoint::reached("feed.before_append")?;
        let (mut fresh, mut bad, mut example) = (0, 0, None);
        for row in rows {
            let is_fresh = !self.known.contains(row.row);
            fresh += u64::from(is_fresh);
            match row.payload {
                Ok(payload) => {
                    self.rows += 1;
                    if is_fresh {
                        self.append_row(row.row, row.key, payload).await?;
                    }
                }
                Err(fault) => {
                    self.dead += 1;
                    if is_fresh {
                        bad += 1;
                        example = Some(format!("row {}: {}", row.row, fault.class));
                        self.append_dead(row.row, &fault).await?;
                    }
                }
            }
            if self.unflushed >= FLUSH_ROWS {
                self.flush().await?;
            }
        }
        self.tell();
        self.breaker.observe(fresh, bad, || example);
        match self.breaker.tripped(&self.feed.source) {
            None => Ok(()),
            Some(error) => self.flush().await.and(Err(error)),
        }
    }

    /// Waits until everything appended is durable.
    pub(super) async fn flush(&mut self) -> Result<()> {
        failpoint::reached("feed.before_flush")?;
        self.writer.flush().await?;
        failpoint::reached("feed.after_flush")?;
        self.unflushed = 0;
        self.tell();
        Ok(())
    }

    /// Rows and quarantined rows of all units so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.rows, self.dead)
    }

    async fn append_row(&mut self, row: u64, key: Option<Bytes>, payload: Bytes) -> Result<()> {
        self.unflushed += 1;
        // With a key its hash decides, so that all rows of a key stay in order.
        let partition = match &key {
            Some(_) => None,
            None => i32::try_from(row % self.partitions).ok().map(PartitionId),
        };
        let record = ProduceRecord {
            partition,
            key,
            payload: Some(payload),
            timestamp_ms: None,
            headers: headers(&self.unit, row),
        };
        self.writer.append(&self.feed.topic, record).await
    }

    async fn append_dead(&mut self, row: u64, fault: &RowFault) -> Result<()> {
        self.unflushed += 1;
        let unit = String::from_utf8_lossy(&self.unit);
        let place = json!({ "unit": unit, "row": row });
        let now = SystemClock.now_micros();
        let payload = quarantine::dead_row(&self.feed.source, &place, None, fault, now);
        let record = ProduceRecord {
            partition: Some(PartitionId(0)),
            key: None,
            payload: Some(payload),
            timestamp_ms: None,
            headers: headers(&self.unit, row),
        };
        self.writer.append(&self.feed.dead_topic, record).await
    }

    fn tell(&self) {
        self.feed.board.update_feed(&self.feed.source, |feed| {
            feed.rows = self.rows;
            feed.dead = self.dead;
        });
    }
}
