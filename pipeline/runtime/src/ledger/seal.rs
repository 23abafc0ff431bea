//! Small JSON records with their checksum: commits and catalog entries.
//!
//! Why: one flipped bit in a decimal digit is still valid JSON. A sealed object is two lines: the
//! record, and `{"crc32c":n}` over the bytes of the first line, so any JSON-lines tool can read
//! it. It never repairs anything: what does not check out is an error that names the object.
//!
//! Invariant: every byte of a sealed object is covered; changing, adding or removing any one of
//! them makes `unseal` fail.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_contract::{Error, Result};

/// The record's line and its checksum line.
pub(crate) fn seal<T: Serialize>(record: &T) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec(record)
        .map_err(|error| Error::internal(format!("cannot write a record as JSON: {error}")))?;
    let checksum = checksum_line(&bytes);
    bytes.push(b'\n');
    bytes.extend_from_slice(checksum.as_bytes());
    Ok(Bytes::from(bytes))
}

/// The record of a sealed object; `Err` says in words why it is malformed.
pub(crate) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Err("its checksum line is missing".to_owned());
    };
    let (record, checksum) = (&bytes[..end], &bytes[end + 1..]);
    // Compared as text: a second spelling of the same number is a changed byte too.
    if checksum != checksum_line(record).as_bytes() {
        return Err("its checksum does not fit its bytes".to_owned());
    }
    serde_json::from_slice(record).map_err(|error| error.to_string())
}

fn checksum_line(record: &[u8]) -> String {
    format!("{{\"crc32c\":{}}}\n", crc32c::crc32c(record))
}
