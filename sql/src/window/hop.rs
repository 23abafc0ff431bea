//! Hopping windows: one begins at every slide and lasts for a size; they overlap.

use tidemill_contract::{Error, Micros, Result, WindowBounds};

use super::{Grid, Kind, Step};

pub(super) const KIND: Kind = Kind { name: "hop", arguments: &["slide", "size"], build };

fn build(steps: &[Step], offset: Micros) -> Result<Box<dyn Grid>> {
    let (slide, size) = (steps[0], steps[1]);
    if slide.longest() > size.longest() {
        return Err(Error::invalid("TM211", "the slide is longer than the size of the window")
            .because("rows between two windows would be lost")
            .help("the slide comes first: HOP(data, time, slide, size)"));
    }
    Ok(Box::new(Hop { slide, size, offset }))
}

#[derive(Debug)]
struct Hop {
    slide: Step,
    size: Step,
    offset: Micros,
}

impl Hop {
    fn window(&self, index: i64) -> WindowBounds {
        let start = self.slide.start(index, self.offset);
        WindowBounds { start, end: self.size.after(start, self.offset) }
    }

    /// Index of the first window whose end is after `time`. Ends do not decrease with the index.
    fn first_ending_after(&self, time: Micros) -> i64 {
        let earliest = time.saturating_sub(self.size.longest());
        let mut index = self.slide.index(earliest, self.offset);
        while self.window(index).end <= time && self.window(index).start < time {
            index = index.saturating_add(1);
        }
        index
    }
}

impl Grid for Hop {
    fn edge_at_or_before(&self, time: Micros) -> Micros {
        let start = self.slide.start(self.slide.index(time, self.offset), self.offset);
        let last_ended = self.window(self.first_ending_after(time).saturating_sub(1)).end;
        if last_ended <= time { start.max(last_ended) } else { start }
    }
    fn edge_after(&self, time: Micros) -> Micros {
        let next_start =
            self.slide.start(self.slide.index(time, self.offset).saturating_add(1), self.offset);
        next_start.min(self.window(self.first_ending_after(time)).end)
    }
    fn windows_at(&self, time: Micros) -> Vec<WindowBounds> {
        let mut windows = Vec::new();
        for index in self.first_ending_after(time).. {
            let window = self.window(index);
            if window.start > time {
                break;
            }
            windows.push(window);
        }
        windows
    }
    fn windows_ending(&self, after: Micros, through: Micros) -> Vec<WindowBounds> {
        let mut windows = Vec::new();
        for index in self.first_ending_after(after).. {
            let window = self.window(index);
            if window.end > through || window.end <= window.start {
                break;
            }
            windows.push(window);
        }
        windows
    }
    fn last_end(&self, time: Micros) -> Micros {
        self.window(self.slide.index(time, self.offset)).end
    }
    fn next(&self, window: WindowBounds) -> WindowBounds {
        self.window(self.slide.index(window.start, self.offset).saturating_add(1))
    }
    fn overlap(&self) -> i64 {
        self.size.over(self.slide)
    }
    fn longest(&self) -> Micros {
        self.size.longest()
    }
}
