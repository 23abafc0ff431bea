//! The tables as others see them: the Python package `deltalake` reads what the demo wrote.
//!
//! `TIDEMILL_PYTHON` names an interpreter that has the packages of `.ci/python.txt`; without it the
//! checks say that they were left out and pass, unless `TIDEMILL_REQUIRE_PYTHON=1`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::Command;

/// Reads the tables of a bucket and prints the sums, one `name value` a line.
const SCRIPT: &str = r#"
import os
import sys
from decimal import Decimal
import deltalake

def table(view):
    return deltalake.DeltaTable(f"{sys.argv[1]}/tables/{view}").to_pyarrow_table()

def total(view, column):
    return sum((value for value in table(view)[column].to_pylist()), Decimal(0))

print("lines", int(total("lines_per_day", "lines")))
print("net", round(total("lines_per_day", "net"), 2))
print("gross_minute", round(total("sales_per_minute", "revenue"), 2))
print("gross_hour", round(total("sales_per_hour", "revenue"), 2))
print("orders", len(set(table("orders_per_minute")["invoice"].to_pylist())))
sys.stdout.flush()
# The packages' thread pools sometimes abort when an interpreter ends in the usual way.
os._exit(0)
"#;

const SUMS: &str = "lines 541909\nnet 9747747.93\ngross_minute 10666684.54\n\
                    gross_hour 10666684.54\norders 19960\n";

/// The interpreter with the packages, if there is one.
pub(crate) fn python() -> Option<String> {
    let python = std::env::var("TIDEMILL_PYTHON").ok();
    if python.is_none() {
        let is_required = std::env::var_os("TIDEMILL_REQUIRE_PYTHON").is_some_and(|set| set == "1");
        assert!(!is_required, "TIDEMILL_PYTHON names no interpreter");
        println!("left out: TIDEMILL_PYTHON names no interpreter with the packages");
    }
    python
}

/// Compares the sums of the demo's tables in a bucket's folder.
pub(crate) fn check_with_another_reader(bucket: &Path) {
    let Some(python) = python() else { return };
    let output = Command::new(python).args(["-c", SCRIPT]).arg(bucket).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), SUMS, "{errors}");
}
