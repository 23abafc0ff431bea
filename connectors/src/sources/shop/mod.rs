//! Source kind `shop`: a real online shop's year, replayed as order lines.
//!
//! The data ships in the binary (see `connectors/data/README.md`), so a first run needs nothing
//! from outside. Rows come in the order they were sold, a month a unit, either as fast as they are
//! taken (`'speed' = 'max'`) or so many seconds of shop time to one of the wall (`'speed' =
//! '3600'`). Only the pace knows the wall clock; the rows never do.

mod line;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use liblzma::read::XzDecoder;
use tidemill_contract::{Error, Result, Source, SourceRow, SourceSpec};
use tokio::time::Instant;

use super::{SourceKind, bad_option};
use line::{FIELDS, Line};

pub(super) const KIND: SourceKind =
    SourceKind { names: &["shop"], options: &["speed", "limit"], check, open };

const DATA: &[u8] = include_bytes!("../../../data/online_retail.csv.xz");
/// Rows given out at once; at full speed a few milliseconds of work.
const CHUNK_ROWS: usize = 1000;
/// Longest pause between two rows, however slow the pace.
const WAIT_MAX: Duration = Duration::from_secs(366 * 86_400);

/// How fast shop time goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    /// As fast as rows are taken.
    Max,
    /// Shop seconds per wall second.
    Factor(f64),
}

fn speed(spec: &SourceSpec) -> Result<Speed> {
    match spec.options.get("speed") {
        None | Some("max") => Ok(Speed::Max),
        Some(text) => match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Speed::Factor(factor)),
            _ => Err(bad_option(&spec.options, "speed", "'max' or shop seconds per second")),
        },
    }
}

fn limit(spec: &SourceSpec) -> Result<u64> {
    match spec.options.get("limit") {
        None => Ok(u64::MAX),
        Some(text) => {
            text.parse().map_err(|_| bad_option(&spec.options, "limit", "a number of rows"))
        }
    }
}

fn check(spec: &SourceSpec) -> Result<()> {
    speed(spec)?;
    limit(spec)?;
    match spec.physical().find(|column| !FIELDS.contains(&column.name.as_str())) {
        None => Ok(()),
        Some(column) => Err(Error::invalid(
            "TM552",
            format!("source '{}': the shop has no field '{}'", spec.name, column.name),
        )
        .at(spec.options.span("connector"))
        .help(format!("its fields are {}", FIELDS.join(", ")))),
    }
}

fn open(spec: &SourceSpec, done: BTreeSet<String>) -> Result<Option<Box<dyn Source>>> {
    Ok(Some(Box::new(Shop {
        data: csv::Reader::from_reader(XzDecoder::new(DATA)),
        line: Line::default(),
        is_ahead: false,
        left: limit(spec)?,
        done,
        month: None,
        row: 0,
        unpaced_rows: 0,
        speed: speed(spec)?,
        start: None,
    })))
}

struct Shop {
    data: csv::Reader<XzDecoder<&'static [u8]>>,
    line: Line,
    /// The line was read but not given out.
    is_ahead: bool,
    /// Lines that may still be read.
    left: u64,
    done: BTreeSet<String>,
    /// The current unit.
    month: Option<String>,
    /// Next row number in it.
    row: u64,
    /// Rows of it that are in the topic already and need no pace.
    unpaced_rows: u64,
    speed: Speed,
    /// Wall time and shop time (seconds) of the first paced row.
    start: Option<(Instant, i64)>,
}

impl Shop {
    /// Makes sure the next line is read; `None` at the end of the data or the limit.
    fn peek(&mut self) -> Result<Option<&Line>> {
        if !self.is_ahead && self.left > 0 && self.line.read(&mut self.data)? {
            self.is_ahead = true;
            self.left -= 1;
        }
        Ok(self.is_ahead.then_some(&self.line))
    }

    /// When a line of this shop time is due; `None` if it needs no pace.
    fn due(&mut self, seconds: i64) -> Option<Instant> {
        let Speed::Factor(factor) = self.speed else {
            return None;
        };
        if self.row < self.unpaced_rows {
            return None;
        }
        let (wall, shop) = *self.start.get_or_insert_with(|| (Instant::now(), seconds));
        #[allow(clippy::cast_precision_loss)]
        let wait = (seconds - shop).max(0) as f64 / factor;
        Some(wall + Duration::try_from_secs_f64(wait).unwrap_or(WAIT_MAX).min(WAIT_MAX))
    }
}

#[async_trait::async_trait]
impl Source for Shop {
    async fn next_unit(&mut self) -> Result<Option<String>> {
        loop {
            let Some(line) = self.peek()? else {
                return Ok(None);
            };
            let month = line.month().to_owned();
            if self.month.as_deref() == Some(month.as_str()) || self.done.contains(&month) {
                self.is_ahead = false; // the rest of a left unit, or one that is done
                continue;
            }
            self.month = Some(month.clone());
            self.row = 0;
            self.unpaced_rows = 0;
            return Ok(Some(month));
        }
    }

    fn already_fed(&mut self, rows: u64) {
        self.unpaced_rows = rows;
    }

    async fn next_rows(&mut self) -> Result<Vec<SourceRow>> {
        let mut buffer = Vec::with_capacity(CHUNK_ROWS * 256);
        let mut ends = Vec::with_capacity(CHUNK_ROWS);
        let first_row = self.row;
        while ends.len() < CHUNK_ROWS {
            let Some(line) = self.peek()? else { break };
            let seconds = line.seconds();
            if self.month.as_deref() != Some(self.line.month()) {
                break;
            }
            if let Some(due) = self.due(seconds).filter(|due| *due > Instant::now()) {
                if !ends.is_empty() {
                    break; // give out what is due before waiting
                }
                tokio::time::sleep_until(due).await;
            }
            self.line.write(&mut buffer)?;
            ends.push(buffer.len());
            self.is_ahead = false;
            self.row += 1;
        }
        Ok(cut(Bytes::from(buffer), &ends, first_row))
    }
}

/// Rows out of one buffer, so a chunk costs one allocation.
fn cut(buffer: Bytes, ends: &[usize], first_row: u64) -> Vec<SourceRow> {
    let mut start = 0;
    let mut rows = Vec::with_capacity(ends.len());
    for (row, end) in (first_row..).zip(ends) {
        rows.push(SourceRow { row, key: None, payload: Ok(buffer.slice(start..*end)) });
        start = *end;
    }
    rows
}
