//! A small bounded job with everything that a crash could tear: views, an alert, sinks to topics
//! and files, rows that are dead in the feed, dead in the job, and late; as a real process whose
//! life a fail point ends, and as results that two lives of it can be compared by.
//!
//! Nothing in the data depends on timing: between a late row and the rows that close its windows is
//! more than the job reads of a partition at once (8,192 records, which span 16,384 seconds), and all
//! other rows are in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_contract::RawRecord;

use crate::cli::{MARKER, tidemill};

/// Longest a process may take: many times what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows of one input file, a unit of the feed.
const UNIT_ROWS: usize = 900;
/// The last files begin with late rows.
const LATE_UNITS: usize = 3;
/// 2024-01-01T00:00:00Z in milliseconds.
const START_MS: usize = 1_704_067_200_000;

/// The statements; `$IN` is the folder of the input.
const SCRIPT: &str = "
CREATE SOURCE IF NOT EXISTS events (
  id BIGINT NOT NULL, shop TEXT, amount BIGINT, at BIGINT, ts AS to_timestamp_millis(at),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector'='filesystem', 'path'='$IN/*.csv', 'format'='csv', 'topic.partitions'='2');
CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
SELECT window_start, window_end, shop, count(*) AS n, sum(amount) AS total
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, shop;
CREATE MATERIALIZED VIEW IF NOT EXISTS half_hours AS
SELECT window_start, window_end, shop, count(*) AS n, max(amount) AS most
FROM TABLE(HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '10' MINUTE, INTERVAL '30' MINUTE))
GROUP BY window_start, window_end, shop;
CREATE SINK IF NOT EXISTS fives WITH ('connector'='kafka', 'topic'='fives', 'key.fields'='shop')
AS SELECT id, shop FROM events WHERE amount = 5;
CREATE SINK IF NOT EXISTS totals WITH ('connector'='filesystem', 'path'='totals.csv', 'format'='csv')
AS SELECT window_start, count(*) AS n, sum(amount) AS total
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
CREATE SINK IF NOT EXISTS sixes WITH ('connector'='filesystem', 'path'='sixes.jsonl', 'format'='json')
AS SELECT id, shop FROM events WHERE amount = 6;
CREATE ALERT IF NOT EXISTS busy ON per_minute WHEN total > 60 BY shop;
SELECT * FROM per_minute ORDER BY window_start, shop;
SELECT * FROM half_hours ORDER BY window_start, shop;
";

/// Small files, small batches, a commit after nearly each of them.
const CONFIG: &str = "
[state]
commit_interval = \"10ms\"
flush_interval = \"20ms\"
flush_rows = 20
[storage]
compact_files = $COMPACT
[kafka.properties]
\"batch.size\" = \"30000\"
\"fetch.message.max.bytes\" = \"30000\"
\"queued.max.messages.kbytes\" = \"64\"
";

/// The input and the script, written once for many runs.
#[derive(Debug)]
pub(super) struct Rig {
    folder: TempDir,
}

impl Rig {
    /// Writes so many input files; a table is compacted when it has so many files.
    pub(super) fn new(units: usize, compact_files: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let input = folder.path().join("in");
        fs::create_dir(&input).unwrap();
        for unit in 0..units {
            fs::write(input.join(format!("part-{unit:03}.csv")), unit_lines(unit, units)).unwrap();
        }
        let script = SCRIPT.replace("$IN", input.to_str().unwrap());
        fs::write(folder.path().join("job.sql"), script).unwrap();
        let config = CONFIG.replace("$COMPACT", &compact_files.to_string());
        fs::write(folder.path().join("tidemill.toml"), config).unwrap();
        Self { folder }
    }

    /// A fresh place for one story of lives.
    pub(super) fn place(&self) -> Place<'_> {
        Place { rig: self, folder: TempDir::new().unwrap() }
    }
}

/// One input file: a row a second of three shops, in the last files rows of the very first
/// seconds, and two that are dead.
fn unit_lines(unit: usize, units: usize) -> String {
    let mut text = "id,shop,amount,at\n".to_owned();
    let mut line = |id: usize, at: usize| {
        let shop = ["ams", "ber", "cph"][id % 3];
        writeln!(text, "{id},{shop},{},{at}", id % 7).unwrap();
    };
    if unit + LATE_UNITS >= units {
        for n in 0..10 {
            line(1_000_000 + unit * 100 + n, START_MS + n * 1000);
        }
    }
    for id in unit * UNIT_ROWS..(unit + 1) * UNIT_ROWS {
        line(id, START_MS + id * 1000);
    }
    // The feed refuses the first for its fields, the job the second for its id.
    writeln!(text, "{unit},ams").unwrap();
    writeln!(text, "x{unit},ams,1,{START_MS}").unwrap();
    text
}

/// Where one story happens: a data folder and the files of the sinks.
#[derive(Debug)]
pub(super) struct Place<'a> {
    rig: &'a Rig,
    folder: TempDir,
}

/// How a life ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Place<'_> {
    /// Runs the job to its end, or to where the rules end it.
    #[expect(clippy::disallowed_methods, reason = "waits for a process, with a deadline")]
    pub(super) fn live(&self, rules: &str) -> Ended {
        let home = self.folder.path();
        let file = |name: &str| File::create(home.join(name)).unwrap();
        let rig = self.rig.folder.path();
        let script = rig.join("job.sql");
        let config = rig.join("tidemill.toml");
        let arguments = ["run", script.to_str().unwrap(), "--config", config.to_str().unwrap()];
        let arguments = [&arguments[..], &["--data-dir", "data", "--format", "csv"]].concat();
        let mut command = tidemill(home, &arguments);
        command.stdout(file("stdout")).stderr(file("stderr"));
        command.env("TIDEMILL_FAILPOINTS", rules);
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("'{rules}': still running after {PATIENCE:?}: {}", self.text("stderr"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.text("stdout");
        let own = stdout.split_once(&format!("{MARKER}\n")).map_or("", |(_, own)| own);
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: own.to_owned(),
            stderr: self.text("stderr"),
        }
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the whole story gave, once a life came to the job's end.
    pub(super) fn results(&self, last: &Ended) -> Results {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let data = self.folder.path().join("data");
        let topics = runtime.block_on(Topics::read(&data.join("broker")));
        let mut sixes: Vec<String> = self.text("sixes.jsonl").lines().map(str::to_owned).collect();
        sixes.sort();
        Results {
            selects: last.stdout.clone(),
            totals: self.text("totals.csv"),
            sixes,
            fives: topics.payloads("fives", &[]),
            alerts: topics.payloads("alerts", &[]),
            // The time and the place of a record, and the id made of it, differ from run to run.
            dead: topics
                .payloads("events.dead", &["at", "timestamp_ms", "partition", "offset", "id"]),
            late: topics.payloads("events.late", &["at", "partition", "offset", "watermark"]),
            rows: topics.payloads("events", &[]),
            counters: newest_counters(&data.join("bucket/commits/events")),
        }
    }
}

/// Everything a job shows to the outside; equal for two stories of the same input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Results {
    selects: String,
    totals: String,
    sixes: Vec<String>,
    fives: Vec<String>,
    alerts: Vec<String>,
    dead: Vec<String>,
    late: Vec<String>,
    rows: Vec<String>,
    counters: BTreeMap<String, u64>,
}

impl Results {
    /// The job did all it is here for.
    pub(super) fn assert_rich(&self, units: usize) {
        let rows = units * UNIT_ROWS;
        assert_eq!(self.rows.len(), rows + 10 * LATE_UNITS + units, "{}", self.rows.len());
        assert_eq!(self.dead.len(), 2 * units, "{:?}", self.dead);
        assert_eq!(self.late.len(), 10 * LATE_UNITS * 3, "{} late", self.late.len());
        let extra = |unit: usize| (0..10).map(move |n| 1_000_000 + unit * 100 + n);
        let ids = (0..rows).chain((units - LATE_UNITS..units).flat_map(extra));
        assert_eq!(self.sixes.len(), ids.filter(|id| id % 7 == 6).count());
        assert!(self.alerts.len() >= 3, "{} alerts", self.alerts.len());
        assert_eq!(self.totals.lines().count(), 1 + rows.div_ceil(60));
        assert!(self.selects.lines().count() > rows / 20, "{}", self.selects);
    }

    /// With the counters of another result: a query that failed has left its job, and with it
    /// the counters that are compared.
    pub(super) fn with_counters_of(mut self, other: &Self) -> Self {
        self.counters.clone_from(&other.counters);
        self
    }

    /// Where two results differ, in words.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let mut found = String::new();
        let mut lines = |what: &str, left: &[String], right: &[String]| {
            if left == right {
                return;
            }
            let (few, many) = (left.iter().collect::<BTreeSet<_>>(), right.iter().collect());
            let missing: Vec<_> = few.difference(&many).take(3).collect();
            let extra: Vec<_> = many.difference(&few).take(3).collect();
            let (expected, counted) = (left.len(), right.len());
            let text =
                format!("{what}: {counted}, not {expected}; missing {missing:?}, new {extra:?}");
            found.push_str(&text);
            found.push('\n');
        };
        let split = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        lines("rows of the views", &split(&self.selects), &split(&other.selects));
        lines("lines of totals.csv", &split(&self.totals), &split(&other.totals));
        lines("lines of sixes.jsonl", &self.sixes, &other.sixes);
        lines("records of fives", &self.fives, &other.fives);
        lines("alerts", &self.alerts, &other.alerts);
        lines("dead rows", &self.dead, &other.dead);
        lines("late rows", &self.late, &other.late);
        lines("rows fed", &self.rows, &other.rows);
        if self.counters != other.counters {
            write!(found, "counters: {:?}, not {:?}", other.counters, self.counters).unwrap();
        }
        (self != other).then_some(found)
    }
}

/// The counters in the newest commit of a job.
fn newest_counters(folder: &Path) -> BTreeMap<String, u64> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text = fs::read_to_string(paths.last().unwrap()).unwrap();
    let commit: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    serde_json::from_value(commit["counters"].clone()).unwrap()
}

/// All records of a broker's topics.
struct Topics(BTreeMap<String, Vec<RawRecord>>);

impl Topics {
    /// Starts a broker on what a dead one left.
    async fn read(data: &Path) -> Self {
        let config = BrokerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: data.to_owned(),
            ..BrokerConfig::default()
        };
        let broker = Broker::start(config).await.unwrap();
        let brokers = broker.address().to_string();
        let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
        let mut topics = BTreeMap::new();
        for topic in ["events", "events.dead", "events.late", "fives", "alerts"] {
            topics.insert(topic.to_owned(), read_topic(&log, topic).await);
        }
        drop(log);
        broker.stop().await.unwrap();
        Self(topics)
    }

    /// The payloads of a topic, sorted, without the fields named. Panics if an id is there twice:
    /// on the wire a process that died repeats nothing.
    fn payloads(&self, topic: &str, without: &[&str]) -> Vec<String> {
        let records = &self.0[topic];
        let mut ids = BTreeSet::new();
        let mut payloads = Vec::new();
        for record in records {
            let id = identity(record);
            assert!(ids.insert(id.clone()), "topic '{topic}' has {id} twice");
            let payload = record.payload.clone().unwrap_or_default();
            payloads.push(match serde_json::from_slice::<serde_json::Value>(&payload) {
                Ok(serde_json::Value::Object(mut fields)) => {
                    fields.retain(|name, _| !without.contains(&name.as_str()));
                    serde_json::Value::Object(fields).to_string()
                }
                _ => String::from_utf8_lossy(&payload).into_owned(),
            });
        }
        payloads.sort();
        payloads
    }
}

/// What makes a record the same record: its unit and row, or its id.
fn identity(record: &RawRecord) -> String {
    let mut parts = Vec::new();
    for (name, value) in &record.headers {
        if name.starts_with("tm-") {
            parts.push(format!("{name}={}", value.escape_ascii()));
        }
    }
    assert!(!parts.is_empty(), "a record has no identity: {record:?}");
    parts.join(" ")
}

/// Every record of a topic, none if it is not there.
pub(super) async fn read_topic(log: &KafkaLog, topic: &str) -> Vec<RawRecord> {
    if log.partitions(topic).await.unwrap().is_none() {
        return Vec::new();
    }
    let marks = log.watermarks(topic).await.unwrap();
    let from = marks.iter().map(|(id, (low, _))| (*id, *low)).collect();
    let to = marks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let records = log.read_range(topic, &from, &to).await.unwrap();
    records.into_iter().map(|(_, record)| record).collect()
}
