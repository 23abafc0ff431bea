//! Role `fetch`: librdkafka receives a topic in batches, as `a0` does.
//!
//! The clock starts with the first record: until then the client waits half a second, by a timer of
//! its own, whatever the broker.

use anyhow::{Context as _, Result};

use super::{ClientRun, Content};
use crate::floor;
use crate::measure::Stopwatch;

/// Receives `records` orders of the topic and adds them up.
///
/// # Errors
/// If the broker fails or nothing comes any more.
pub fn run(brokers: &str, topic: &str, records: u64) -> Result<ClientRun> {
    let mut content = Content::default();
    let mut watch = None;
    floor::each(brokers, topic, records, |payload| {
        if watch.is_none() {
            watch = Some(Stopwatch::start()?);
        }
        content.add(payload);
        Ok(())
    })?;
    let measured = watch.context("no records")?.stop()?;
    Ok(ClientRun { wall_ns: measured.wall_ns, cpu_ns: measured.cpu_ns, content })
}
