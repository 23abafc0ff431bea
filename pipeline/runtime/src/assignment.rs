//! Which job runs which query: derived from the catalog and the commits, so that every restart
//! comes to the same answer without anything being written down twice.
//!
//! The first job of a source carries the source's name and all queries there were when it made its
//! first commit. A query registered later gets a job of its own, `<source>.<number>` with the
//! number of its `CREATE` statement, which reads the topic from the source's startup mode on. If
//! it reads a view of another job, its job computes that view too, for itself, and publishes only
//! its own rows.

use std::collections::BTreeMap;

use tidemill_connectors::store::Store;
use tidemill_contract::Result;
use tidemill_sql::catalog::Catalog;

use crate::{
    job::state::JobState,
    ledger::{Ledger, read_commit},
    publish::read_staged,
};

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

/// Divides the queries of a source, given with the numbers of their `CREATE` statements.
pub(crate) async fn divide(
    store: &Store,
    source: &str,
    queries: &BTreeMap<String, u64>,
) -> Result<Vec<Share>> {
    let (_, first) = Ledger::open(Store::clone(store), source, String::new()).await?;
    let members = match first.as_ref().map(|commit| &commit.state) {
        None => None,
        Some(None) => Some(BTreeMap::new()),
        Some(Some(object)) => {
            let bytes = read_staged(store, object).await?;
            Some(JobState::decode_header(&bytes)?.0.queries)
        }
    };
    let mut base = BTreeMap::new();
    let mut shares = Vec::new();
    for (name, number) in queries {
        let job = own_job(source, *number);
        let belongs = match &members {
            Some(members) => members.get(name) == Some(number),
            // The source's job never committed: it takes whoever has no commits elsewhere.
            None => read_commit(store, &job, 1).await?.is_none(),
        };
        if belongs {
            base.insert(name.clone(), *number);
        } else {
            shares.push(Share { job, outputs: BTreeMap::from([(name.clone(), *number)]) });
        }
    }
    if !base.is_empty() {
        shares.insert(0, Share { job: source.to_owned(), outputs: base });
    }
    Ok(shares)
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
