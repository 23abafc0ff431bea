//! a: orders as JSON in a topic → one-minute count, sum, avg per product → Delta table.
//!
//! Compared with `a0` (receive only) and `floor` (receive, four fields by sonic-rs, hash map).

use anyhow::{Result, bail};

use crate::driver::{Answers, Case, Target};
use crate::engine::Declared;
use crate::{Measured, engine, floor, load};

#[derive(Debug)]
pub(super) struct A;

impl Case for A {
    fn name(&self) -> &'static str {
        "a"
    }
    fn title(&self) -> &'static str {
        "orders as JSON → one-minute count, sum, avg per product → Delta table"
    }
    fn programs(&self) -> &'static [&'static str] {
        &["a0", "floor", "a", "a-12-columns"]
    }
    fn baselines(&self) -> &'static [&'static str] {
        &["a0", "floor"]
    }
    fn targets(&self) -> &'static [Target] {
        &[
            Target { program: "a", baseline: "a0", most: 1.7 },
            Target { program: "a", baseline: "floor", most: 0.55 },
        ]
    }
    fn prepare(&self, brokers: &str, count: u64) -> Result<Answers> {
        let answer = load::fill(brokers, count)?;
        Ok(["floor", "a", "a-12-columns"].map(|program| (program, answer)).into())
    }
    fn run(&self, program: &str, brokers: &str, count: u64) -> Result<Measured> {
        match program {
            "a0" => floor::consume(brokers, count),
            "floor" => floor::group(brokers, count),
            "a" => engine::run(brokers, count, Declared::Four),
            "a-12-columns" => engine::run(brokers, count, Declared::Twelve),
            other => bail!("unknown program {other}"),
        }
    }
}
