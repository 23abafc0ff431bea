//! `Fetch`: batches from files, with long polling.
//!
//! Waits until `min_bytes` are there, `max_wait_ms` passed or a partition has an error. Waiters are
//! registered before the log is looked at, so that no append is missed. Every fetch is a full one:
//! fetch sessions are declined, which clients handle.

use std::sync::Arc;
use std::time::Duration;

use futures::future;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use tidemill_contract::Result as Answered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::super::config::FETCH_BYTES_MAX;
use super::super::dispatch::{self, Call, Pending};
use super::super::storage::{Buffers, Limit, Overrun, PartitionRef, Slice};
use super::fetch_frame;

/// Longest wait granted, whatever the client asks for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// One partition asked for.
#[derive(Clone)]
struct Wanted {
    topic: usize,
    index: i32,
    offset: i64,
    bytes_max: usize,
    partition: Option<PartitionRef>,
}

type Found = Vec<Result<Slice, ResponseError>>;

/// Decodes the request; the pending answer waits for records.
pub(in super::super) fn start(mut call: Call) -> Answered<Pending> {
    let request: FetchRequest = dispatch::decode(&mut call)?;
    Ok(Pending::Answer(Box::pin(async move {
        let (correlation_id, version) = (call.correlation_id, call.version);
        let response = handle(call, request).await;
        fetch_frame::encode(correlation_id, version, response)
    })))
}

async fn handle(call: Call, request: FetchRequest) -> FetchResponse {
    if request.session_id != 0 {
        let error = ResponseError::FetchSessionIdNotFound;
        return FetchResponse::default().with_error_code(error.code());
    }
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait.min(WAIT_MAX);
    let (names, wanted) = resolve(&call, request);
    let wanted: Arc<[Wanted]> = wanted.into();
    let mut watchers: Vec<watch::Receiver<i64>> = Vec::new();
    for one in wanted.iter() {
        watchers.extend(one.partition.as_ref().map(|partition| partition.watch()));
    }
    loop {
        for watcher in &mut watchers {
            watcher.mark_unchanged();
        }
        let found = read(Arc::clone(&wanted), Arc::clone(&call.shared.buffers), bytes_max).await;
        let failed = found.iter().any(Result::is_err);
        let bytes: usize = found.iter().flatten().map(|slice| slice.records.len()).sum();
        if failed || bytes >= bytes_min || watchers.is_empty() {
            return respond(names, &wanted, found);
        }
        let changed = future::select_all(watchers.iter_mut().map(|one| Box::pin(one.changed())));
        match timeout_at(deadline, changed).await {
            Ok((Ok(()), _, _)) => {}
            // The time is over, or a topic was deleted: answer with what is there.
            Ok((Err(_), _, _)) | Err(_) => return respond(names, &wanted, found),
        }
    }
}

fn resolve(call: &Call, request: FetchRequest) -> (Vec<TopicName>, Vec<Wanted>) {
    let mut names = Vec::with_capacity(request.topics.len());
    let mut wanted = Vec::new();
    for topic in request.topics {
        let known = call.shared.storage.topic(&topic.topic);
        for partition in topic.partitions {
            let index = partition.partition;
            wanted.push(Wanted {
                topic: names.len(),
                index,
                offset: partition.fetch_offset,
                bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
                partition: known.as_ref().and_then(|topic| topic.partition(index)).map(Arc::clone),
            });
        }
        names.push(topic.topic);
    }
    (names, wanted)
}

/// Reads every partition off the async threads.
async fn read(wanted: Arc<[Wanted]>, buffers: Arc<Buffers>, bytes_max: usize) -> Found {
    let count = wanted.len();
    let read = move || read_blocking(&wanted, &buffers, bytes_max);
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| vec![Err(ResponseError::UnknownServerError); count])
}

fn read_blocking(wanted: &[Wanted], buffers: &Arc<Buffers>, bytes_max: usize) -> Found {
    let mut left = bytes_max;
    let mut overrun = Overrun::FirstBatch;
    let mut found = Vec::with_capacity(wanted.len());
    for one in wanted {
        let slice = match &one.partition {
            None => Err(ResponseError::UnknownTopicOrPartition),
            Some(partition) => {
                let limit = Limit { bytes_max: one.bytes_max.min(left), overrun };
                partition.read(one.offset, limit, buffers)
            }
        };
        if let Ok(slice) = &slice
            && !slice.records.is_empty()
        {
            left = left.saturating_sub(slice.records.len());
            overrun = Overrun::Never;
        }
        found.push(slice);
    }
    found
}

fn respond(names: Vec<TopicName>, wanted: &[Wanted], found: Found) -> FetchResponse {
    let mut topics: Vec<FetchableTopicResponse> =
        names.into_iter().map(|name| FetchableTopicResponse::default().with_topic(name)).collect();
    for (one, found) in wanted.iter().zip(found) {
        let row = PartitionData::default()
            .with_partition_index(one.index)
            .with_preferred_read_replica(BrokerId(-1))
            .with_aborted_transactions(None);
        let row = match found {
            Ok(slice) => row
                .with_high_watermark(slice.high_watermark)
                .with_last_stable_offset(slice.high_watermark)
                .with_log_start_offset(slice.log_start)
                .with_records(Some(slice.records)),
            Err(error) => row
                .with_error_code(error.code())
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1)
                .with_records(Some(bytes::Bytes::new())),
        };
        if let Some(topic) = topics.get_mut(one.topic) {
            topic.partitions.push(row);
        }
    }
    FetchResponse::default().with_responses(topics)
}
