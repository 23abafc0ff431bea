//! The catalog: dense, sealed, and each statement still applies.

use tidemill_connectors::store::Store;
use tidemill_contract::{Error, Result};
use tidemill_sql::{catalog::Catalog, parse::parse_script};

use super::{Report, Severity};
use crate::catalog_log::{self, Entry};

const MEANING: &str = "the service does not start: what is registered is not known for sure";

pub(super) async fn check(store: &Store, report: &mut Report) -> Result<()> {
    let mut catalog = Catalog::new();
    let last = catalog_log::newest_listed(store).await?;
    for seq in 1..=last {
        let path = catalog_log::slot(seq);
        report.count("catalog entries");
        let applied = match catalog_log::read(store, seq).await {
            Ok(Some(entry)) => apply(&mut catalog, &entry),
            Ok(None) => {
                Err(catalog_log::malformed(seq, "it is missing, and later entries are there"))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            report.take(&path, Severity::Damage, error, MEANING)?;
            // What is built on it cannot be judged.
            return Ok(());
        }
    }
    Ok(())
}

fn apply(catalog: &mut Catalog, entry: &Entry) -> Result<()> {
    let damaged = |error: Error| catalog_log::refused(entry.seq, &error);
    for parsed in parse_script(&entry.statement).map_err(damaged)? {
        catalog.apply(&parsed).map_err(damaged)?;
    }
    Ok(())
}
