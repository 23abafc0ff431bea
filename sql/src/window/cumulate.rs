//! Cumulating windows: within each full size, one window per step, all with the same start and
//! each one step longer than the last (Flink's `CUMULATE`).

use tidemill_contract::{Error, Micros, Result, WindowBounds};

use super::{Grid, Kind, Step};

pub(super) const KIND: Kind = Kind { name: "cumulate", arguments: &["step", "size"], build };

fn build(steps: &[Step], offset: Micros) -> Result<Box<dyn Grid>> {
    let (step, size) = (steps[0], steps[1]);
    let divides = match (step.months, size.months) {
        (0, 0) => size.micros % step.micros == 0,
        (0, _) => 86_400_000_000 % step.micros == 0,
        (months, size) => size != 0 && size % months == 0,
    };
    if !divides {
        return Err(Error::invalid("TM211", "the size is not a multiple of the step")
            .help("the step comes first: CUMULATE(data, time, step, size)"));
    }
    Ok(Box::new(Cumulate { step, size, offset }))
}

#[derive(Debug)]
struct Cumulate {
    step: Step,
    size: Step,
    offset: Micros,
}

impl Cumulate {
    /// The full window around `time`.
    fn full(&self, time: Micros) -> WindowBounds {
        let index = self.size.index(time, self.offset);
        WindowBounds {
            start: self.size.start(index, self.offset),
            end: self.size.start(index.saturating_add(1), self.offset),
        }
    }

    /// The end of the step around `time`.
    fn step_end(&self, time: Micros) -> Micros {
        self.step.start(self.step.index(time, self.offset).saturating_add(1), self.offset)
    }
}

impl Grid for Cumulate {
    fn edge_at_or_before(&self, time: Micros) -> Micros {
        self.step.start(self.step.index(time, self.offset), self.offset)
    }
    fn edge_after(&self, time: Micros) -> Micros {
        self.step_end(time)
    }
    fn windows_at(&self, time: Micros) -> Vec<WindowBounds> {
        let full = self.full(time);
        let mut windows = Vec::new();
        let mut end = self.step_end(time);
        while end <= full.end {
            windows.push(WindowBounds { start: full.start, end });
            let following = self.step_end(end);
            if following <= end {
                break;
            }
            end = following;
        }
        windows
    }
    fn windows_ending(&self, after: Micros, through: Micros) -> Vec<WindowBounds> {
        let mut windows = Vec::new();
        let mut end = self.step_end(after);
        while end <= through {
            windows.push(WindowBounds { start: self.full(end - 1).start, end });
            let following = self.step_end(end);
            if following <= end {
                break;
            }
            end = following;
        }
        windows
    }
    fn last_end(&self, time: Micros) -> Micros {
        self.full(time).end
    }
    fn next(&self, window: WindowBounds) -> WindowBounds {
        let end = self.step_end(window.end);
        WindowBounds { start: self.full(end - 1).start, end }
    }
    fn overlap(&self) -> i64 {
        self.size.over(self.step)
    }
    fn longest(&self) -> Micros {
        self.size.longest()
    }
}
