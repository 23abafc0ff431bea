//! `EXPLAIN STALL view`: which partition holds the watermark, and what would close the next window.
//!
//! It only puts the job's facts into words; it never asks the broker and never waits for anything.

use tidemill_contract::{Micros, Result, SourceSpec, Watermark};

use super::{StatementResult, show::Table};
use crate::{
    job::{PartitionStall, Stall},
    quarantine::rfc3339,
    watermark::Hold,
};

/// The answer as rows of `about` and `says`.
///
/// # Errors
/// Only for a bug; a job that cannot answer is part of the answer.
pub(super) fn explain(
    view: &str,
    source: &SourceSpec,
    stall: Result<Stall>,
) -> Result<StatementResult> {
    let mut table = Table::new(&["about", "says"]);
    let mut say = |about: &str, says: String| table.push([about.to_owned(), says]);
    match stall {
        Err(error) => {
            say("job", format!("it does not run: {error}"));
            say("closes when", "the job runs again: SHOW JOBS tells its state".to_owned());
        }
        Ok(stall) => {
            say("next window", next_window(view, &stall));
            say("watermark", format!("{} of source '{}'", instant(stall.watermark), source.name));
            for partition in &stall.partitions {
                say(&format!("partition {}", partition.id.0), describe(partition, &stall));
            }
            for line in closes_when(&stall) {
                say("closes when", line);
            }
        }
    }
    table.rows()
}

fn next_window(view: &str, stall: &Stall) -> String {
    match &stall.next {
        None => format!("'{view}' has no open window with rows"),
        Some(next) => format!(
            "[{}, {}) of {} open; it closes when the watermark reaches {}",
            rfc3339(next.window.start),
            rfc3339(next.window.end),
            next.open,
            rfc3339(next.closes_at),
        ),
    }
}

fn describe(partition: &PartitionStall, stall: &Stall) -> String {
    let place = match partition.end {
        Some(end) => format!("at offset {} of {end}", partition.next_offset),
        None => format!("at offset {}, its end is not known yet", partition.next_offset),
    };
    let holds = match partition.hold {
        Hold::Finished => "read to its end; it holds nothing".to_owned(),
        Hold::Idle => "idle; it holds nothing until a record comes".to_owned(),
        Hold::Unread => format!("it has unread records{}", holding(partition, stall)),
        Hold::Quiet { quiet, .. } => {
            format!("nothing to read for {}{}", duration(quiet), holding(partition, stall))
        }
    };
    format!("watermark {}, {place}; {holds}", instant(partition.watermark))
}

/// Says whether a partition is what keeps the window open.
fn holding(partition: &PartitionStall, stall: &Stall) -> &'static str {
    if holds_back(partition, stall) { "; IT HOLDS THE WINDOW OPEN" } else { "" }
}

fn holds_back(partition: &PartitionStall, stall: &Stall) -> bool {
    let needed = stall.next.map_or(Micros::MAX, |next| next.closes_at);
    let holds = !matches!(partition.hold, Hold::Finished | Hold::Idle);
    holds && partition.watermark.0 < needed
}

/// What has to happen, one line for each partition that must do something.
fn closes_when(stall: &Stall) -> Vec<String> {
    let Some(next) = &stall.next else {
        return vec!["there is nothing to close".to_owned()];
    };
    if stall.drained {
        return vec!["the source is drained: everything is closed".to_owned()];
    }
    if stall.paused {
        return vec!["RESUME is given: the job is paused and reads nothing".to_owned()];
    }
    let row = rfc3339(next.closes_at.saturating_add(stall.delay));
    let holding = stall.partitions.iter().filter(|partition| holds_back(partition, stall));
    let mut lines: Vec<String> = holding
        .map(|partition| format!("partition {} {}", partition.id.0, must(partition, stall, &row)))
        .collect();
    if lines.is_empty() {
        let left = next.closes_at.saturating_sub(stall.watermark.0).max(0);
        lines.push(if stall.bounded {
            "the end of the source is reached".to_owned()
        } else {
            format!(
                "{} have passed: all partitions are idle, so the watermark goes with the clock",
                duration(left)
            )
        });
    }
    lines
}

fn must(partition: &PartitionStall, stall: &Stall, row: &str) -> String {
    let gives = format!("gives a row at or after {row}");
    match partition.hold {
        Hold::Unread => {
            let unread = partition.end.map_or(0, |end| (end - partition.next_offset).max(0));
            format!("is read on ({unread} records wait) and {gives}")
        }
        Hold::Quiet { idle_in: Some(left), .. } => {
            format!("{gives}, or has nothing for {} more and counts as idle", duration(left))
        }
        _ if stall.bounded => format!("{gives}, or the feed says that the source has ended"),
        _ => format!("{gives}; it never counts as idle (scan.watermark.idle-timeout is off)"),
    }
}

fn instant(watermark: Watermark) -> String {
    match watermark {
        Watermark::MIN => "not known yet".to_owned(),
        Watermark::MAX => "the end of time".to_owned(),
        Watermark(micros) => rfc3339(micros),
    }
}

fn duration(micros: Micros) -> String {
    let tenths = micros / 100_000;
    format!("{}.{} s", tenths / 10, tenths % 10)
}
