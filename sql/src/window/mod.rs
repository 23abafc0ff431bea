//! Windows: which slices of event time a row falls into, and which windows a slice feeds.
//!
//! Time is cut into *slices* at every edge of every window of a group, so one row updates exactly
//! one slice, whatever the number of windows over it (Krishnamurthy et al., "On-the-fly sharing
//! for streamed aggregation", SIGMOD 2006; Traub et al., "Scotty", ICDE 2018). A kind answers
//! pure calendar questions only: it holds no state, sees no rows and reads no clock.
//!
//! **Invariants.** Windows and slices are half-open `[start, end)`. No window edge lies strictly
//! inside a slice, so a slice lies whole inside a window or whole outside it.

mod calendar;
mod cumulate;
mod hop;
mod tumble;

use std::fmt;

use tidemill_contract::{Error, Micros, Result, Span, WindowBounds};

pub use calendar::Step;

/// A window kind: its SQL name and how its intervals become a grid. Adding one is a new file and
/// a line in [`KINDS`].
pub struct Kind {
    /// SQL name, lower case.
    pub name: &'static str,
    /// Names of the interval arguments in order, the optional offset left out.
    pub arguments: &'static [&'static str],
    /// Builds the grid from as many steps as there are arguments, plus the offset.
    build: Build,
}

/// Makes the grid of a kind from its steps and its offset.
type Build = fn(&[Step], Micros) -> Result<Box<dyn Grid>>;

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Most windows one row may lie in: closing or looking at them costs that many merges.
pub const MAX_OVERLAP: i64 = 1_500;
/// Longest window and largest offset: a hundred years, far from where time overflows.
const MAX_LENGTH: Micros = 36_525 * 86_400_000_000;

/// The window kinds.
pub const KINDS: &[Kind] = &[tumble::KIND, hop::KIND, cumulate::KIND];

/// The calendar questions a window kind answers. All are pure.
pub(crate) trait Grid: Send + Sync + fmt::Debug {
    /// The largest window edge `<= time`.
    fn edge_at_or_before(&self, time: Micros) -> Micros;
    /// The smallest window edge `> time`.
    fn edge_after(&self, time: Micros) -> Micros;
    /// The windows that contain `time`, ascending by end, then start.
    fn windows_at(&self, time: Micros) -> Vec<WindowBounds>;
    /// The windows with `after < end <= through`, ascending by end, then start.
    fn windows_ending(&self, after: Micros, through: Micros) -> Vec<WindowBounds>;
    /// End of the last window that contains `time`.
    fn last_end(&self, time: Micros) -> Micros;
    /// The window that follows `window` in order of end.
    fn next(&self, window: WindowBounds) -> WindowBounds;
    /// Upper bound of a window's length.
    fn longest(&self) -> Micros;
    /// Upper bound of the number of windows one row lies in.
    fn overlap(&self) -> i64 {
        1
    }
}

/// A window declaration: kind, intervals and offset.
#[derive(Debug, Clone)]
pub struct WindowSpec {
    kind: &'static str,
    steps: Vec<Step>,
    offset: Micros,
    grid: std::sync::Arc<dyn Grid>,
}

impl WindowSpec {
    /// Builds a window from its SQL name, its intervals as written (a last extra one is the
    /// offset) and the place of the call for errors.
    ///
    /// # Errors
    /// `TM210` for a wrong number of intervals, `TM211` for a size or slide that cannot work.
    pub fn new(name: &str, intervals: &[Step], span: Option<Span>) -> Result<Self> {
        let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            Error::invalid("TM210", format!("unknown window function '{name}'")).at(span)
        })?;
        let wanted = kind.arguments.len();
        if intervals.len() != wanted && intervals.len() != wanted + 1 {
            return Err(Error::invalid(
                "TM210",
                format!("{name} takes {wanted} intervals, {} given", intervals.len()),
            )
            .at(span)
            .help(format!(
                "write {}(TABLE t, DESCRIPTOR(time), {}[, offset])",
                name.to_uppercase(),
                kind.arguments.join(", ")
            )));
        }
        let (steps, offset) = intervals.split_at(wanted);
        let offset = match offset.first() {
            None => 0,
            Some(Step { months: 0, micros }) => *micros,
            Some(_) => {
                return Err(Error::invalid("TM211", "a window offset cannot be in months")
                    .at(span)
                    .help("give the offset in days, hours, minutes or seconds"));
            }
        };
        for step in steps {
            step.check(span)?;
        }
        let grid = (kind.build)(steps, offset).map_err(|error| error.at(span))?;
        if grid.longest() > MAX_LENGTH || offset.saturating_abs() > MAX_LENGTH {
            return Err(Error::invalid("TM212", "the window is too long")
                .at(span)
                .because("windows and offsets have at most 100 years"));
        }
        if grid.overlap() > MAX_OVERLAP {
            let overlap = grid.overlap();
            return Err(Error::invalid(
                "TM212",
                format!("a row lies in {overlap} windows at once"),
            )
            .at(span)
            .because(format!("at most {MAX_OVERLAP} are kept: each costs work and memory"))
            .help("make the slide or step longer, or the size shorter"));
        }
        Ok(Self { kind: kind.name, steps: steps.to_vec(), offset, grid: grid.into() })
    }

    /// The window that follows `window` in order of end.
    pub fn next(&self, window: WindowBounds) -> WindowBounds {
        self.grid.next(window)
    }

    /// Upper bound of a window's length in microseconds.
    pub fn longest(&self) -> Micros {
        self.grid.longest()
    }

    /// The windows that contain `time`, ascending by end.
    pub fn windows_at(&self, time: Micros) -> Vec<WindowBounds> {
        self.grid.windows_at(time)
    }

    /// Upper bound of the number of windows one row lies in.
    pub fn overlap(&self) -> i64 {
        self.grid.overlap()
    }

    pub(crate) fn grid(&self) -> &dyn Grid {
        &*self.grid
    }
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.kind)?;
        for (index, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if index == 0 { "" } else { ", " })?;
        }
        if self.offset != 0 {
            write!(f, ", offset {}us", self.offset)?;
        }
        f.write_str(")")
    }
}
