//! The views' tables: the log can be read, each file it names is there with its bytes, and files
//! nobody names are counted.

use std::collections::BTreeSet;

use object_store::{ObjectStoreExt, path::Path};
use tidemill_connectors::{
    sinks::delta,
    store::{self, Store},
};
use tidemill_contract::{Error, ErrorKind, Result};

use super::{Depth, Finding, Report, Severity};

const LOST: &str = "queries over the view fail; other engines miss these rows or read wrong ones";
const LOG: &str = "the job that fills the view does not start, and nobody can read the table";

pub(super) async fn check(store: &Store, depth: Depth, report: &mut Report) -> Result<()> {
    let listed = store::list(store, &Path::from(delta::TABLES)).await?;
    let views: BTreeSet<String> = listed
        .iter()
        .filter_map(|path| path.parts().nth(1).map(|view| view.as_ref().to_owned()))
        .collect();
    for view in views {
        report.count("tables");
        check_table(store, &view, depth, report).await?;
    }
    Ok(())
}

async fn check_table(store: &Store, view: &str, depth: Depth, report: &mut Report) -> Result<()> {
    let files = match Box::pin(delta::sized_files(store, view)).await {
        Ok(files) => files,
        // The log itself is damaged, or the store is: a listing tells which.
        Err(error) => {
            let log = delta::location(view).join("_delta_log");
            store::list(store, &log).await?;
            let error = Error { kind: ErrorKind::Corrupt, ..error };
            return report.take(&log, Severity::Damage, error, LOG);
        }
    };
    for (path, size) in files {
        report.count("data files");
        match check_file(store, &path, size, depth).await {
            Ok(bytes) => report.bytes += bytes,
            Err(error) => {
                // A compaction may have replaced it while this looked.
                let still = Box::pin(delta::files(store, view)).await?;
                if still.contains(&path.to_string()) {
                    report.take(&path, Severity::Damage, error, LOST)?;
                }
            }
        }
    }
    let idle = Box::pin(delta::unreferenced(store, view)).await?;
    if !idle.is_empty() {
        report.findings.push(Finding {
            severity: Severity::Note,
            object: delta::location(view).to_string(),
            code: "-".to_owned(),
            problem: format!("{} files are not part of the table", idle.len()),
            meaning: "replaced by compaction, or left by tries that did not become true".to_owned(),
            remedy: "nothing: the job deletes them when their time has come".to_owned(),
        });
    }
    Ok(())
}

/// Size, and in full depth the checksum its name carries; returns the bytes read.
async fn check_file(store: &Store, path: &Path, size: u64, depth: Depth) -> Result<u64> {
    let wrong = |reason: String| delta::damaged_file(path, reason);
    let found = match store.head(path).await {
        Ok(meta) => meta.size,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(wrong("it is not there".to_owned()));
        }
        Err(error) => {
            return Err(Error::unavailable(
                "TM530",
                format!("cannot look at '{path}' in the bucket"),
            )
            .because(error.to_string()));
        }
    };
    if found != size {
        return Err(wrong(format!("it has {found} bytes, the table says {size}")));
    }
    match depth {
        Depth::Quick => Ok(0),
        Depth::Full => delta::check_file(store, path).await,
    }
}
