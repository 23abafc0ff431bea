//! Where a job reads on: the startup mode for its first start, its last commit after that.
//!
//! A topic that was deleted, made anew or cut since the last commit is found here, by its bounds
//! and by the fingerprint of the last record read; the job then fails and names the ranges. It
//! never skips a gap by itself.

use std::collections::BTreeMap;

use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{Commit, Error, PartitionProgress, RawRecord, Result, Watermark};

use super::{Bound, JobConfig};

const STARTUP_MODE: &str = "scan.startup.mode";
const STARTUP_MILLIS: &str = "scan.startup.timestamp-millis";

/// Identifies a record well enough to notice that another one is in its place.
pub(super) fn fingerprint(record: &RawRecord) -> u32 {
    crc32c::crc32c(record.payload.as_deref().unwrap_or_default())
}

/// Where to read on in each partition the topic has now.
pub(super) async fn starting_progress(
    config: &JobConfig,
    commit: Option<&Commit>,
) -> Result<BTreeMap<i32, PartitionProgress>> {
    let topic = config.source.topic();
    let marks = config.log.watermarks(topic).await?;
    let fresh = match commit {
        Some(_) => BTreeMap::new(),
        None => first_offsets(config, &marks).await?,
    };
    let mut progress = BTreeMap::new();
    for (partition, (low, high)) in &marks {
        let committed = commit.and_then(|commit| commit.partitions.get(partition));
        let at_start = matches!(config.bound, Bound::AtStart);
        let resumed = match committed {
            Some(committed) => {
                check_log(&config.log, topic, *partition, committed, (*low, *high)).await?;
                committed.clone()
            }
            None => PartitionProgress {
                next_offset: fresh.get(partition).copied().unwrap_or(*low),
                fingerprint: None,
                fingerprint_offset: None,
                watermark: Watermark::MIN,
                bound: at_start.then_some(*high),
            },
        };
        progress.insert(*partition, resumed);
    }
    let mut committed = commit.iter().flat_map(|commit| &commit.partitions);
    let lost = committed.find(|(partition, _)| !marks.contains_key(partition));
    if let Some((partition, committed)) = lost {
        return Err(data_loss(topic, *partition, committed.next_offset, "the partition is gone"));
    }
    Ok(progress)
}

async fn first_offsets(
    config: &JobConfig,
    marks: &BTreeMap<i32, (i64, i64)>,
) -> Result<BTreeMap<i32, i64>> {
    let options = &config.source.options;
    let object = format!("source '{}'", config.source.name);
    match options.get(STARTUP_MODE) {
        None | Some("earliest-offset") => {
            Ok(marks.iter().map(|(partition, (low, _))| (*partition, *low)).collect())
        }
        Some("latest-offset") => {
            Ok(marks.iter().map(|(partition, (_, high))| (*partition, *high)).collect())
        }
        Some("timestamp") => {
            let text = options.require(STARTUP_MILLIS, &object)?;
            let millis = text.parse().map_err(|_| {
                Error::invalid("TM113", format!("{object}: '{STARTUP_MILLIS}' is not a number"))
                    .at(options.span(STARTUP_MILLIS))
            })?;
            config.log.offsets_for_time(config.source.topic(), millis).await
        }
        Some(other) => {
            Err(Error::invalid("TM113", format!("{object}: '{STARTUP_MODE}' cannot be '{other}'"))
                .at(options.span(STARTUP_MODE))
                .because("positions are kept in the bucket, never in a consumer group")
                .help("use 'earliest-offset', 'latest-offset' or 'timestamp'"))
        }
    }
}

/// The log must still hold what comes next, and before it the record that was read last.
async fn check_log(
    log: &KafkaLog,
    topic: &str,
    partition: i32,
    committed: &PartitionProgress,
    (low, high): (i64, i64),
) -> Result<()> {
    let next = committed.next_offset;
    if low > next {
        return Err(data_loss(
            topic,
            partition,
            next,
            &format!("records [{next}, {low}) are gone"),
        ));
    }
    if high < next {
        let reason = format!("the log ends at {high}: it was cut or made anew");
        return Err(data_loss(topic, partition, next, &reason));
    }
    let (Some(expected), Some(offset)) = (committed.fingerprint, committed.fingerprint_offset)
    else {
        return Ok(());
    };
    if offset < low {
        return Ok(()); // Retention took it; what comes next is there.
    }
    let (from, to) = ([(partition, offset)].into(), [(partition, offset + 1)].into());
    let found = log.read_range(topic, &from, &to).await?;
    match found.iter().find(|(_, record)| record.offset == offset) {
        Some((_, record)) if fingerprint(record) == expected => Ok(()),
        Some(_) => {
            let reason = format!("record {offset} is not the one that was read: it was made anew");
            Err(data_loss(topic, partition, next, &reason))
        }
        None => {
            let reason = format!("record {offset}, which was read, is not there");
            Err(data_loss(topic, partition, next, &reason))
        }
    }
}

fn data_loss(topic: &str, partition: i32, next: i64, reason: &str) -> Error {
    let what = format!(
        "DATA LOSS: topic '{topic}' does not continue at offset {next} of partition {partition}"
    );
    Error::corrupt("TM501", what)
        .because(reason)
        .help("restore the topic, or drop and create the source again to start from what is there")
}
