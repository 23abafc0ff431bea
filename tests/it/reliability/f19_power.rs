//! F19: the power goes at any moment, and nothing acknowledged is gone.
//!
//! The real process works under `strace`; its disk is then cut at random moments, and what was
//! not synced is dropped or torn ([`crate::fault::Disk`]). From what is left a pipeline must come
//! up, with every event whose producer was answered, every commit that was reported, and a result
//! that is right for the events that are there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_connectors::store;
use tidemill_contract::{Clock, LogWriter, SystemClock, metric};
use tidemill_runtime::Pipeline;
use tidemill_runtime::ledger::read_commit;

use super::is_long;
use super::rig::{Rig, SCRIPT, event, events_in, quick_folder, settings};
use crate::cli::tidemill;
use crate::fault::{Disk, Random, STRACE};

/// What somebody outside knew at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    at: u64,
    events: i64,
    epoch: u64,
}

/// A traced `serve`, killed when dropped.
struct Traced {
    strace: Child,
    url: String,
    brokers: String,
}

impl Drop for Traced {
    fn drop(&mut self) {
        let id = self.strace.id();
        let children = format!("/proc/{id}/task/{id}/children");
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let killed = Command::new("kill").args(["-9", child]).status();
            assert!(killed.is_ok_and(|status| status.success()));
        }
        self.strace.wait().unwrap();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn now() -> u64 {
    u64::try_from(SystemClock.now_micros()).unwrap()
}

async fn serve(folder: &Path, trace: &Path) -> Traced {
    let (http, kafka) = (free_port(), free_port());
    let listen = format!("127.0.0.1:{http}");
    let brokers = format!("127.0.0.1:{kafka}");
    let program = tidemill(folder, &["serve", "--listen", &listen, "--data-dir", "data"]);
    let mut traced = Command::new("strace");
    traced.args(STRACE).arg("-o").arg(trace).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let log = std::fs::File::create(folder.join("stderr")).unwrap();
    let strace = traced
        .env("TIDEMILL__KAFKA__LISTEN", &brokers)
        .env("TIDEMILL__STATE__COMMIT_INTERVAL", "20ms")
        .env("TIDEMILL__STATE__FLUSH_INTERVAL", "50ms")
        .env("TIDEMILL__STATE__FLUSH_ROWS", "4")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let traced = Traced { strace, url: format!("http://{listen}"), brokers };
    let deadline = Instant::now() + Duration::from_secs(120);
    while get(&format!("{}/readyz", traced.url)).await.is_none() {
        let said = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        assert!(Instant::now() < deadline, "serve does not get ready: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    traced
}

async fn get(url: &str) -> Option<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.ok()?;
    if answer.status() == 200 { answer.text().await.ok() } else { None }
}

async fn register(url: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for statement in SCRIPT.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let post = client.post(format!("{url}/api/v1/statements")).body(statement.to_owned());
        let answer = post.send().await.unwrap();
        let status = answer.status();
        assert_eq!(status, 200, "{}", answer.text().await.unwrap());
    }
}

/// The epoch of the view's job that `/metrics` tells.
async fn epoch(url: &str) -> u64 {
    let text = get(&format!("{url}/metrics")).await.unwrap_or_default();
    let is_job = |line: &&str| {
        line.starts_with(&format!("{}{{", metric::EPOCH)) && line.contains("job=\"events\"")
    };
    let line = text.lines().find(is_job);
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0)
}

/// Two lives of the process, the first ended by `kill -9`; what was known when.
async fn live(folder: &Path, trace: &Path) -> Vec<Known> {
    let pieces = if is_long() { 60 } else { 12 };
    let mut known = vec![Known::default()];
    let mut events = 0;
    for life in 0..2 {
        let serve = serve(folder, trace).await;
        if life == 0 {
            register(&serve.url).await;
        }
        let brokers = serve.brokers.clone();
        let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
        let writer = log.writer().unwrap();
        for _ in 0..pieces {
            for id in events..events + 40 {
                writer.append("events", event(id)).await.unwrap();
            }
            writer.flush().await.unwrap();
            events += 40;
            let before = known.last().map_or(0, |known| known.epoch);
            known.push(Known { at: now(), events, epoch: before });
            let deadline = Instant::now() + Duration::from_secs(60);
            while known.last().is_none_or(|known| known.epoch <= before) {
                assert!(Instant::now() < deadline, "no commit: {known:?}");
                let epoch = epoch(&serve.url).await;
                known.push(Known { at: now(), events, epoch: epoch.max(before) });
            }
        }
    }
    known
}

/// The disk at a moment: the pipeline comes up with everything that was known then.
async fn check(disk: &Disk, moment: u64, mut random: Random, known: Known) {
    let folder: TempDir = quick_folder();
    disk.after_cut(moment, &mut random, folder.path());
    let bucket = folder.path().join("bucket").to_string_lossy().into_owned();
    let bucket = store::open(&bucket, &std::collections::BTreeMap::new()).unwrap();
    if known.epoch > 0 {
        let commit = read_commit(&bucket, "events", known.epoch).await.unwrap();
        assert!(commit.is_some(), "commit {} is gone, cut at {moment}", known.epoch);
    }
    let pipeline = Pipeline::open(settings(folder.path())).await;
    let pipeline = pipeline.unwrap_or_else(|error| panic!("cut at {moment}: {error}"));
    let log = pipeline.log().clone();
    log.ensure_topic("events", 1, &[]).await.unwrap();
    let events = events_in(&log).await;
    assert!(events >= known.events, "cut at {moment}: {events} events, acknowledged {known:?}");
    let rig = Rig::start(&format!("cut at {moment}"), pipeline, &log).await;
    if events > 0 {
        rig.until_committed().await;
        rig.check(&log).await;
    }
    rig.pipeline.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let strace = Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success());
    if !strace {
        let required = std::env::var_os("TIDEMILL_REQUIRE_STRACE").is_some();
        assert!(!required, "strace is not there");
        println!("left out: there is no strace here");
        return;
    }
    let folder = quick_folder();
    let home: PathBuf = folder.path().canonicalize().unwrap();
    std::fs::create_dir(home.join("trace")).unwrap();
    let trace = home.join("trace/of");
    let known = live(&home, &trace).await;
    let disk = Disk::read(&trace, &home.join("data"));
    let cuts = if is_long() { 1000 } else { 50 };
    let mut random = Random(19);
    let started = Instant::now();
    for _ in 0..cuts {
        let moment = disk.moment(random.below(disk.len()), random.next());
        let at_moment = known.iter().rev().find(|known| known.at <= moment);
        let known = at_moment.copied().unwrap_or_default();
        check(&disk, moment, Random(random.next()), known).await;
    }
    let last = known.last().copied().unwrap_or_default();
    eprintln!(
        "F19 power: {cuts} cuts of {} calls; {} events and {} epochs acknowledged by the end; \
         0 lost, 0 undetected, in {:?}",
        disk.len(),
        last.events,
        last.epoch,
        started.elapsed()
    );
}
