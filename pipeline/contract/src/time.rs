//! Event time, watermarks and the clock. Event time is microseconds since the epoch, UTC.
//!
//! Only the clock's users may know the wall clock; `sql` never does.

/// Microseconds: a point since the Unix epoch (UTC), or a length.
pub type Micros = i64;

/// The promise that no further row with an event time before this point is expected.
///
/// A row with `time < watermark` is behind it; a window `[start, end)` closes when
/// `end <= watermark`. [`Watermark::MAX`] closes everything (end of a bounded source).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Watermark(pub Micros);

impl Watermark {
    /// Nothing is known yet.
    pub const MIN: Self = Self(Micros::MIN);
    /// The end of time: the source is drained.
    pub const MAX: Self = Self(Micros::MAX);
}

/// Wall-clock time, passed in so that tests can set it.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in microseconds since the epoch.
    fn now_micros(&self) -> Micros;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now_micros(&self) -> Micros {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| Micros::try_from(elapsed.as_micros()).unwrap_or(Micros::MAX))
    }
}
