//! F5: processes that are stopped, replaced and continued.
//!
//! One bucket and one broker, a stream that never pauses, and one service after the other. Each is
//! stopped with SIGSTOP, at a random moment or exactly at a fail point; the next one takes the job
//! over and commits; then the old one goes on where it stood. It must find out before it makes
//! anything true, say so, and leave everything as it is: no commit of an older generation after one
//! of a newer, no service fenced that was not replaced, every row counted once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_contract::{LogWriter, PartitionId, ProduceRecord};

use super::crash::read_topic;
use super::is_long;
use crate::cli::{finish, signal, tidemill};

/// Longest wait for anything a service should do within a second.
const PATIENCE: Duration = Duration::from_secs(90);
/// 2024-01-01T00:00:00Z in milliseconds.
const START_MS: i64 = 1_704_067_200_000;
/// Rows of the stream produced at once, and the pause after them.
const BURST_ROWS: i64 = 10;
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// Where services stop, and at which hit: those of a job at work and those of a take-over.
const PLACES: &[(&str, u32)] = &[
    ("publish.before_topics", 4),
    ("publish.appended", 3),
    ("commit.before_create", 4),
    ("publish.before_file", 3),
    ("commit.after_create", 5),
    ("publish.file_opened", 4),
    ("recover.before_take_over", 1),
    ("publish.before_table", 2),
    ("publish.file_written", 3),
    ("recover.rolled_forward", 1),
    ("upload.after_state", 4),
    ("publish.after_topics", 3),
    ("recover.taken_over", 1),
    ("ingest.pushed", 9),
    ("publish.after_files", 3),
    ("recover.opened", 1),
];

const SCRIPT: &str = "
CREATE SOURCE events (
  id BIGINT NOT NULL, shop TEXT, amount BIGINT, at BIGINT, ts AS to_timestamp_millis(at),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector'='kafka', 'topic'='events', 'format'='json', 'topic.partitions'='2');
CREATE MATERIALIZED VIEW per_minute AS
SELECT window_start, window_end, shop, count(*) AS n, sum(amount) AS total
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, shop;
CREATE SINK fives WITH ('connector'='kafka', 'topic'='fives', 'key.fields'='shop')
AS SELECT id, shop FROM events WHERE amount = 5;
CREATE SINK sixes WITH ('connector'='filesystem', 'path'='$HOME/sixes.jsonl', 'format'='json')
AS SELECT id, shop FROM events WHERE amount = 6;
CREATE SINK totals WITH ('connector'='filesystem', 'path'='$HOME/totals.csv', 'format'='csv')
AS SELECT window_start, count(*) AS n, sum(amount) AS total
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
CREATE ALERT busy ON per_minute WHEN total > 60 BY shop;
";

const CONFIG: &str = "
[state]
commit_interval = \"20ms\"
flush_interval = \"100ms\"
flush_rows = 50
";

/// What all services share, and the stream.
struct World {
    folder: TempDir,
    brokers: String,
    started: u32,
    commits: Commits,
}

/// Every commit that was ever seen: pruning takes old ones away.
#[derive(Default)]
struct Commits(BTreeMap<u64, (String, u64)>);

impl Commits {
    /// Reads what is new.
    fn look(&mut self, folder: &Path) {
        for epoch in self.0.len() as u64 + 1.. {
            let Ok(text) = fs::read_to_string(folder.join(format!("{epoch:020}.json"))) else {
                break;
            };
            let line = text.lines().next().unwrap();
            let commit: serde_json::Value = serde_json::from_str(line).unwrap();
            let writer = commit["writer"].as_str().unwrap().to_owned();
            self.0.insert(epoch, (writer, commit["generation"].as_u64().unwrap()));
        }
    }

    fn newest(&self) -> (String, u64) {
        self.0.last_key_value().map(|(_, found)| found.clone()).unwrap_or_default()
    }

    /// Commits by a writer after one of a newer generation.
    fn stale(&self) -> usize {
        let mut newest = 0;
        let mut stale = 0;
        for (_, generation) in self.0.values() {
            stale += usize::from(*generation < newest);
            newest = newest.max(*generation);
        }
        stale
    }

    fn count(&self, writer: &str) -> usize {
        self.0.values().filter(|(found, _)| found == writer).count()
    }
}

/// A service as a process; it does not outlive the test.
struct Service {
    child: Child,
    stderr: PathBuf,
    rules: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("a service may be left: {error}");
        }
    }
}

impl Service {
    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    fn is_fenced(&self) -> bool {
        self.said().lines().any(|line| line.contains("job ends") && line.contains("TM702"))
    }

    /// The kernel says that every thread stands still.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    fn url(&self) -> Option<String> {
        let said = self.said();
        let rest = said.split("listening on ").nth(1)?;
        said.contains("tidemill: ready").then(|| rest.split(';').next().unwrap().to_owned())
    }
}

/// Looks until a condition holds.
#[expect(clippy::disallowed_methods, reason = "polls a condition, with a deadline")]
fn until(what: &str, services: &[&Service], mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            let said: Vec<String> = services
                .iter()
                .map(|service| format!("[{}] {}", service.rules, service.said()))
                .collect();
            panic!("not in time: {what}\n{}", said.join("\n----\n"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl World {
    fn home(&self) -> &Path {
        self.folder.path()
    }

    fn start(&mut self, rules: &str) -> Service {
        self.started += 1;
        let data = format!("process-{}", self.started);
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--kafka-brokers", &self.brokers];
        let place = ["--data-dir", &data, "--bucket", "bucket"];
        self.spawn(&[&arguments[..], &place].concat(), rules)
    }

    fn spawn(&self, arguments: &[&str], rules: &str) -> Service {
        let stderr = self.home().join(format!("stderr-{}", self.started));
        let mut command = tidemill(self.home(), arguments);
        command.stdout(Stdio::null()).stderr(File::create(&stderr).unwrap());
        command.env("TIDEMILL_FAILPOINTS", rules);
        Service { child: command.spawn().unwrap(), stderr, rules: rules.to_owned() }
    }

    fn look(&mut self) -> (String, u64) {
        self.commits.look(&self.home().join("bucket/commits/events"));
        self.commits.newest()
    }

    /// Waits until this service has taken over from `before` and committed more than that; or
    /// stands still at its fail point. Gives what the newest commit says then.
    fn await_work(&mut self, service: &Service, before: &(String, u64)) -> (String, u64) {
        let mut newest = before.clone();
        until("the next service commits", &[service], || {
            assert!(!service.is_fenced(), "the newest service was fenced: {}", service.said());
            newest = self.look();
            let works = newest.0 != before.0 && self.commits.count(&newest.0) > 2;
            works || service.is_stopped()
        });
        newest
    }

    fn sql(&self, service: &Service, arguments: &[&str]) -> String {
        let url = service.url().unwrap();
        let arguments = [&["sql", "--url", &url, "--format", "csv"][..], arguments].concat();
        let ended = finish(tidemill(self.home(), &arguments));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    }
}

/// A row a second of event time, alternately in two partitions, as fast as the pause lets it.
async fn stream(log: KafkaLog, next: Arc<AtomicI64>, stop: Arc<AtomicBool>) {
    let writer = log.writer().unwrap();
    while !stop.load(Ordering::Acquire) {
        let from = next.load(Ordering::Acquire);
        for id in from..from + BURST_ROWS {
            writer.append("events", row(id)).await.unwrap();
        }
        writer.flush().await.unwrap();
        next.store(from + BURST_ROWS, Ordering::Release);
        tokio::time::sleep(BURST_PAUSE).await;
    }
}

fn row(id: i64) -> ProduceRecord {
    record(id % 2, id, id % 7, START_MS + id * 1000)
}

fn record(partition: i64, id: i64, amount: i64, at: i64) -> ProduceRecord {
    let shop = shop(id);
    let text = format!("{{\"id\":{id},\"shop\":\"{shop}\",\"amount\":{amount},\"at\":{at}}}");
    ProduceRecord {
        partition: i32::try_from(partition).ok().map(PartitionId),
        key: None,
        payload: Some(Bytes::from(text)),
        timestamp_ms: None,
        headers: Vec::new(),
    }
}

fn shop(id: i64) -> &'static str {
    ["ams", "ber", "cph"][usize::try_from(id % 3).unwrap()]
}

/// The broker and the stream, in this process, for as long as the value lives.
struct Stream {
    runtime: tokio::runtime::Runtime,
    broker: Option<Broker>,
    log: KafkaLog,
    next: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Stream {
    fn start(folder: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = BrokerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.join("broker"),
            ..BrokerConfig::default()
        };
        let broker = runtime.block_on(Broker::start(config)).unwrap();
        let brokers = broker.address().to_string();
        let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
        runtime.block_on(log.ensure_topic("events", 2, &[])).unwrap();
        let (next, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = runtime.spawn(stream(log.clone(), Arc::clone(&next), Arc::clone(&stop)));
        Self { runtime, broker: Some(broker), log, next, stop, task: Some(task) }
    }

    /// Ends the stream with a row far ahead in each partition; gives the number of rows before.
    fn end(&mut self) -> i64 {
        self.stop.store(true, Ordering::Release);
        self.runtime.block_on(self.task.take().unwrap()).unwrap();
        let rows = self.next.load(Ordering::Acquire);
        self.runtime.block_on(async {
            let writer = self.log.writer().unwrap();
            for partition in 0..2 {
                let at = START_MS + (rows + 86_400) * 1000;
                writer.append("events", record(partition, rows, 0, at)).await.unwrap();
            }
            writer.flush().await.unwrap();
        });
        rows
    }

    /// Payload field `id` of each record of a topic, repeats of an outbox id left out; and how many
    /// repeats there were.
    fn ids(&self, topic: &str) -> (Vec<i64>, usize) {
        let records = self.runtime.block_on(read_topic(&self.log, topic));
        let mut by_id = BTreeMap::new();
        let count = records.len();
        for record in records {
            let is_id = |header: &&(String, Bytes)| header.0 == "tm-id";
            let id = record.headers.iter().find(is_id).unwrap().1.clone();
            let payload = record.payload.unwrap();
            let known = by_id.entry(id).or_insert_with(|| payload.clone());
            assert_eq!(*known, payload, "one id, two contents");
        }
        let repeats = count - by_id.len();
        let field = |payload: &Bytes| {
            let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
            value["id"].as_i64().unwrap_or_default()
        };
        let mut ids: Vec<i64> = by_id.values().map(field).collect();
        ids.sort_unstable();
        (ids, repeats)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(broker) = self.broker.take() {
            drop(self.runtime.block_on(broker.stop()));
        }
    }
}

fn world() -> (Stream, World, Service) {
    let folder = TempDir::new().unwrap();
    let stream = Stream::start(folder.path());
    fs::write(folder.path().join("tidemill.toml"), CONFIG).unwrap();
    let script = SCRIPT.replace("$HOME", folder.path().to_str().unwrap());
    fs::write(folder.path().join("job.sql"), script).unwrap();
    let brokers = stream.broker.as_ref().unwrap().address().to_string();
    let mut world = World { folder, brokers, started: 0, commits: Commits::default() };
    // Registered before anything runs, so that all of it is one job.
    let arguments = ["run", "job.sql", "--kafka-brokers", &world.brokers];
    let place = ["--data-dir", "process-0", "--bucket", "bucket"];
    let register = world.spawn(&[&arguments[..], &place].concat(), "");
    until("the first commit", &[&register], || !world.look().0.is_empty());
    drop(register);
    let first = world.start("");
    (stream, world, first)
}

/// A pause that differs from turn to turn, without a clock or a seed to write down.
fn moment(turn: u32) -> Duration {
    Duration::from_millis(u64::from(turn.wrapping_mul(2_654_435_761) >> 20) % 150)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a stop comes at a time, not at an event")]
fn a_service_that_comes_back_from_the_dead_changes_nothing() {
    let started = Instant::now();
    let turns: u32 = if is_long() { 500 } else { 20 };
    let (mut stream, mut world, mut current) = world();
    let before = world.look();
    world.await_work(&current, &before);
    let mut fenced = 0;
    let mut asleep: Vec<Service> = Vec::new();
    for turn in 0..turns {
        // Every other service stops by itself at a chosen step, the others at any moment.
        if current.rules.is_empty() {
            std::thread::sleep(moment(turn));
            signal(&current.child, "-STOP");
        }
        until("the service stands still", &[&current], || current.is_stopped());
        assert!(!current.is_fenced(), "fenced though nobody replaced it: {}", current.said());
        let before = world.look();
        let (place, hit) = PLACES[turn as usize / 2 % PLACES.len()];
        let rules = if turn % 2 == 0 { format!("{place}=stop@{hit}") } else { String::new() };
        let next = world.start(&rules);
        let newest = world.await_work(&next, &before);
        asleep.push(std::mem::replace(&mut current, next));
        if newest.0 == before.0 {
            continue; // The newer one stopped before it had anything committed.
        }
        for old in asleep.drain(..) {
            signal(&old.child, "-CONT");
            until("the old service is fenced", &[&old], || old.is_fenced());
            fenced += 1;
        }
    }
    // The last one goes on to the end of the stream.
    if !current.rules.is_empty() {
        until("the last service stands still", &[&current], || current.is_stopped());
        signal(&current.child, "-CONT");
    }
    let rows = stream.end();
    check(&stream, &mut world, &current, rows);
    let (stale, commits) = (world.commits.stale(), world.commits.0.len());
    assert_eq!(stale, 0, "commits by a stale generation");
    let (_, repeats) = stream.ids("fives");
    let time = started.elapsed().as_secs();
    println!(
        "F5: {turns} take-overs, {fenced} services continued and fenced, {stale} of {commits} \
         commits stale, 0 false fences, {repeats} repeated ids on the wire, {rows} rows, {time} s"
    );
}

/// Everything the rows of the stream must have given, and nothing else.
fn check(stream: &Stream, world: &mut World, service: &Service, rows: i64) {
    until("the service is ready", &[service], || service.url().is_some());
    let total = "SELECT coalesce(sum(n), 0) AS n FROM per_minute WHERE is_final";
    until("every row is counted", &[service], || {
        assert!(!service.is_fenced(), "the last service was fenced: {}", service.said());
        world.sql(service, &["-c", total]).lines().last() == Some(&rows.to_string())
    });
    let mut expected = BTreeMap::<(i64, &str), (i64, i64)>::new();
    for id in 0..rows {
        let entry = expected.entry((id / 60, shop(id))).or_default();
        entry.0 += 1;
        entry.1 += id % 7;
    }
    let query = "SELECT n, total FROM per_minute WHERE is_final ORDER BY window_start, shop";
    let found = world.sql(service, &["-c", query]);
    let lines: Vec<String> = expected.values().map(|(n, total)| format!("{n},{total}")).collect();
    assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), lines);

    // What is in the log and in the files comes a moment after the commit.
    let amount = |wanted: i64| (0..rows).filter(|id| id % 7 == wanted).collect::<Vec<_>>();
    until("every five is in its topic", &[service], || {
        stream.ids("fives").0.len() >= amount(5).len()
    });
    assert_eq!(stream.ids("fives").0, amount(5));
    let sixes = || {
        let text = fs::read_to_string(world.home().join("sixes.jsonl")).unwrap_or_default();
        let mut ids: Vec<i64> = text.lines().filter_map(id_of).collect();
        ids.sort_unstable();
        ids
    };
    until("every six is in its file", &[service], || sixes().len() >= amount(6).len());
    assert_eq!(sixes(), amount(6));
    let totals = || {
        let text = fs::read_to_string(world.home().join("totals.csv")).unwrap_or_default();
        let counts = text.lines().skip(1).filter_map(|line| line.split(',').nth(1));
        counts.map(str::to_owned).collect::<Vec<_>>()
    };
    let count = |minute: i64| (rows - minute * 60).min(60).to_string();
    let expected: Vec<String> = (0..(rows + 59) / 60).map(count).collect();
    until("every minute is in its file", &[service], || totals().len() >= expected.len());
    assert_eq!(totals(), expected);
    world.look();
}

/// The id in a whole line; a line that is being written has none yet.
fn id_of(line: &str) -> Option<i64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?["id"].as_i64()
}

/// Services that start at the same moment: one has the job, the other says that it has not.
#[test]
fn of_two_services_that_start_together_one_goes_on() {
    let rounds = if is_long() { 50 } else { 3 };
    let (mut stream, mut world, first) = world();
    let before = world.look();
    world.await_work(&first, &before);
    let mut current = first;
    for _ in 0..rounds {
        drop(current);
        let pair = [world.start(""), world.start("")];
        until("one of two is fenced", &[&pair[0], &pair[1]], || {
            pair.iter().any(Service::is_fenced)
        });
        let [left, right] = pair;
        let (winner, loser) = if left.is_fenced() { (right, left) } else { (left, right) };
        world.look();
        let before = world.commits.0.len();
        until("the other one goes on", &[&winner, &loser], || {
            world.look();
            world.commits.0.len() > before + 3
        });
        assert!(!winner.is_fenced(), "both were fenced: {}", winner.said());
        current = winner;
    }
    let rows = stream.end();
    check(&stream, &mut world, &current, rows);
    assert_eq!(world.commits.stale(), 0);
}
