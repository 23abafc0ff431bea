//! Tests of the SQL layer: statements, windows, operators against a batch oracle.

mod flink;
mod late;
mod oracle;
mod program;
mod receipts;
mod stream;
mod sums;
mod windows;

mod alert;
mod alert_conditions;
mod parse;
mod parse_errors;
mod parse_late;
mod parse_windows;
