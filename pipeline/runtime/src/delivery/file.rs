//! Step 3 of a publication: the bytes of an epoch at the end of each sink's file.
//!
//! The commit holds the length after the epoch, so the place of its bytes is known on every try,
//! and they are the same on every try: who wakes up late writes what is there. It never cuts a file
//! off: one that is longer than the epoch made it belongs to someone who is further than we are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tidemill_connectors::{failpoint, sinks::filesystem::FileSink};
use tidemill_contract::{Commit, Error, Options, Result, SinkSpec};

use super::{Failures, Place};
use crate::outbox::{Outbox, OutboxTarget};

/// Length of a file in bytes, 0 if there is none: what a new sink counts from.
///
/// # Errors
/// `TM561` if the file system does not say.
pub async fn file_length(path: &Path) -> Result<u64> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => {
            Err(Error::unavailable("TM561", format!("cannot look at '{}'", path.display()))
                .because(error.to_string()))
        }
    }
}

/// Appends to every file that is not skipped; gives those that refused.
pub(super) async fn append(
    outbox: &Outbox,
    commit: &Commit,
    skipped: &BTreeSet<Place>,
) -> Result<Failures> {
    let mut files: BTreeMap<(&str, &str), BytesMut> = BTreeMap::new();
    for (target, record) in outbox.iter() {
        if let OutboxTarget::File { sink, path } = target
            && let Some(payload) = &record.payload
        {
            files.entry((sink, path)).or_default().extend_from_slice(payload);
        }
    }
    let mut failures = Failures::new();
    for ((sink, path), bytes) in files {
        let place = Place::File(sink.to_owned());
        if skipped.contains(&place) {
            continue;
        }
        failpoint::reached("publish.before_file")?;
        if let Err(error) = append_one(sink, path, bytes.freeze(), commit).await {
            failures.push((place, error));
        }
    }
    failpoint::reached("publish.after_files")?;
    Ok(failures)
}

async fn append_one(sink: &str, path: &str, bytes: Bytes, commit: &Commit) -> Result<()> {
    let size = bytes.len() as u64;
    let lengths = commit.file_sink_bytes.get(sink).map(|after| (after.checked_sub(size), *after));
    let Some((Some(before), after)) = lengths else {
        let what = format!("epoch {}: the length of sink '{sink}' is wrong", commit.epoch);
        return Err(Error::internal(what));
    };
    let there = file_length(Path::new(path)).await?;
    if there > after {
        let what = format!("'{path}' has {there} bytes, sink '{sink}' made it {after}");
        return Err(Error::corrupt("TM705", what)
            .because("something else appends to it")
            .help("stop the other writer, or drop the sink and create it with another path"));
    }
    file_at(sink, path)?.append(before, bytes).await.map(|_length| ())
}

/// The sink for a path alone: the bytes are encoded already, so no other option matters.
fn file_at(sink: &str, path: &str) -> Result<FileSink> {
    let mut options = Options::default();
    options.insert("path", path, None);
    options.insert("format", "json", None);
    FileSink::new(&SinkSpec { name: sink.to_owned(), options })
}
