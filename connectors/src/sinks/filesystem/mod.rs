//! Sink kind `filesystem` (alias `file`): rows as JSON lines or CSV in one file.
//!
//! Why a place comes with every append: a commit says how long the file was before and is after, so
//! writing the same rows again writes the same bytes at the same place, however late. It never cuts
//! a file off, never touches bytes before that place, and refuses a file that someone else made
//! shorter.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder;
use bytes::Bytes;
use tidemill_contract::{Error, Options, Result, SinkSpec};

use super::{Delivery, SinkKind};
use crate::{failpoint, format::json, store::make_folders};

pub(super) const KIND: SinkKind = SinkKind {
    names: &["filesystem", "file"],
    delivery: Delivery::File,
    options: &["connector", "path", "format", "csv.field-delimiter", "csv.header"],
    check,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    Json,
    Csv { delimiter: u8, header: bool },
}

/// One file that rows are appended to.
#[derive(Debug, Clone)]
pub struct FileSink {
    path: PathBuf,
    format: FileFormat,
}

fn check(options: &Options, object: &str) -> Result<()> {
    read(options, object).map(|_| ())
}

fn read(options: &Options, object: &str) -> Result<FileSink> {
    let path = options.require("path", object)?;
    let path = path.strip_prefix("file://").unwrap_or(path);
    if path.is_empty() || path.ends_with('/') {
        return Err(Error::invalid("TM551", format!("{object}: option 'path' must name a file"))
            .at(options.span("path")));
    }
    let format = match options.get("format").or_else(|| extension(path)) {
        None | Some("json" | "jsonl" | "ndjson") => FileFormat::Json,
        Some("csv") => FileFormat::Csv { delimiter: delimiter(options)?, header: header(options)? },
        Some(other) => {
            return Err(Error::invalid("TM540", format!("{object}: unknown format '{other}'"))
                .at(options.span("format"))
                .help("known formats: json, csv"));
        }
    };
    Ok(FileSink { path: PathBuf::from(path), format })
}

fn extension(path: &str) -> Option<&str> {
    Path::new(path)
        .extension()
        .and_then(|extension| extension.to_str())
        .filter(|extension| matches!(*extension, "csv" | "json" | "jsonl" | "ndjson"))
}

fn delimiter(options: &Options) -> Result<u8> {
    match options.get("csv.field-delimiter") {
        None => Ok(b','),
        Some("\\t") => Ok(b'\t'),
        Some(text) => match text.as_bytes() {
            [byte] => Ok(*byte),
            _ => Err(Error::invalid("TM551", "option 'csv.field-delimiter' must be one character")
                .at(options.span("csv.field-delimiter"))),
        },
    }
}

fn header(options: &Options) -> Result<bool> {
    match options.get("csv.header") {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(Error::invalid("TM551", "option 'csv.header' must be true or false")
            .at(options.span("csv.header"))),
    }
}

impl FileSink {
    /// The file a sink's options name.
    ///
    /// # Errors
    /// As [`super::validate`].
    pub fn new(spec: &SinkSpec) -> Result<Self> {
        read(&spec.options, &format!("sink '{}'", spec.name))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of some rows; a CSV file that is empty so far begins with its header.
    ///
    /// # Errors
    /// `TM541` if a column's type has no text form.
    pub fn encode(&self, rows: &RecordBatch, file_is_empty: bool) -> Result<Bytes> {
        match self.format {
            FileFormat::Json => json::encode_lines(rows),
            FileFormat::Csv { delimiter, header } => {
                let mut buffer = Vec::new();
                let mut writer = WriterBuilder::new()
                    .with_delimiter(delimiter)
                    .with_header(header && file_is_empty)
                    .build(&mut buffer);
                writer.write(rows).map_err(|error| {
                    Error::invalid("TM541", "rows cannot be written as CSV")
                        .because(error.to_string())
                })?;
                drop(writer);
                Ok(Bytes::from(buffer))
            }
        }
    }

    /// Writes bytes at a known length and syncs; returns the length after them. What is there from
    /// an earlier try of this append is written again; bytes behind it are left alone.
    ///
    /// # Errors
    /// `TM560` if the file is shorter than `from_len`, `TM561` if it cannot be written.
    pub async fn append(&self, from_len: u64, bytes: Bytes) -> Result<u64> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || append(&path, from_len, &bytes))
            .await
            .map_err(|e| Error::internal(format!("writing a file panicked: {e}")))?
    }
}

fn append(path: &Path, from_len: u64, bytes: &[u8]) -> Result<u64> {
    let fail = |error: std::io::Error| {
        Error::unavailable("TM561", format!("cannot write '{}'", path.display()))
            .because(error.to_string())
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Also if it is there: an earlier try may have ended before the file's name was durable.
    let is_first = from_len == 0;
    if is_first {
        make_folders(folder).map_err(fail)?;
    }
    let file =
        OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    if length < from_len {
        return Err(Error::corrupt(
            "TM560",
            format!("'{}' has {length} bytes, not the {from_len} written", path.display()),
        )
        .because("something else changed or removed it")
        .help("restore the file, or drop the sink and create it anew with another path"));
    }
    failpoint::reached("publish.file_opened")?;
    file.write_all_at(bytes, from_len).map_err(fail)?;
    failpoint::reached("publish.file_written")?;
    file.sync_all().map_err(fail)?;
    if is_first {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    }
    Ok(from_len + bytes.len() as u64)
}
