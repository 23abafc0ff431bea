//! Durable file operations: a file is replaced whole or not at all, and a directory entry is synced.
//!
//! Never leaves a half-written file under its final name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_contract::{Error, Result};

/// Writes `value` as JSON to a temporary file, syncs it, renames it over `path`, syncs the folder.
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    replace(path, &bytes)
}

/// The same for raw bytes.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Reads a JSON file; `None` if it is missing.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::corrupt("TM612", format!("broker file '{}' is not readable", path.display()))
            .because(error.to_string())
            .help("restore the file from a backup, or start with an empty data directory")
    })
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An I/O failure as an error that names the file.
pub(crate) fn failed(action: &str, path: &Path, error: &io::Error) -> Error {
    Error::unavailable("TM611", format!("could not {action} broker file '{}'", path.display()))
        .because(error.to_string())
}
