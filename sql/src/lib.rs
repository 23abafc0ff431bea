//! SQL to operators: parse a statement, plan it with DataFusion, run it with our own window
//! operators.
//!
//! Sans-I/O and synchronous: `push(batch)`, `advance(watermark) -> emissions`, `snapshot`,
//! `restore`. It never awaits, never reads a clock, never touches a file or a socket, and never
//! creates a DataFusion plan, session or channel per batch or per window.

pub mod alert;
pub mod catalog;
pub mod engine;
pub mod parse;
pub mod plan;
pub mod window;
