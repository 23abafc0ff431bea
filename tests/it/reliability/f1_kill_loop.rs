//! F1: SIGKILL at any moment, again and again, and every row counts once.
//!
//! The whole program with its own broker and a folder as the bucket reads files that appear while
//! it runs, through windows of every kind, a view over a view, sinks and an alert. It is killed at
//! random times, and a part of the kills is steered into steps that chance would seldom meet: a
//! fail point makes one thread stand still there, then comes the same SIGKILL. The trace of the
//! fail points says where each kill met the process; a loop that only ever met an idle process
//! would fail. At the end two engines that share no code with ours compute every table again.

mod events;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::failpoint;
use tidemill_contract::{Commit, RawRecord};
use tidemill_runtime::{Pipeline, Settings};

use super::bucket;
use super::victim::{Start, Victim, pause};
use events::{Events, mixed};
use oracle::Late;

const SCRIPT: &str = "
CREATE SOURCE IF NOT EXISTS events (
  id BIGINT NOT NULL, shop TEXT, customer INT, amount DECIMAL(12, 2), quantity INT, at BIGINT,
  ts AS to_timestamp_millis(at),
  WATERMARK FOR ts AS ts - INTERVAL '60' SECOND
) WITH ('connector'='filesystem', 'path'='in/*.jsonl', 'format'='json', 'topic.partitions'='4',
        'source.monitor-interval'='20 ms', 'scan.watermark.idle-timeout'='1 h');

CREATE MATERIALIZED VIEW IF NOT EXISTS kept AS SELECT id, shop, amount, ts FROM events;

CREATE MATERIALIZED VIEW IF NOT EXISTS per_shop AS
SELECT window_start, window_end, window_time, shop, count(*) AS n, sum(amount) AS total,
       min(amount) AS lo, max(amount) AS hi, count(DISTINCT customer) AS c, sum(quantity) AS q
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY window_start, window_end, window_time, shop;

CREATE MATERIALIZED VIEW IF NOT EXISTS slides AS
SELECT window_start, shop, count(*) AS n, sum(amount) AS total
FROM TABLE(HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '30' SECOND))
WHERE quantity > 5 GROUP BY window_start, shop;

CREATE MATERIALIZED VIEW IF NOT EXISTS growth AS
SELECT window_start, window_end, customer, count(*) AS n, sum(amount) AS total, max(amount) AS hi
FROM TABLE(CUMULATE(TABLE events, DESCRIPTOR(ts), INTERVAL '20' SECOND, INTERVAL '2' MINUTE))
GROUP BY window_start, window_end, customer;

CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
SELECT window_start, sum(n) AS n, sum(total) AS total, max(hi) AS hi, count(*) AS shops
FROM TABLE(TUMBLE(TABLE per_shop, DESCRIPTOR(window_time), INTERVAL '1' MINUTE))
GROUP BY window_start;

CREATE SINK IF NOT EXISTS fives WITH ('connector'='kafka', 'topic'='fives', 'key.fields'='shop')
AS SELECT id, shop FROM events WHERE quantity = 5;

CREATE SINK IF NOT EXISTS sixes WITH ('connector'='filesystem', 'path'='sixes.csv', 'format'='csv')
AS SELECT id, shop FROM events WHERE quantity = 6;

CREATE ALERT IF NOT EXISTS busy ON per_shop WHEN n >= 840 BY shop;
";

/// Queries over views: they are not given the source's rows.
const OVER_VIEWS: &[&str] = &["per_minute"];
/// The phases that kills must meet.
const PHASES: &[&str] = &["ingest", "upload", "commit", "publish", "recover"];
/// Of a hundred kills, how many must meet each.
const SHARE_MIN: usize = 5;
/// Longest wait for a point that a kill is steered to; then the process is killed where it is.
const STEERING: Duration = Duration::from_secs(4);

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    kills: u64,
    events: i64,
    /// Rows of one input file: less event time than the declared delay, so that a row whose
    /// append was cut off by a kill and is made up for later is not late.
    file: i64,
    /// Rows that lie ready at least when a process starts: it never idles.
    backlog: i64,
    /// Of a hundred stops, how many are SIGTERM.
    graceful: u64,
    /// Of a hundred kills, how many are steered.
    steered: u64,
}

const SHORT: Size =
    Size { kills: 100, events: 600_000, file: 5_000, backlog: 60_000, graceful: 0, steered: 35 };
const LONG: Size = Size {
    kills: 1_000,
    events: 10_000_000,
    file: 20_000,
    backlog: 100_000,
    graceful: 15,
    steered: 35,
};

impl Size {
    /// Kills at most: beside other work steered lives often end before their point, and then more
    /// of them follow.
    fn most(self) -> u64 {
        self.kills * 3 / 2
    }

    /// The same with as many kills as `TIDEMILL_KILLS` says, and events in proportion: for machines
    /// that have other things to do.
    fn scaled(self) -> Self {
        let asked = std::env::var("TIDEMILL_KILLS").ok();
        let Some(kills) = asked.and_then(|text| text.parse::<u64>().ok()) else { return self };
        let events = self.events / i64::try_from(self.kills).unwrap();
        Self { kills, events: events * i64::try_from(kills).unwrap(), ..self }
    }
}

/// Where the kills met the process.
#[derive(Debug, Default)]
struct Tally {
    /// Kills by the phase of the point passed last; `start` is before the first point.
    met: BTreeMap<String, usize>,
    /// How many of them were steered there.
    steered: BTreeMap<String, usize>,
    kills: usize,
    graceful: usize,
}

impl Tally {
    fn add(&mut self, point: Option<&str>, is_steered: bool) {
        let phase = point.and_then(|name| name.split('.').next()).unwrap_or("start").to_owned();
        self.kills += 1;
        *self.steered.entry(phase.clone()).or_default() += usize::from(is_steered);
        *self.met.entry(phase).or_default() += 1;
    }

    /// Every phase was met by enough of the kills.
    fn is_spread(&self) -> bool {
        let met = |phase: &&str| self.met.get(*phase).copied().unwrap_or(0);
        PHASES.iter().all(|phase| met(phase) * 100 >= self.kills * SHARE_MIN)
    }

    /// The phase that was met least.
    fn rarest(&self) -> &'static str {
        let met = |phase: &&&str| self.met.get(**phase).copied().unwrap_or(0);
        PHASES.iter().min_by_key(met).unwrap()
    }
}

/// The loop's folder: input, data, and how far the input is written.
struct Loop {
    folder: TempDir,
    size: Size,
    events: Events,
    written: i64,
    random: u64,
    tally: Tally,
}

impl Loop {
    fn new(size: Size) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("loop.sql"), SCRIPT).unwrap();
        let events = Events { ordinary: size.events };
        Self { folder, size, events, written: 0, random: 1, tally: Tally::default() }
    }

    fn bucket(&self) -> PathBuf {
        self.folder.path().join("data/bucket")
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.random = mixed(self.random);
        self.random % limit
    }

    fn start(&self) -> Start {
        let mut start = Start::script(self.folder.path(), "loop.sql", "60ms", "150ms");
        start.environment.push(("TIDEMILL__STATE__FLUSH_ROWS".to_owned(), "4000".to_owned()));
        start
    }

    fn newest(&self) -> Option<Commit> {
        bucket::newest(&self.bucket(), "events")
    }

    fn committed(&self) -> i64 {
        let records = self.newest().and_then(|commit| commit.counters.get("records").copied());
        i64::try_from(records.unwrap_or(0)).unwrap()
    }

    /// Writes files until enough lies ready and the input keeps pace with the kills.
    fn top_up(&mut self) {
        let done = i64::try_from(self.tally.kills + 1).unwrap();
        let pace = self.size.events / i64::try_from(self.size.most()).unwrap() * done;
        let target = pace.max(self.committed() + self.size.backlog).min(self.size.events);
        while self.written < target {
            self.write(self.size.file.min(self.size.events - self.written));
        }
    }

    fn write(&mut self, rows: i64) {
        let to = self.written + rows;
        self.events.write_file(&self.folder.path().join("in"), self.written, to);
        self.written = to;
    }

    /// One life, ended by a signal.
    fn live(&mut self) {
        self.top_up();
        if self.below(100) < self.size.steered {
            return self.live_to_a_point();
        }
        let mut victim = self.start().spawn("");
        if self.below(4) > 0 {
            // On a busy machine the start alone may take longer than most lives.
            victim.await_life();
            pause(Duration::from_millis(self.below(750)));
        } else {
            pause(Duration::from_millis(50 + self.below(750)));
        }
        if self.below(100) < self.size.graceful && victim.last_point().is_some() {
            victim.stop();
            self.tally.graceful += 1;
        } else {
            self.tally.add(victim.kill().as_deref(), false);
        }
    }

    /// One life that is ended in the phase met least so far.
    fn live_to_a_point(&mut self) {
        let prefix = format!("{}.", self.tally.rarest());
        let points: Vec<&str> =
            failpoint::ALL.iter().copied().filter(|name| name.starts_with(&prefix)).collect();
        // No query of this job ever leaves it.
        let points: Vec<&str> = points
            .into_iter()
            .filter(|name| !name.ends_with("_split") && !name.ends_with("_part"))
            .collect();
        let chosen = self.below(points.len() as u64);
        let point = points[usize::try_from(chosen).unwrap()];
        let hit = if prefix == "recover." { 1 } else { 1 + self.below(2) };
        let mut victim = self.start().spawn(&format!("{point}=hang@{hit}"));
        let is_there = victim.await_hang(STEERING);
        let met = victim.kill();
        // Other threads go on while one stands still; the kill met that one where it stands.
        self.tally.add(if is_there { Some(point) } else { met.as_deref() }, is_there);
    }

    /// Reads everything that is left, without a kill, and stops.
    fn finish(&mut self) -> Commit {
        while self.written < self.size.events {
            self.write(self.size.file.min(self.size.events - self.written));
        }
        self.write(events::CLOSING_ROWS);
        let (all, bucket) = (self.events.all(), self.bucket());
        let mut victim: Victim = self.start().spawn("");
        victim.wait_until("everything is committed", Duration::from_secs(1200), |_| {
            let commit = bucket::newest(&bucket, "events");
            let records = commit.and_then(|commit| commit.counters.get("records").copied());
            records.is_some_and(|records| i64::try_from(records).unwrap() >= all)
        });
        victim.stop();
        self.newest().unwrap()
    }
}

#[test]
fn every_row_counts_once_however_often_it_is_killed() {
    let size = if super::is_long() { LONG.scaled() } else { SHORT };
    let started = Instant::now();
    let mut state = Loop::new(size);
    let (least, most) = (size.kills.try_into().unwrap(), size.most().try_into().unwrap());
    while state.tally.kills < least {
        state.live();
    }
    while !state.tally.is_spread() && state.tally.kills < most {
        state.top_up();
        state.live_to_a_point();
    }
    let killed = started.elapsed();
    let last = state.finish();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (rows, oracles) = runtime.block_on(Box::pin(check(&state, &last)));
    let Loop { tally, .. } = &state;
    eprintln!(
        "F1: {} SIGKILLs and {} SIGTERMs in {killed:.0?}, {} events, {} epochs, {rows} result rows \
         equal in {oracles}; kills met {:?}, steered there {:?}; {:.0?} in all",
        tally.kills,
        tally.graceful,
        state.events.all(),
        last.epoch,
        tally.met,
        tally.steered,
        started.elapsed(),
    );
    assert!(tally.is_spread(), "a phase was hardly met: {tally:?}");
}

/// Everything that can be seen from outside, against what must be there. Gives how many result rows
/// were compared, and with what.
async fn check(state: &Loop, last: &Commit) -> (i64, &'static str) {
    let events = state.events;
    let all = u64::try_from(events.all()).unwrap();
    assert_eq!(last.counters["records"], all);
    assert!(bucket::assert_conserved(&state.bucket(), OVER_VIEWS) > 0);

    let settings = Settings { data_dir: state.folder.path().join("data"), ..Settings::default() };
    let pipeline = Pipeline::open(settings).await.unwrap();
    assert_dead(&pipeline, events, last).await;
    let late = late_rows(&pipeline, last).await;
    let session = Box::pin(oracle::session(&state.bucket(), events, &late)).await;
    let rows = Box::pin(oracle::assert_equal(&session, events)).await;
    let (folder, bucket) = (state.folder.path(), state.bucket());
    let again = oracle::assert_equal_in_duckdb(folder, &bucket, &folder.join("in"), events, &late);
    assert!(again.is_none_or(|again| again == rows), "{again:?} rows in DuckDB, not {rows}");
    assert_sinks(&pipeline, events, folder).await;
    assert_alerts(&pipeline, &session).await;

    pipeline.start().await.unwrap();
    for job in pipeline.status().jobs {
        assert_eq!((job.conservation_drift, job.error), (0, None), "{}", job.name);
    }
    pipeline.stop().await.unwrap();
    (rows, if again.is_some() { "DataFusion and DuckDB" } else { "DataFusion" })
}

/// Every broken row is in quarantine, once, with its bytes; nothing else is.
async fn assert_dead(pipeline: &Pipeline, events: Events, last: &Commit) {
    let dead = topic(pipeline, "events.dead").await;
    let broken = (0..events.all()).filter(|id| events.is_broken(*id));
    let mut expected: Vec<String> = broken.map(|id| events.line(id)).collect();
    assert_eq!(last.counters["quarantined"], expected.len() as u64);
    let mut found: Vec<String> =
        dead.iter().map(|record| parsed(record)["raw_text"].as_str().unwrap().to_owned()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert!(found == expected, "{} rows in quarantine, not {}", found.len(), expected.len());
}

/// The late rows: as many as the counters say, each once for each query.
async fn late_rows(pipeline: &Pipeline, last: &Commit) -> Vec<Late> {
    let mut late = BTreeSet::new();
    for row in topic(pipeline, "events.late").await.iter().map(parsed) {
        let event: Value = serde_json::from_str(row["raw_text"].as_str().unwrap()).unwrap();
        let query = row["query"].as_str().unwrap().to_owned();
        assert!(late.insert((query, event["id"].as_i64().unwrap())), "late twice: {row}");
    }
    let counted = last.counters.iter().filter(|(name, _)| name.ends_with(".late"));
    assert_eq!(counted.map(|(_, count)| *count).sum::<u64>(), late.len() as u64);
    assert!(!late.is_empty(), "no row was late");
    late.into_iter().collect()
}

/// The topic and the file hold each row once.
async fn assert_sinks(pipeline: &Pipeline, events: Events, folder: &Path) {
    let ids = |quantity: i32| -> Vec<i64> {
        let rows = (0..events.all()).filter_map(|id| events.row(id));
        rows.filter(|row| row.quantity == quantity).map(|row| row.id).collect()
    };
    let mut found: Vec<i64> = topic(pipeline, "fives")
        .await
        .iter()
        .map(|record| parsed(record)["id"].as_i64().unwrap())
        .collect();
    found.sort_unstable();
    assert!(found == ids(5), "the topic: {} rows, not {}", found.len(), ids(5).len());
    let text = std::fs::read_to_string(folder.join("sixes.csv")).unwrap();
    let mut found: Vec<i64> =
        text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    found.sort_unstable();
    assert!(found == ids(6), "the file: {} rows, not {}", found.len(), ids(6).len());
}

/// Each alert came once, and those that fire are those the windows ask for.
async fn assert_alerts(pipeline: &Pipeline, session: &SessionContext) {
    let (mut ids, mut firing) = (BTreeSet::new(), BTreeSet::new());
    for alert in topic(pipeline, "alerts").await.iter().map(parsed) {
        assert!(ids.insert(alert["id"].as_str().unwrap().to_owned()), "twice: {alert}");
        if alert["data"]["status"] == "firing" {
            let shop = alert["data"]["key"]["shop"].as_str().unwrap().to_owned();
            let start = alert["data"]["window"]["start"].as_str().unwrap();
            firing.insert((start.get(..19).unwrap().to_owned(), shop));
        }
    }
    let batches = session
        .sql(
            "SELECT to_char(window_start, '%Y-%m-%dT%H:%M:%S'), shop FROM (
               SELECT window_start, shop, n,
                 lag(window_start) OVER (PARTITION BY shop ORDER BY window_start) AS before,
                 lag(n) OVER (PARTITION BY shop ORDER BY window_start) AS n_before
               FROM per_shop)
             WHERE n >= 840 AND (before IS NULL OR n_before < 840
                                 OR before < window_start - INTERVAL '10' SECOND)",
        )
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let mut expected = BTreeSet::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let text = |column: usize| {
                arrow::util::display::array_value_to_string(batch.column(column), row).unwrap()
            };
            expected.insert((text(0), text(1)));
        }
    }
    assert!(!expected.is_empty(), "no window asks for an alert");
    assert_eq!(firing, expected);
}

fn parsed(record: &RawRecord) -> Value {
    serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap()
}

/// All records of a topic.
async fn topic(pipeline: &Pipeline, name: &str) -> Vec<RawRecord> {
    let marks = pipeline.log().watermarks(name).await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let records = pipeline.log().read_range(name, &from, &to).await.unwrap();
    records.into_iter().map(|(_, record)| record).collect()
}
