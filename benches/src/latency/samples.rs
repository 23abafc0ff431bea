//! Exact percentiles: every sample is kept.

use std::time::Duration;

use anyhow::{Result, bail};

/// Latencies of one run.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest sample that at least `per_mille` of 1,000 are not above.
    ///
    /// # Errors
    /// If there are no samples.
    pub fn percentile(&self, per_mille: usize) -> Result<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
        match sorted.get(rank) {
            Some(found) => Ok(*found),
            None => bail!("no samples"),
        }
    }

    /// `n, p50, p99, p99.9 and the largest in ms`, as cells of a Markdown table.
    ///
    /// # Errors
    /// As [`Self::percentile`].
    pub fn cells(&self) -> Result<String> {
        let ms = |per_mille| -> Result<String> {
            Ok(format!("{:.1}", self.percentile(per_mille)?.as_secs_f64() * 1e3))
        };
        let (p50, p99, p999, most) = (ms(500)?, ms(990)?, ms(999)?, ms(1000)?);
        Ok(format!("{} | {p50} | {p99} | {p999} | {most}", self.len()))
    }
}
