//! A topic page by page: whatever its size, one page is in memory.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidemill_connectors::log::kafka::{KafkaLog, KafkaReader};
use tidemill_contract::{Error, LogReader, PartitionId, RawRecord, Result};

use crate::{outbox::ID_HEADER, quarantine::OWN_HEADERS};

/// Records and bytes of one page. A dead row may have 160 KiB.
const PAGE_RECORDS: usize = 1000;
const PAGE_BYTES: usize = 8 << 20;
/// How long a topic may give nothing before its end.
const STALL: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(20);

/// What a topic held when this was opened.
pub(crate) struct Pages {
    topic: String,
    /// `None` while a page is read, and for a topic without records.
    reader: Option<KafkaReader>,
    open: Vec<PartitionId>,
    ends: BTreeMap<i32, i64>,
}

impl Pages {
    /// From the given offsets, else from the start, to where the topic ends now. A topic that does
    /// not exist has no pages.
    pub(crate) async fn open(
        log: &KafkaLog,
        topic: &str,
        from: &BTreeMap<i32, i64>,
    ) -> Result<Self> {
        let mut pages =
            Self { topic: topic.to_owned(), reader: None, open: Vec::new(), ends: BTreeMap::new() };
        if log.partitions(topic).await?.is_none() {
            return Ok(pages);
        }
        let mut start = BTreeMap::new();
        for (partition, (low, high)) in log.watermarks(topic).await? {
            let first = from.get(&partition).map_or(low, |first| (*first).max(low));
            if first < high {
                start.insert(partition, first);
                pages.ends.insert(partition, high);
            }
        }
        if start.is_empty() {
            return Ok(pages);
        }
        let (log, name) = (log.clone(), topic.to_owned());
        let group = format!("tidemill-scan-{}", uuid::Uuid::new_v4());
        let reader = blocking(move || log.reader(&name, &group, &start)).await?;
        pages.open = reader.partitions();
        pages.reader = Some(reader);
        Ok(pages)
    }

    /// The next records, in offset order within each partition; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<(i32, RawRecord)>>> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let (mut open, ends) = (std::mem::take(&mut self.open), self.ends.clone());
        let topic = self.topic.clone();
        let (reader, open, page) = blocking(move || {
            let page = read(&mut reader, &mut open, &ends, &topic)?;
            Ok((reader, open, page))
        })
        .await?;
        self.reader = Some(reader);
        self.open = open;
        Ok(if page.is_empty() { None } else { Some(page) })
    }
}

fn read(
    reader: &mut KafkaReader,
    open: &mut Vec<PartitionId>,
    ends: &BTreeMap<i32, i64>,
    topic: &str,
) -> Result<Vec<(i32, RawRecord)>> {
    let mut page = Vec::new();
    let mut heard = Instant::now();
    while let Some(partition) = open.first().copied() {
        let end = ends.get(&partition.0).copied().unwrap_or(0);
        let before = reader.next_offset(partition);
        let batch = reader.poll(partition, PAGE_RECORDS, PAGE_BYTES)?;
        let fitting = batch.iter().filter(|record| record.offset() < end);
        page.extend(fitting.map(|record| (partition.0, record.to_record())));
        if batch.next_offset >= end {
            open.remove(0);
        }
        if !page.is_empty() {
            break;
        }
        if before != Some(batch.next_offset) {
            heard = Instant::now();
        } else if heard.elapsed() > STALL {
            return Err(Error::unavailable(
                "TM743",
                format!("topic '{topic}' gave no record for {STALL:?}"),
            ));
        } else {
            reader.wait(WAIT);
        }
    }
    Ok(page)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("reading a topic panicked: {e}"))))
}

/// The newest payloads of a topic: at most so many per partition, and so many bytes in all.
pub(crate) async fn newest(
    log: &KafkaLog,
    topic: &str,
    records_max: i64,
    bytes_max: usize,
) -> Result<VecDeque<RawRecord>> {
    let mut from = BTreeMap::new();
    if log.partitions(topic).await?.is_some() {
        for (partition, (low, high)) in log.watermarks(topic).await? {
            from.insert(partition, low.max(high.saturating_sub(records_max)));
        }
    }
    let size = |record: &RawRecord| record.payload.as_ref().map_or(0, Bytes::len);
    let mut pages = Pages::open(log, topic, &from).await?;
    let (mut kept, mut bytes) = (VecDeque::new(), 0);
    let mut copies = Copies::default();
    while let Some(page) = pages.next().await? {
        for (_, record) in page {
            if copies.is_copy(&record) {
                continue;
            }
            bytes += size(&record);
            kept.push_back(record);
        }
        while bytes > bytes_max
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= size(&oldest);
        }
    }
    Ok(kept)
}

/// Tells copies: a process that was stopped half way may have appended a row a second time.
#[derive(Debug, Default)]
pub(crate) struct Copies(HashSet<Vec<Bytes>>);

impl Copies {
    /// The same row was seen before.
    pub(crate) fn is_copy(&mut self, record: &RawRecord) -> bool {
        // What is the same for every copy: unit and number of the row, or its id in the outbox.
        let own = || record.headers.iter().filter(|(name, _)| name.starts_with(OWN_HEADERS));
        let mut identity: Vec<Bytes> = own().map(|(_, value)| value.clone()).collect();
        // The ids begin anew with a source that was dropped and declared again; the rows differ.
        if own().any(|(name, _)| name == ID_HEADER) {
            let sum = crc32c::crc32c(record.payload.as_deref().unwrap_or_default());
            identity.push(Bytes::copy_from_slice(&sum.to_be_bytes()));
        }
        !identity.is_empty() && !self.0.insert(identity)
    }
}
