//! The rate breaker of a source: when too many of the newest records are bad, reading stops.
//!
//! Why: a few bad records are the producer's daily life, a topic of nothing but bad ones is an
//! accident (a new format, a wrong declaration), and filling the quarantine with all of it helps
//! nobody. What was read is committed; nothing is skipped. A person decides: repair and `RESUME`.
//!
//! It looks at a sliding window of records and forgets them at each start: whoever resumes a source
//! that is still bad gets one more window of it.

use std::collections::VecDeque;

use tidemill_contract::{Error, Result, SourceSpec, metric};

/// Option: the share of bad records in the window that is still borne; 1 = any.
const MAX_RATIO: &str = "dead.max-ratio";
/// Option: how many records the window has at least.
const WINDOW: &str = "dead.window";
/// Half: far above what a source in use has, far below one that went wholly bad.
const DEFAULT_MAX_RATIO: f64 = 0.5;
/// Enough to be sure, few enough to look through.
const DEFAULT_WINDOW: u64 = 10_000;

/// Counts the newest records of a source.
#[derive(Debug, Clone)]
pub struct Breaker {
    max_ratio: f64,
    window: u64,
    /// Records and bad ones of each batch, oldest first.
    batches: VecDeque<(u64, u64)>,
    records: u64,
    dead: u64,
    example: Option<String>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_RATIO, DEFAULT_WINDOW)
    }
}

impl Breaker {
    fn new(max_ratio: f64, window: u64) -> Self {
        let batches = VecDeque::new();
        Self { max_ratio, window, batches, records: 0, dead: 0, example: None }
    }

    /// Reads the options of a source.
    ///
    /// # Errors
    /// `TM113` if one cannot be what it is.
    pub fn of_source(spec: &SourceSpec) -> Result<Self> {
        let wrong = |key: &str, wanted: &str| {
            let value = spec.options.get(key).unwrap_or_default();
            let what = format!("source '{}': option '{key}' cannot be '{value}'", spec.name);
            Error::invalid("TM113", what).at(spec.options.span(key)).help(format!("write {wanted}"))
        };
        let max_ratio = match spec.options.get(MAX_RATIO) {
            None => DEFAULT_MAX_RATIO,
            Some(text) => {
                let ratio: Option<f64> = text.parse().ok();
                let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio
                    .ok_or_else(|| wrong(MAX_RATIO, "a share from 0 to 1, such as 0.5; 1 is off"))?
            }
        };
        let window = match spec.options.get(WINDOW) {
            None => DEFAULT_WINDOW,
            Some(text) => {
                let window: Option<u64> = text.parse().ok().filter(|window| *window > 0);
                window.ok_or_else(|| wrong(WINDOW, "a number of records above 0"))?
            }
        };
        Ok(Self::new(max_ratio, window))
    }

    /// Records were read, so many of them bad. `example` is asked for the reason of one.
    pub(crate) fn observe(
        &mut self,
        records: u64,
        dead: u64,
        example: impl FnOnce() -> Option<String>,
    ) {
        if records == 0 {
            return;
        }
        self.batches.push_back((records, dead));
        self.records += records;
        self.dead += dead;
        while let Some((records, dead)) = self.batches.front().copied()
            && self.records - records >= self.window
        {
            self.batches.pop_front();
            self.records -= records;
            self.dead -= dead;
        }
        if dead > 0 {
            self.example = example().or(self.example.take());
        }
    }

    /// Why reading must stop, if it must. The kind makes a job wait for a person.
    #[allow(clippy::cast_precision_loss)] // Shares of thousands.
    pub(crate) fn tripped(&self, source: &str) -> Option<Error> {
        let is_full = self.records >= self.window;
        if !is_full || self.dead as f64 <= self.max_ratio * self.records as f64 {
            return None;
        }
        metrics::counter!(metric::BREAKER_TRIPS, "source" => source.to_owned()).increment(1);
        let what = format!(
            "source '{source}' is not read any more: {} of the last {} records are bad",
            self.dead, self.records
        );
        let example = self.example.as_deref().unwrap_or("no example");
        Some(
            Error::corrupt("TM591", what)
                .because(format!("more than '{MAX_RATIO}' = {}; e.g. {example}", self.max_ratio))
                .help(format!("SHOW DEAD FROM {source} says what they are; correct the producer")),
        )
    }
}
