//! Which job runs which query: derived from the catalog and the commits, so that every restart
//! comes to the same answer without anything being written down twice.
//!
//! The first job of a source carries the source's name and all queries there were when it made its
//! first commit. A query registered later gets a job of its own, `<source>.<number>` with the
//! number of its `CREATE` statement, which reads the topic from the source's startup mode on. If
//! it reads a view of another job, its job computes that view too, for itself, and publishes only
//! its own rows. A query that left a job
//! (`split`) is that job's whose newest commit names it.

use std::collections::BTreeMap;

use tidemill_connectors::store::Store;
use tidemill_contract::{Commit, Result};
use tidemill_sql::catalog::Catalog;

use crate::{job::state::JobState, ledger::newest_commit, publish::read_staged, split::finish_all};

/// One job's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// Job name.
    pub(crate) job: String,
    /// Queries whose results are its own, with the numbers of their `CREATE` statements.
    pub(crate) outputs: BTreeMap<String, u64>,
}

/// The name of the job of a query registered late.
pub(crate) fn own_job(source: &str, number: u64) -> String {
    format!("{source}.{number}")
}

/// Divides the queries of a source, given with the numbers of their `CREATE` statements. A parting
/// of a job that was begun is finished first.
pub(crate) async fn divide(
    store: &Store,
    writer: &str,
    source: &str,
    queries: &BTreeMap<String, u64>,
) -> Result<Vec<Share>> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let base_is_new = !read_owners(store, writer, source, queries, &mut owners).await?;
    // Inputs have lower numbers than their readers, and take them along.
    let mut oldest_first: Vec<(&String, &u64)> = queries.iter().collect();
    oldest_first.sort_by_key(|(_, number)| **number);
    for (name, number) in oldest_first {
        if !owners.contains_key(name) {
            let job = own_job(source, *number);
            read_owners(store, writer, &job, queries, &mut owners).await?;
        }
    }
    let mut shares: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (name, number) in queries {
        let job = match owners.remove(name) {
            Some(job) => job,
            // The source's job never committed: it takes whoever has no commits elsewhere.
            None if base_is_new => source.to_owned(),
            None => own_job(source, *number),
        };
        shares.entry(job).or_default().insert(name.clone(), *number);
    }
    // The source's job comes first: its name is the shortest.
    Ok(shares.into_iter().map(|(job, outputs)| Share { job, outputs }).collect())
}

/// Notes the queries that a job's newest commit speaks for; false if it has no commit. A query is
/// named in the newest commit of one job at most.
async fn read_owners(
    store: &Store,
    writer: &str,
    job: &str,
    queries: &BTreeMap<String, u64>,
    owners: &mut BTreeMap<String, String>,
) -> Result<bool> {
    let Some(commit) = newest_commit(store, job).await? else { return Ok(false) };
    finish_all(store, writer, &commit).await?;
    for (name, number) in members(store, &commit).await? {
        if queries.get(&name) == Some(&number) {
            owners.insert(name, job.to_owned());
        }
    }
    Ok(true)
}

/// The queries a commit speaks for.
async fn members(store: &Store, commit: &Commit) -> Result<BTreeMap<String, u64>> {
    match (&commit.queries, &commit.state) {
        (Some(queries), _) => Ok(queries.clone()),
        (None, None) => Ok(BTreeMap::new()),
        (None, Some(object)) => {
            let bytes = read_staged(store, object).await?;
            Ok(JobState::decode_header(&bytes)?.0.queries)
        }
    }
}

/// The queries the operators of a job must be built for: its outputs and all views they read,
/// inputs before their readers.
pub(crate) fn with_inputs<'a>(
    catalog: &Catalog,
    outputs: impl IntoIterator<Item = &'a String>,
) -> Vec<String> {
    fn visit(catalog: &Catalog, name: &str, order: &mut Vec<String>) {
        let Some(query) = catalog.query(name) else { return };
        if order.iter().any(|known| known == name) {
            return;
        }
        for input in &query.inputs {
            visit(catalog, input, order);
        }
        order.push(name.to_owned());
    }
    let mut order = Vec::new();
    for name in outputs {
        visit(catalog, name, &mut order);
    }
    order
}
