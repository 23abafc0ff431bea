//! Commit records as they lie in a bucket's folder, and the law each of them must obey:
//! conservation, recomputed from the record alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill_contract::Commit;
use tidemill_runtime::Pipeline;

/// The jobs with commits in a bucket.
pub(crate) fn jobs(bucket: &Path) -> Vec<String> {
    let Ok(listed) = std::fs::read_dir(bucket.join("commits")) else { return Vec::new() };
    let mut jobs: Vec<String> =
        listed.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    jobs.sort();
    jobs
}

/// The commit records of a job that are there, oldest first.
pub(crate) fn commits(bucket: &Path, job: &str) -> Vec<Commit> {
    paths(bucket, job).iter().filter_map(|path| read(path)).collect()
}

/// The newest commit of a job.
pub(crate) fn newest(bucket: &Path, job: &str) -> Option<Commit> {
    paths(bucket, job).last().and_then(|path| read(path))
}

fn paths(bucket: &Path, job: &str) -> Vec<PathBuf> {
    let Ok(listed) = std::fs::read_dir(bucket.join("commits").join(job)) else {
        return Vec::new();
    };
    let paths = listed.map(|entry| entry.unwrap().path());
    // What is being written has a hidden name with `#` in it.
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
}

/// `None` if it was pruned between the listing and now.
fn read(path: &Path) -> Option<Commit> {
    let text = std::fs::read_to_string(path).ok()?;
    let record = text.lines().next().unwrap();
    Some(serde_json::from_str(record).unwrap_or_else(|error| panic!("{path:?}: {error}")))
}

/// Stops a pipeline on a folder: what its status said last and every commit in its bucket must
/// account for each row.
pub(crate) async fn stop_conserved(pipeline: &Pipeline, over_views: &[&str]) {
    pipeline.stop().await.unwrap();
    for job in pipeline.status().jobs {
        assert_eq!(job.conservation_drift, 0, "job '{}'", job.name);
    }
    let url = pipeline.bucket_url();
    assert_conserved(Path::new(url.strip_prefix("file://").unwrap()), over_views);
}

/// Checks every commit in the bucket; gives how many there were. No row was lost or counted twice
/// between reading a record and the commit, in any epoch of any job. `over_views` are the queries
/// that read a view: every other one must have been given every row of the source.
pub(crate) fn assert_conserved(bucket: &Path, over_views: &[&str]) -> usize {
    let mut checked = 0;
    for job in jobs(bucket) {
        let commits = commits(bucket, &job);
        for commit in &commits {
            let faults = faults(commit, over_views);
            assert!(faults.is_empty(), "job '{job}', epoch {}: {faults:?}", commit.epoch);
        }
        for pair in commits.windows(2) {
            for (counter, before) in &pair[0].counters {
                // A query that left the job takes its counters with it.
                let after = pair[1].counters.get(counter).copied().unwrap_or(u64::MAX);
                let epoch = pair[1].epoch;
                assert!(after >= *before, "job '{job}', epoch {epoch}: {counter} went back");
            }
        }
        checked += commits.len();
    }
    checked
}

/// What one commit cannot account for.
fn faults(commit: &Commit, over_views: &[&str]) -> Vec<String> {
    let count = |name: &str| commit.counters.get(name).copied().unwrap_or(0);
    let mut faults = Vec::new();
    let (records, rows) = (count("records"), count("rows"));
    if records != rows + count("quarantined") + count("tombstones") {
        faults.push(format!("{records} records: {:?}", commit.counters));
    }
    let queries: BTreeMap<&str, u64> = commit
        .counters
        .iter()
        .filter_map(|(name, value)| Some((name.strip_suffix(".rows_in")?, *value)))
        .collect();
    for (query, rows_in) in queries {
        let of = |what: &str| count(&format!("{query}.{what}"));
        if rows_in != of("counted") + of("filtered") + of("late") {
            faults.push(format!("query '{query}': {:?}", commit.counters));
        }
        if !over_views.contains(&query) && rows_in != rows {
            faults.push(format!("query '{query}' was given {rows_in} of {rows} rows"));
        }
    }
    faults
}

/// Bytes of the objects that hold the state of a commit.
pub(crate) fn state_bytes(commit: &Commit) -> u64 {
    commit.state.iter().chain(&commit.shared_state).map(|object| object.bytes).sum()
}
