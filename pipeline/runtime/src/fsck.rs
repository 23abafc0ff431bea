//! Looks at everything in the bucket and says what is damaged, what that means and what to do.
//!
//! It only reads, needs no broker and runs beside a working service. Objects that change or go
//! while it looks (a newer commit, pruned state) are looked at again, not reported. It never
//! repairs: what is lost can only come back from a backup, and what is true is for the commits to
//! say.

mod catalog;
mod jobs;
mod tables;

use std::collections::BTreeMap;

use object_store::path::Path;
use serde::Serialize;
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Error, ErrorKind, Result};

use crate::{dead, feed};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Something old is damaged that nothing needs to go on.
    Warning,
    /// Data is damaged or gone.
    Damage,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Path of the object in the bucket.
    pub object: String,
    /// The error's code, as in the reference of errors.
    pub code: String,
    /// What is wrong with it.
    pub problem: String,
    /// What that means for the service.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects looked at, by kind.
    pub checked: BTreeMap<&'static str, u64>,
    /// Bytes read.
    pub bytes: u64,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Something is damaged or gone.
    pub fn has_damage(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Damage)
    }

    fn count(&mut self, kind: &'static str) {
        *self.checked.entry(kind).or_default() += 1;
    }

    /// Takes down an error about an object; one that says that the store does not answer ends the
    /// look.
    fn take(
        &mut self,
        object: &Path,
        severity: Severity,
        error: Error,
        meaning: &str,
    ) -> Result<()> {
        if error.kind == ErrorKind::Unavailable {
            return Err(error);
        }
        let problem = match error.reason {
            Some(reason) => format!("{}: {reason}", error.message),
            None => error.message,
        };
        self.findings.push(Finding {
            severity,
            object: object.to_string(),
            code: error.code.to_owned(),
            problem,
            meaning: meaning.to_owned(),
            remedy: error.help.unwrap_or_else(|| "restore the object from a backup".to_owned()),
        });
        Ok(())
    }
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Records and the presence and size of what they name.
    Quick,
    /// All bytes, against their checksums.
    Full,
}

/// Looks at the whole bucket.
///
/// # Errors
/// `TM530` if the store does not answer; what is damaged is in the report.
pub async fn check(store: &Store, depth: Depth) -> Result<Report> {
    let mut report = Report::default();
    catalog::check(store, &mut report).await?;
    Box::pin(jobs::check(store, depth, &mut report)).await?;
    Box::pin(tables::check(store, depth, &mut report)).await?;
    check_feeds(store, &mut report).await?;
    check_replays(store, &mut report).await?;
    report.findings.sort_by(|left, right| {
        right.severity.cmp(&left.severity).then_with(|| left.object.cmp(&right.object))
    });
    Ok(report)
}

async fn check_replays(store: &Store, report: &mut Report) -> Result<()> {
    for path in store::list(store, &Path::from("replays")).await? {
        if path.extension() != Some("json") {
            continue;
        }
        let Some(bytes) = store::get(store, &path).await? else { continue };
        report.count("replay records");
        report.bytes += bytes.len() as u64;
        if let Err(error) = dead::check_entry(store, &path, &bytes).await {
            let meaning = "rows of the source are not replayed: it is not known which were";
            report.take(&path, Severity::Damage, error, meaning)?;
        }
    }
    Ok(())
}

async fn check_feeds(store: &Store, report: &mut Report) -> Result<()> {
    for path in store::list(store, &Path::from("feeds")).await? {
        let Some(bytes) = store::get(store, &path).await? else { continue };
        report.count("feed records");
        report.bytes += bytes.len() as u64;
        if let Err(error) = feed::check_record(&path, &bytes) {
            let meaning = "the feed does not start: it cannot know which units are done";
            report.take(&path, Severity::Damage, error, meaning)?;
        }
    }
    Ok(())
}
