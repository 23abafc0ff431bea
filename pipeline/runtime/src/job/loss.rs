//! Whether a topic still continues what was read from it, and if not, which ranges are concerned
//! and where reading could go on.
//!
//! Three things tell: the topic's id (another one: made anew), the bounds of each partition, and
//! the marks of records that were read. It finds **all** partitions with a loss, never only the
//! first, and never decides: without an operator's choice nothing is read on.

use std::collections::BTreeMap;

use tidemill_connectors::log::kafka::{KafkaLog, TopicIdentity};
use tidemill_contract::{Clock, Error, Loss, LossKind, PartitionProgress, Result, SystemClock};

use super::marks::Expected;

/// From where to go on after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecoverFrom {
    /// The first record that was not read, or may not have been.
    Earliest,
    /// The log's end.
    Latest,
}

/// A loss in one partition and the ways on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) loss: Loss,
    /// Where [`RecoverFrom::Earliest`] goes on; `None` if the partition is not there.
    earliest: Option<i64>,
}

impl Finding {
    /// A loss of the offsets `[from, to)`, of which those from `next` on were never read.
    fn new(kind: LossKind, partition: i32, (from, to): (i64, i64), next: i64) -> Self {
        let lost = u64::try_from(to - from.max(next)).unwrap_or(0);
        let loss = Loss { partition, from, to, kind, lost, resumed_at: None, accepted_at: None };
        Self { loss, earliest: None }
    }

    fn earliest(mut self, offset: i64) -> Self {
        self.earliest = Some(offset);
        self
    }

    /// The topic itself is another one.
    pub(super) fn is_remade(&self) -> bool {
        self.loss.kind == LossKind::Remade
    }

    /// Only the beginning of the log is gone: its offsets mean what they meant.
    pub(super) fn is_expired(&self) -> bool {
        self.loss.kind == LossKind::Expired
    }

    /// Accepts the loss: where to go on (`None`: the partition is not there) and what is recorded.
    pub(super) fn accept(&self, from: RecoverFrom, end: Option<i64>) -> (Option<i64>, Vec<Loss>) {
        let resumed_at = match from {
            RecoverFrom::Earliest => self.earliest,
            RecoverFrom::Latest => end,
        };
        let accepted_at = Some(SystemClock.now_micros());
        let mut losses = vec![Loss { resumed_at, accepted_at, ..self.loss.clone() }];
        if let (Some(first), Some(resumed)) = (self.earliest, resumed_at) {
            losses.extend(skipped(self.loss.partition, first, resumed));
        }
        (resumed_at, losses)
    }
}

/// The records passed over by the choice to go on at the end.
pub(super) fn skipped(partition: i32, first: i64, resumed: i64) -> Option<Loss> {
    let lost = u64::try_from(resumed - first).ok().filter(|lost| *lost > 0)?;
    Some(Loss {
        partition,
        from: first,
        to: resumed,
        kind: LossKind::Skipped,
        lost,
        resumed_at: Some(resumed),
        accepted_at: Some(SystemClock.now_micros()),
    })
}

/// What a job has read, and of what.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) topic: &'a str,
    /// The topic's id when it was read.
    pub(super) id: Option<&'a str>,
    pub(super) partitions: &'a BTreeMap<i32, PartitionProgress>,
}

/// Bounds of each partition: `[low, high)`.
pub(super) type Bounds = BTreeMap<i32, (i64, i64)>;

/// Every partition in which the log does not continue what was read; empty if all is well.
///
/// # Errors
/// If the broker does not answer.
pub(super) async fn examine(
    log: &KafkaLog,
    read: &Read<'_>,
    now: Option<&TopicIdentity>,
    bounds: &Bounds,
) -> Result<Vec<Finding>> {
    let ids = (read.id, now.and_then(|now| now.id.as_deref()));
    let is_same = matches!(ids, (Some(then), Some(now)) if then == now);
    let is_other = matches!(ids, (Some(then), Some(now)) if then != now);
    let mut findings = Vec::new();
    let mut unsettled = BTreeMap::new();
    for (partition, progress) in read.partitions {
        let next = progress.next_offset;
        let known_end = progress.end.unwrap_or(next).max(next);
        let finding = |kind, from| Finding::new(kind, *partition, (from, known_end), next);
        match bounds.get(partition) {
            None => findings.push(finding(LossKind::Gone, next)),
            Some((low, _)) if is_other => {
                findings.push(finding(LossKind::Remade, next).earliest(*low));
            }
            Some(bounds) => {
                unsettled.insert(*partition, *bounds);
            }
        }
    }
    let found = compare(log, read, &unsettled).await?;
    for (partition, (low, high)) in unsettled {
        let progress = &read.partitions[&partition];
        let next = progress.next_offset;
        let known_end = progress.end.unwrap_or(next).max(next);
        let found = found.get(&partition).copied().unwrap_or_default();
        let finding = |kind, from, to| Finding::new(kind, partition, (from, to), next);
        if found.other || high < next {
            // Up to the newest record that is still the same the log is the one that was read.
            let first = found.same.map_or(low, |same| same + 1);
            let kind =
                if found.same.is_some() || is_same { LossKind::Cut } else { LossKind::Remade };
            let from = if kind == LossKind::Cut { first } else { next };
            findings.push(finding(kind, from, known_end).earliest(first));
        } else if low > next {
            findings.push(finding(LossKind::Expired, next, low).earliest(low));
        } else if found.absent && found.same.is_none() && !is_same {
            if log.is_compacted(read.topic).await? {
                let topic = read.topic;
                tracing::info!(
                    topic,
                    partition,
                    "compaction took every record by which the log could be checked"
                );
            } else {
                findings.push(finding(LossKind::Remade, next, known_end).earliest(low));
            }
        }
    }
    findings.sort_by_key(|finding| finding.loss.partition);
    Ok(findings)
}

/// What the marks of one partition say.
#[derive(Debug, Clone, Copy, Default)]
struct Comparison {
    /// Newest offset at which the record is the one that was read.
    same: Option<i64>,
    /// At some offset above that there is another record.
    other: bool,
    /// At some offset above that there is none (compaction takes records too).
    absent: bool,
}

/// Reads the newest mark of each partition that the log still has, then older ones where that one
/// was not the same.
async fn compare(
    log: &KafkaLog,
    read: &Read<'_>,
    bounds: &Bounds,
) -> Result<BTreeMap<i32, Comparison>> {
    let mut found: BTreeMap<i32, Comparison> = BTreeMap::new();
    let mut open: BTreeMap<i32, Vec<Expected>> = BTreeMap::new();
    for (partition, (low, high)) in bounds {
        let mut expected = Expected::of(&read.partitions[partition]);
        expected.retain(|expected| (*low..*high).contains(&expected.offset()));
        open.insert(*partition, expected);
    }
    loop {
        open.retain(|partition, left| {
            !left.is_empty() && found.get(partition).is_none_or(|found| found.same.is_none())
        });
        let asked: BTreeMap<i32, Expected> = open
            .iter_mut()
            .filter_map(|(partition, left)| Some((*partition, left.pop()?)))
            .collect();
        if asked.is_empty() {
            return Ok(found);
        }
        let from = asked.iter().map(|(id, expected)| (*id, expected.offset())).collect();
        let to = asked.iter().map(|(id, expected)| (*id, expected.offset() + 1)).collect();
        let records = log.read_range(read.topic, &from, &to).await?;
        for (partition, expected) in asked {
            let record = records
                .iter()
                .find(|(id, record)| *id == partition && record.offset == expected.offset());
            let comparison = found.entry(partition).or_default();
            match record {
                Some((_, record)) if expected.is(record) => {
                    comparison.same = Some(expected.offset());
                }
                Some(_) => comparison.other = true,
                None => comparison.absent = true,
            }
        }
    }
}

/// The error of a job that stopped because of these losses.
pub(super) fn error(source: &str, topic: &str, findings: &[Finding]) -> Error {
    let ranges: Vec<String> = findings.iter().map(|finding| finding.loss.to_string()).collect();
    let what = format!("DATA LOSS: topic '{topic}' does not continue where source '{source}' is");
    Error::corrupt("TM501", what).because(ranges.join("; ")).help(format!(
        "RECOVER SOURCE {source} FROM EARLIEST accepts the loss and reads what there is, FROM \
         LATEST only what comes from now on"
    ))
}
