//! Source kind `filesystem` (alias `file`): CSV, JSON-lines and Parquet files.
//!
//! `path` is a file, a folder (read recursively, hidden names left out) or a glob; each file is a
//! unit, in path order. Bounded by default. With `'source.monitor-interval'` the path is followed:
//! a file is taken once its size and time have not changed for one interval, then never again, so
//! write files whole (under a hidden name, then rename) and do not append to one that was read.
//! Files are streamed; none has to fit in memory. Names of compressed files end in `.gz`, `.xz` or
//! `.zst`, or `'compression'` says it.

mod csv_rows;
mod input;
mod json_lines;
mod parquet_rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tidemill_contract::{Error, Options, Result, Source, SourceRow, SourceSpec};

use super::{SourceKind, bad_option, duration};
use input::Compression;

pub(super) const KIND: SourceKind = SourceKind {
    names: &["filesystem", "file"],
    options: &[
        "path",
        "format",
        "compression",
        "source.monitor-interval",
        "csv.*",
        "json.epoch-unit",
    ],
    check,
    open,
};

/// Most rows, and about the most bytes, given out at once.
const CHUNK_ROWS: usize = 1000;
const CHUNK_BYTES: usize = 1 << 20;
/// Longest row taken; a longer one is a fault, cut to this length.
const ROW_BYTES_MAX: usize = 16 << 20;
/// Folders deeper than this are left out: a loop of links would never end.
const FOLDER_DEPTH_MAX: usize = 32;

/// A wildcard never means a hidden file.
const GLOB: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Reads one file row by row. Errors end the feed; bad rows do not.
trait RowReader: Send {
    /// The next rows, numbered from 0 through the file; empty at its end.
    fn read(&mut self) -> Result<Vec<SourceRow>>;
}

/// What the rows of a file look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    Csv,
    Json,
    Parquet,
}

impl FileFormat {
    fn named(name: &str) -> Option<Self> {
        match name {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// What to read and how, from the options.
#[derive(Debug, Clone)]
struct Plan {
    pattern: String,
    format: Option<FileFormat>,
    compression: Option<Compression>,
    follow: Option<Duration>,
    csv: csv_rows::CsvOptions,
}

impl Plan {
    fn read(spec: &SourceSpec) -> Result<Self> {
        let options: &Options = &spec.options;
        let path = options.require("path", &format!("source '{}'", spec.name))?;
        let format = match options.get("format") {
            None => None,
            Some(name) => Some(
                FileFormat::named(name)
                    .ok_or_else(|| bad_option(options, "format", "csv, json or parquet"))?,
            ),
        };
        let compression = match options.get("compression") {
            None => None,
            Some(name) => Some(
                Compression::named(name)
                    .ok_or_else(|| bad_option(options, "compression", "none, gz, xz or zst"))?,
            ),
        };
        let follow = duration(options, "source.monitor-interval")?;
        if follow.is_some_and(|interval| interval.is_zero()) {
            return Err(bad_option(options, "source.monitor-interval", "more than 0"));
        }
        Ok(Self {
            pattern: path.strip_prefix("file://").unwrap_or(path).to_owned(),
            format,
            compression,
            follow,
            csv: csv_rows::CsvOptions::read(options)?,
        })
    }

    /// The format of a file: as declared, else by the extension before that of the compression.
    fn format_of(&self, path: &Path) -> Result<FileFormat> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let plain = match Compression::of(path) {
            Compression::None => path.to_owned(),
            _ => path.with_extension(""),
        };
        plain
            .extension()
            .and_then(|ext| FileFormat::named(&ext.to_str()?.to_lowercase()))
            .ok_or_else(|| {
                Error::invalid("TM554", format!("the format of '{}' is unknown", path.display()))
                    .help("add 'format' = 'csv', 'json' or 'parquet' to the WITH clause")
            })
    }
}

fn check(spec: &SourceSpec) -> Result<()> {
    let plan = Plan::read(spec)?;
    crate::format::json::validate(&spec.options)?;
    let misplaced = spec.options.iter().find(|(key, _)| key.starts_with("csv."));
    match misplaced.filter(|_| plan.format.is_some_and(|format| format != FileFormat::Csv)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::invalid("TM111", format!("option '{key}' is only for CSV files"))
                .at(spec.options.span(key)))
        }
    }
}

fn open(spec: &SourceSpec, done: BTreeSet<String>) -> Result<Option<Box<dyn Source>>> {
    Ok(Some(Box::new(Files {
        plan: Plan::read(spec)?,
        spec: spec.clone(),
        done,
        listed: false,
        waiting: VecDeque::new(),
        seen: BTreeMap::new(),
        reader: None,
    })))
}

/// Size and time of a file: unchanged means that nobody writes to it.
type Stamp = (u64, Option<SystemTime>);

struct Files {
    plan: Plan,
    spec: SourceSpec,
    done: BTreeSet<String>,
    listed: bool,
    waiting: VecDeque<PathBuf>,
    /// Files seen by the last look at a followed path.
    seen: BTreeMap<PathBuf, Stamp>,
    reader: Option<Box<dyn RowReader>>,
}

impl Files {
    fn is_new(&self, path: &Path) -> bool {
        !self.done.contains(&unit_name(path))
    }

    /// Lists a bounded path once.
    async fn list_once(&mut self) -> Result<()> {
        let found = find(self.plan.pattern.clone()).await?;
        if found.is_empty() {
            return Err(Error::invalid(
                "TM555",
                format!("source '{}': no file matches '{}'", self.spec.name, self.plan.pattern),
            )
            .at(self.spec.options.span("path")));
        }
        let new = found.into_keys().filter(|path| self.is_new(path)).collect();
        self.waiting = new;
        self.listed = true;
        Ok(())
    }

    /// Looks at a followed path: new files that did not change since the last look.
    async fn look(&mut self) -> Result<()> {
        let found = find(self.plan.pattern.clone()).await?;
        let stable = |path: &PathBuf, stamp: &Stamp| self.seen.get(path) == Some(stamp);
        self.waiting = found
            .iter()
            .filter(|(path, stamp)| self.is_new(path) && stable(path, stamp))
            .map(|(path, _)| path.clone())
            .collect();
        self.seen = found;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Source for Files {
    async fn next_unit(&mut self) -> Result<Option<String>> {
        self.reader = None;
        loop {
            if let Some(path) = self.waiting.pop_front() {
                let name = unit_name(&path);
                self.reader = Some(open_file(&self.plan, &self.spec, path).await?);
                self.done.insert(name.clone());
                return Ok(Some(name));
            }
            match self.plan.follow {
                None if self.listed => return Ok(None),
                None => self.list_once().await?,
                Some(interval) => {
                    self.look().await?;
                    if self.waiting.is_empty() {
                        tokio::time::sleep(interval).await;
                    }
                }
            }
        }
    }

    async fn next_rows(&mut self) -> Result<Vec<SourceRow>> {
        let Some(mut reader) = self.reader.take() else {
            return Ok(Vec::new());
        };
        let (reader, rows) = blocking(move || {
            let rows = reader.read();
            (reader, rows)
        })
        .await?;
        self.reader = Some(reader);
        rows
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("reading a file panicked: {e}")))
}

/// The unit's name is the file's path: a file is read once, whatever becomes of it later.
fn unit_name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

async fn open_file(plan: &Plan, spec: &SourceSpec, path: PathBuf) -> Result<Box<dyn RowReader>> {
    let format = plan.format_of(&path)?;
    let compression = plan.compression.unwrap_or_else(|| Compression::of(&path));
    let (plan, spec) = (plan.clone(), spec.clone());
    blocking(move || -> Result<Box<dyn RowReader>> {
        Ok(match format {
            FileFormat::Csv => Box::new(csv_rows::CsvRows::open(
                input::open(&path, compression)?,
                &path,
                &plan.csv,
                &spec,
            )?),
            FileFormat::Json => {
                Box::new(json_lines::JsonLines::open(input::open(&path, compression)?, &path))
            }
            FileFormat::Parquet => Box::new(parquet_rows::ParquetRows::open(&path, &spec)?),
        })
    })
    .await?
}

/// The files a path means, in path order.
async fn find(pattern: String) -> Result<BTreeMap<PathBuf, Stamp>> {
    blocking(move || {
        let mut found = BTreeMap::new();
        let path = Path::new(&pattern);
        if path.exists() || !pattern.contains(['*', '?', '[']) {
            collect(path, 0, &mut found);
            return Ok(found);
        }
        let matches = glob::glob_with(&pattern, GLOB).map_err(|error| {
            Error::invalid("TM551", format!("'{pattern}' is not a path pattern"))
                .because(error.to_string())
        })?;
        for path in matches.flatten() {
            collect(&path, 0, &mut found);
        }
        Ok(found)
    })
    .await?
}

/// A file itself, or the files in a folder. What cannot be read now may be at the next look.
fn collect(path: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    if metadata.is_file() {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        found.insert(absolute, (metadata.len(), metadata.modified().ok()));
    } else if metadata.is_dir() && depth < FOLDER_DEPTH_MAX {
        let Ok(entries) = fs::read_dir(path) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with(['.', '_']) {
                collect(&entry.path(), depth + 1, found);
            }
        }
    }
}

/// A file that cannot be read.
fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable("TM556", format!("cannot read '{}'", path.display()))
        .because(error.to_string())
}
