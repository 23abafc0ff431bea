//! Where a job reads on: the startup mode for its first start, its last commit after that.
//!
//! A topic that was deleted, made anew or cut since the last commit, or that retention has taken
//! records from, is found here. It never skips a gap by itself: somebody chooses, by statement or
//! beforehand by an option, and the choice becomes true with the next commit.

use std::collections::BTreeMap;

use tidemill_contract::{Commit, Error, Loss, PartitionProgress, Result, SourceSpec, Watermark};

use super::{
    Bound, JobConfig,
    loss::{Bounds, Finding, Read, RecoverFrom, error, examine, skipped},
};

const STARTUP_MODE: &str = "scan.startup.mode";
const STARTUP_MILLIS: &str = "scan.startup.timestamp-millis";
/// Option: what to do about lost log data without asking.
const ON_DATA_LOSS: &str = "scan.on-data-loss";

/// A place to read on from.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) progress: BTreeMap<i32, PartitionProgress>,
    /// The topic it is in.
    pub(super) topic_id: Option<String>,
    /// Losses accepted on the way here: not true before they are committed.
    pub(super) accepted: Vec<Loss>,
}

/// Whether there is a place.
#[derive(Debug)]
pub(super) enum Found {
    Place(Place),
    /// Somebody must choose.
    Lost(Vec<Finding>),
}

/// What the option says to do about lost log data.
pub(crate) fn unattended(source: &SourceSpec) -> Result<Option<RecoverFrom>> {
    match source.options.get(ON_DATA_LOSS) {
        None | Some("fail") => Ok(None),
        Some("earliest") => Ok(Some(RecoverFrom::Earliest)),
        Some("latest") => Ok(Some(RecoverFrom::Latest)),
        Some(other) => {
            let what = format!("source '{}': '{ON_DATA_LOSS}' cannot be '{other}'", source.name);
            Err(Error::invalid("TM113", what)
                .at(source.options.span(ON_DATA_LOSS))
                .help("use 'fail', 'earliest' or 'latest'"))
        }
    }
}

/// Where to read on in each partition the topic has now.
pub(super) async fn find_place(
    config: &JobConfig,
    commit: Option<&Commit>,
    choice: Option<RecoverFrom>,
) -> Result<Found> {
    let topic = config.source.topic();
    let now = config.log.topic(topic).await?;
    let bounds = match &now {
        Some(_) => config.log.watermarks(topic).await?,
        None => Bounds::new(),
    };
    let Some(commit) = commit else {
        return first_place(config, now.and_then(|now| now.id), &bounds).await;
    };
    let read = Read { topic, id: commit.topic_id.as_deref(), partitions: &commit.partitions };
    let findings = examine(&config.log, &read, now.as_ref(), &bounds).await?;
    let choice = choice.or(unattended(&config.source)?);
    let mut place = Place {
        progress: commit.partitions.clone(),
        topic_id: now.as_ref().and_then(|now| now.id.clone()),
        accepted: Vec::new(),
    };
    if !findings.is_empty() {
        // Without a topic there is nothing to go on with.
        let Some(choice) = choice.filter(|_| now.is_some()) else {
            return Ok(Found::Lost(findings));
        };
        let told = error(&config.source.name, topic, &findings);
        tracing::warn!(job = %config.name, %told, ?choice, "a loss of log data is accepted");
        accept(config, &mut place, &findings, &bounds, choice);
    }
    add_new_partitions(config, &mut place, &findings, &bounds, choice);
    Ok(Found::Place(place))
}

/// Moves the partitions with a loss to where reading goes on.
fn accept(
    config: &JobConfig,
    place: &mut Place,
    findings: &[Finding],
    bounds: &Bounds,
    choice: RecoverFrom,
) {
    for finding in findings {
        let partition = finding.loss.partition;
        let end = bounds.get(&partition).map(|(_, high)| *high);
        let (resumed_at, losses) = finding.accept(choice, end);
        place.accepted.extend(losses);
        match (resumed_at, place.progress.get_mut(&partition)) {
            (Some(offset), Some(progress)) => {
                progress.next_offset = offset;
                progress.marks.retain(|mark| mark.offset < offset && !finding.is_remade());
                progress.fingerprint = None;
                progress.fingerprint_offset = None;
                progress.end = end;
                if matches!(config.bound, Bound::AtStart) && !finding.is_expired() {
                    progress.bound = end.map(|end| end.max(offset));
                }
            }
            _ => {
                place.progress.remove(&partition);
            }
        }
    }
}

/// A partition the commit does not know was added since, and is read from its start, whatever the
/// startup mode says: what is in it came after the job began.
fn add_new_partitions(
    config: &JobConfig,
    place: &mut Place,
    findings: &[Finding],
    bounds: &Bounds,
    choice: Option<RecoverFrom>,
) {
    let passes_over =
        choice == Some(RecoverFrom::Latest) && findings.iter().any(Finding::is_remade);
    for (partition, (low, high)) in bounds {
        if place.progress.contains_key(partition) {
            continue;
        }
        let next = if passes_over { *high } else { *low };
        place.accepted.extend(skipped(*partition, *low, next));
        place.progress.insert(*partition, fresh(config, next, *high));
    }
}

fn fresh(config: &JobConfig, next: i64, high: i64) -> PartitionProgress {
    PartitionProgress {
        next_offset: next,
        fingerprint: None,
        fingerprint_offset: None,
        watermark: Watermark::MIN,
        bound: matches!(config.bound, Bound::AtStart).then_some(high),
        marks: Vec::new(),
        end: Some(high),
    }
}

/// Where a job without a commit begins.
pub(super) async fn first_progress(config: &JobConfig) -> Result<BTreeMap<i32, PartitionProgress>> {
    match find_place(config, None, None).await? {
        Found::Place(place) => Ok(place.progress),
        Found::Lost(_) => Err(Error::internal("a job without a commit has lost nothing")),
    }
}

async fn first_place(
    config: &JobConfig,
    topic_id: Option<String>,
    bounds: &Bounds,
) -> Result<Found> {
    if bounds.is_empty() {
        let topic = config.source.topic();
        return Err(Error::unavailable("TM522", format!("topic '{topic}' does not exist yet")));
    }
    let first = first_offsets(config, bounds).await?;
    let mut progress = BTreeMap::new();
    for (partition, (low, high)) in bounds {
        let next = first.get(partition).copied().unwrap_or(*low);
        progress.insert(*partition, fresh(config, next, *high));
    }
    Ok(Found::Place(Place { progress, topic_id, accepted: Vec::new() }))
}

/// A first start that does not begin at the log's start must be remembered at once: begun again,
/// it would pass over what came in between.
pub(super) fn must_be_kept(source: &SourceSpec) -> bool {
    !matches!(source.options.get(STARTUP_MODE), None | Some("earliest-offset"))
}

async fn first_offsets(config: &JobConfig, bounds: &Bounds) -> Result<BTreeMap<i32, i64>> {
    let options = &config.source.options;
    let object = format!("source '{}'", config.source.name);
    match options.get(STARTUP_MODE) {
        None | Some("earliest-offset") => {
            Ok(bounds.iter().map(|(partition, (low, _))| (*partition, *low)).collect())
        }
        Some("latest-offset") => {
            Ok(bounds.iter().map(|(partition, (_, high))| (*partition, *high)).collect())
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
