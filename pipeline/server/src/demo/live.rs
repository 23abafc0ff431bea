//! The loop of the live demo: gather, draw, wait, until someone stops it or, for a pipe, the year is over.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tidemill_contract::Result;
use tidemill_runtime::{Pipeline, Status};
use tokio::time::Instant;

use super::alerts::{self, Subscriber};
use super::screen::{self, ALERT_ROWS, Picture};
use crate::diagnostic::Paint;

/// Time between redraws of a terminal: quick enough to watch, slow enough to read.
const REDRAW: Duration = Duration::from_millis(1000);
/// Time between lines for a pipe or a file.
const PLAIN_LINE: Duration = Duration::from_secs(3);

/// Shows the running pipeline; `footer` is printed below the picture. On a terminal it goes on
/// until it is dropped, so that the last picture stays; a pipe ends when the pipeline is drained.
///
/// Cancel-safe: dropping it between two redraws leaves nothing behind.
///
/// # Errors
/// A SELECT or a broker that fails.
pub async fn watch(pipeline: &Pipeline, footer: &[String]) -> anyhow::Result<()> {
    let terminal = io::stdout().is_terminal();
    let paint = Paint::for_stream(&io::stdout());
    let mut viewer = Viewer::new();
    let _screen = terminal.then(Screen::clear);
    if !terminal {
        for line in footer {
            writeln!(io::stdout(), "{line}")?;
        }
    }
    loop {
        let status = pipeline.status();
        let picture = viewer.look(pipeline, &status).await?;
        if terminal {
            redraw(&picture, footer, paint)?;
        } else {
            append(&picture, &mut viewer.unprinted)?;
        }
        if picture.done && !terminal {
            return Ok(());
        }
        tokio::time::sleep(if terminal { REDRAW } else { PLAIN_LINE }).await;
    }
}

/// Draws the picture over the last one.
fn redraw(picture: &Picture, footer: &[String], paint: Paint) -> io::Result<()> {
    let mut lines = screen::draw(picture, paint);
    lines.extend(footer.iter().map(|line| paint.faint(line)));
    let mut out = io::stdout().lock();
    // Home, each line cleared to its end, then everything below: no flicker.
    write!(out, "\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))?;
    out.flush()
}

/// Appends the new alerts and one line of numbers, for a pipe or a file.
fn append(picture: &Picture, unprinted: &mut Vec<String>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for alert in unprinted.drain(..) {
        writeln!(out, "alert: {alert}")?;
    }
    writeln!(out, "{}", screen::summary(picture))?;
    out.flush()
}

/// A cleared terminal whose lines are cut at its edge; dropping it puts things right again.
struct Screen;

impl Screen {
    fn clear() -> Self {
        // A closed terminal shows up at the first redraw.
        write!(io::stdout(), "\x1b[2J\x1b[?7l").ok();
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing to put right on a terminal that is gone.
        writeln!(io::stdout(), "\x1b[?7h").ok();
    }
}

/// What is remembered from one redraw to the next.
struct Viewer {
    subscriber: Subscriber,
    feed: VecDeque<String>,
    unprinted: Vec<String>,
    last: Option<(Instant, u64)>,
}

impl Viewer {
    fn new() -> Self {
        Self {
            subscriber: Subscriber::default(),
            feed: VecDeque::new(),
            unprinted: Vec::new(),
            last: None,
        }
    }

    async fn look(&mut self, pipeline: &Pipeline, status: &Status) -> Result<Picture> {
        for event in self.subscriber.take(pipeline.log()).await? {
            let line = alerts::line(&event);
            if alerts::is_firing(&event) {
                self.unprinted.push(line.clone());
            }
            self.feed.push_front(line);
        }
        self.feed.truncate(ALERT_ROWS);
        let (rows_in, lag, drift, watermark) = screen::totals(status);
        let now = Instant::now();
        let rows_per_second = self.last.map_or(0.0, |(then, before)| {
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            rows_in.saturating_sub(before) as f64 / seconds
        });
        self.last = Some((now, rows_in));
        Ok(Picture {
            sales: screen::sales(pipeline, watermark).await?,
            products: screen::products(pipeline, watermark).await?,
            alerts: self.feed.iter().cloned().collect(),
            rows_in,
            rows_per_second,
            lag,
            drift,
            watermark,
            done: !status.jobs.is_empty() && status.jobs.iter().all(|job| job.state == "drained"),
        })
    }
}
