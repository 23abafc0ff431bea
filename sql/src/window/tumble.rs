//! Tumbling windows: every point of time lies in exactly one.

use tidemill_contract::{Micros, Result, WindowBounds};

use super::{Grid, Kind, Step};

pub(super) const KIND: Kind = Kind { name: "tumble", arguments: &["size"], build };

fn build(steps: &[Step], offset: Micros) -> Result<Box<dyn Grid>> {
    Ok(Box::new(Tumble { size: steps[0], offset }))
}

#[derive(Debug)]
struct Tumble {
    size: Step,
    offset: Micros,
}

impl Tumble {
    fn window(&self, index: i64) -> WindowBounds {
        WindowBounds {
            start: self.size.start(index, self.offset),
            end: self.size.start(index.saturating_add(1), self.offset),
        }
    }
}

impl Grid for Tumble {
    fn edge_at_or_before(&self, time: Micros) -> Micros {
        self.size.start(self.size.index(time, self.offset), self.offset)
    }
    fn edge_after(&self, time: Micros) -> Micros {
        self.last_end(time)
    }
    fn windows_at(&self, time: Micros) -> Vec<WindowBounds> {
        vec![self.window(self.size.index(time, self.offset))]
    }
    fn windows_ending(&self, after: Micros, through: Micros) -> Vec<WindowBounds> {
        let first = self.size.index(after, self.offset);
        let mut windows = Vec::new();
        for index in first.. {
            let window = self.window(index);
            if window.end > through || window.end <= window.start {
                break;
            }
            if window.end > after {
                windows.push(window);
            }
        }
        windows
    }
    fn last_end(&self, time: Micros) -> Micros {
        self.window(self.size.index(time, self.offset)).end
    }
    fn next(&self, window: WindowBounds) -> WindowBounds {
        self.window(self.size.index(window.end, self.offset))
    }
    fn longest(&self) -> Micros {
        self.size.longest()
    }
}
