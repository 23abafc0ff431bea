//! The demo, run as a newcomer runs it, against what is known of the data.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use tempfile::TempDir;

use crate::cli::{finish, outcome, signal, tidemill};
use crate::lake;
use crate::reliability::bucket::assert_conserved;

/// What independent tools compute from the same file (half-up to cents).
const TOTALS: &[(&str, &str)] = &[
    ("rows in", "541,909"),
    ("gross sales", "10,666,684.54"),
    ("orders", "19,960"),
    ("net of all lines", "9,747,747.93"),
    ("United Kingdom", "9,025,222.08"),
    ("Netherlands", "285,446.34"),
    ("EIRE", "283,453.96"),
    ("Germany", "228,867.14"),
    ("France", "209,715.11"),
];
/// The orders that were mis-keyed and cancelled within minutes.
const MIS_KEYED: &[&str] = &["541431", "581483", "556444"];

/// Lines of a live demo read before it counts as stuck.
const REPORTS_MAX: usize = 30;

#[test]
fn once_prints_the_known_totals_and_writes_tables_others_read() {
    let folder = TempDir::new().unwrap();
    let run = finish(tidemill(folder.path(), &["demo", "--once", "--data-dir", "shop"]));
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    for (label, number) in TOTALS {
        let line = run.stdout.lines().find(|line| line.trim_start().starts_with(label));
        assert!(line.is_some_and(|line| line.contains(number)), "{label}:\n{}", run.stdout);
    }
    let fired: Vec<&str> = run.stdout.lines().filter(|line| line.contains("  firing ")).collect();
    assert_eq!(fired.len(), MIS_KEYED.len(), "{}", run.stdout);
    for invoice in MIS_KEYED {
        assert!(fired.iter().any(|line| line.contains(invoice)), "{invoice}:\n{}", run.stdout);
    }
    assert!(run.stdout.contains("conservation holds"), "{}", run.stdout);
    assert!(assert_conserved(&folder.path().join("shop/bucket"), &[]) > 0);
    lake::check_with_another_reader(&folder.path().join("shop/bucket"));
}

#[test]
fn a_folder_that_is_not_the_demos_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let letter = folder.path().join("mine/letter.txt");
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    std::fs::write(&letter, "dear").unwrap();
    let run = finish(tidemill(folder.path(), &["demo", "--once", "--data-dir", "mine"]));
    assert_eq!(run.code, Some(78), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(&letter).unwrap(), "dear");
}

#[test]
fn the_live_demo_reports_goes_on_and_ends_on_a_signal() {
    let folder = TempDir::new().unwrap();
    let first = watch_until(folder.path(), &[], 0);
    watch_until(folder.path(), &["--keep"], first);
}

/// Runs the live demo until it reports more than `floor` rows, ends it with a signal, and returns
/// the rows it saw last.
fn watch_until(folder: &Path, more: &[&str], floor: u64) -> u64 {
    let mut arguments = vec!["demo", "--data-dir", "shop", "--speed", "36000"];
    arguments.extend(more);
    let mut child = tidemill(folder, &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut rows: u64 = 0;
    for _ in 0..REPORTS_MAX {
        let Some(line) = lines.next() else { break };
        let line = line.unwrap();
        let Some(number) = line.split("rows in ").nth(1) else {
            continue;
        };
        rows = number.split(' ').next().unwrap().replace(',', "").parse().unwrap();
        if rows > floor {
            break;
        }
    }
    signal(&child, "-INT");
    let ended = outcome(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(rows > floor, "{rows} rows, not more than {floor}: {}", ended.stderr);
    rows
}
