//! The demo's folder: fresh for every run, but never somebody else's.
//!
//! A marker file says that a folder is the demo's. Only a folder with the marker is ever emptied.

use std::path::Path;

use tidemill_contract::{Error, Result};

/// Its presence makes a folder the demo's.
const MARKER: &str = ".tidemill-demo";

/// What to do with what an earlier demo left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// Remove it.
    Wipe,
    /// Go on from it.
    Keep,
}

/// Makes the folder ready; true if an earlier demo's data was removed.
///
/// # Errors
/// `TM830` if the folder holds something that is not the demo's, or cannot be written.
pub fn prepare(folder: &Path, fresh: Fresh) -> Result<bool> {
    let marker = folder.join(MARKER);
    let ours = marker.is_file();
    if !ours && is_used(folder) {
        let message = format!("{} is not empty and not a demo's folder", folder.display());
        return Err(Error::invalid("TM830", message)
            .help("name another one with --data-dir, or empty it yourself"));
    }
    let mut wiped = false;
    if ours && fresh == Fresh::Wipe {
        std::fs::remove_dir_all(folder).map_err(|error| failed(folder, &error))?;
        wiped = true;
    }
    std::fs::create_dir_all(folder)
        .and_then(|()| {
            std::fs::write(&marker, "made by `tidemill demo`, emptied by its next run\n")
        })
        .map_err(|error| failed(folder, &error))?;
    Ok(wiped)
}

fn is_used(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn failed(folder: &Path, error: &std::io::Error) -> Error {
    Error::invalid("TM830", format!("cannot prepare {}", folder.display()))
        .because(error.to_string())
        .help("name another folder with --data-dir")
}
