//! Role `fetch`: librdkafka receives a topic in batches, as `a0` does.

use anyhow::Result;

use super::{ClientRun, Content};
use crate::floor;
use crate::measure::Stopwatch;

/// Receives `records` orders of the topic and adds them up.
///
/// # Errors
/// If the broker fails or nothing comes any more.
pub fn run(brokers: &str, topic: &str, records: u64) -> Result<ClientRun> {
    let mut content = Content::default();
    let watch = Stopwatch::start()?;
    floor::each(brokers, topic, records, |payload| {
        content.add(payload);
        Ok(())
    })?;
    let measured = watch.stop()?;
    Ok(ClientRun { wall_ns: measured.wall_ns, cpu_ns: measured.cpu_ns, content })
}
