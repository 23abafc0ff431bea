//! F4: every kind of fault in every operation of the store, while a job commits.
//!
//! Six pipelines run side by side, one for each operation; each goes through twelve kinds of
//! fault, over several epochs each, and must give what an undisturbed run gives. Then the whole
//! store fails for a while, in each way a store can, and the job must say so and come back.

use std::time::{Duration, Instant};

use tidemill_connectors::store::guard;
use tidemill_runtime::Pipeline;

use super::is_long;
use super::rig::{Rig, quick_folder, settings};
use crate::fault::{Fault, FaultStore, Op, Timed};

const KINDS: [Fault; 12] = [
    Fault::Before,
    Fault::After,
    Fault::Hang,
    Fault::HangAfter,
    Fault::Slow(Duration::from_millis(60)),
    Fault::Cut,
    Fault::Status(403),
    Fault::Status(409),
    Fault::Status(412),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
];
/// Those that only some operations can have, with where they strike. A flipped bit is noticed in
/// what we seal; the log of a Delta table has no checksum.
const SPECIAL: [(Op, Fault, &str); 6] = [
    (Op::Get, Fault::Short, ""),
    (Op::Get, Fault::Trickle, ""),
    (Op::Get, Fault::Flip, "commits/"),
    (Op::Get, Fault::Flip, "state/"),
    (Op::Ranges, Fault::Short, ""),
    (Op::List, Fault::Stale(0), "commits/"),
];
/// What a fault's end may take to show, and its begin.
const NOTICED: Duration = Duration::from_secs(5);
/// Scheduling on a busy machine, on top of a deadline.
const SLACK: Duration = Duration::from_secs(2);

/// A pipeline over a faulty store, measured above its guard.
struct Bench {
    rig: Rig,
    faults: std::sync::Arc<FaultStore>,
    timed: Timed,
    deadline: Duration,
    _folder: tempfile::TempDir,
}

/// What came of a bench.
#[derive(Debug, Default)]
struct Figures {
    cells: usize,
    epochs: u64,
    struck: u64,
    longest: Duration,
    resumed: Duration,
    degraded: Duration,
    digest: Vec<String>,
}

async fn bench(name: &str, seed: u64) -> Bench {
    let folder = quick_folder();
    let settings = settings(folder.path());
    let limits = settings.store_limits;
    let (mut faults, mut timed) = (None, None);
    let pipeline = Pipeline::open_with(settings, |store| {
        let faulty = FaultStore::new(store, seed);
        let measured = Timed::new(guard(faulty.store(), limits));
        let store = measured.store();
        (faults, timed) = (Some(faulty), Some(measured));
        store
    });
    let pipeline = pipeline.await.unwrap();
    let log = pipeline.log().clone();
    let rig = Rig::start(name, pipeline, &log).await;
    let deadline = limits.operation_timeout;
    Bench { rig, faults: faults.unwrap(), timed: timed.unwrap(), deadline, _folder: folder }
}

impl Bench {
    /// Some epochs with this fault, then without.
    async fn cell(&mut self, op: Op, fault: Fault, prefix: &str, figures: &mut Figures) {
        let epochs = if is_long() { 50 } else { 5 };
        if op == Op::Delete {
            self.leave_garbage().await;
        }
        let (before, struck) = (self.rig.job().epoch, self.faults.struck());
        match op {
            // An epoch has few creates and many reads, and one that fails ends it.
            Op::Create | Op::Get if fault != Fault::Flip => {
                let per_mille = if op == Op::Get || is_long() { 100 } else { 250 };
                self.faults.chance(per_mille, Some(op), prefix, fault);
            }
            // These are rare.
            _ => self.faults.next(epochs, Some(op), prefix, fault),
        }
        let begun = Instant::now();
        loop {
            self.rig.produce().await;
            self.rig.until_committed().await;
            if op == Op::Ranges {
                self.rig.check(self.rig.pipeline.log()).await;
            }
            let at_start = fault == Fault::Stale(0) || (op == Op::Get && !prefix.is_empty());
            if at_start || op == Op::Delete {
                // These come at a start only. Damage is believed the third time.
                if fault == Fault::Flip {
                    self.faults.heal();
                    self.faults.next(2, Some(op), prefix, fault);
                }
                self.restart().await;
            }
            let done = self.rig.job().epoch >= before + epochs && self.faults.struck() > struck;
            if done {
                break;
            }
            let patience = Duration::from_secs(if is_long() { 600 } else { 60 });
            assert!(begun.elapsed() < patience, "{op:?} never met {fault:?}");
        }
        self.faults.heal();
        let healed = Instant::now();
        self.rig.produce().await;
        self.rig.until_committed().await;
        figures.resumed = figures.resumed.max(healed.elapsed());
        assert!(healed.elapsed() < NOTICED, "{op:?} after {fault:?}: {:?}", healed.elapsed());
        self.rig.check(self.rig.pipeline.log()).await;
        figures.cells += 1;
        figures.epochs += self.rig.job().epoch - before;
    }

    /// Makes the job begin anew from its last commit: one state object cannot be stored.
    async fn restart(&mut self) {
        self.faults.chance(1000, Some(Op::Create), "state/", Fault::Status(500));
        self.rig.produce().await;
        self.rig.until("degraded", |job| job.state == "degraded").await;
        self.faults.heal_creates();
        self.rig.until_committed().await;
    }

    /// The next start of the job finds objects to delete: those that `restart` leaves behind, one
    /// epoch later.
    async fn leave_garbage(&mut self) {
        self.restart().await;
        self.rig.produce().await;
        self.rig.until_committed().await;
    }

    /// The whole store fails for a while.
    async fn outage(&mut self, fault: Fault, figures: &mut Figures) {
        self.faults.chance(1000, None, "", fault);
        let begun = Instant::now();
        self.rig.produce().await;
        self.rig.until("degraded", |job| job.state == "degraded").await;
        figures.degraded = figures.degraded.max(begun.elapsed());
        assert!(begun.elapsed() < NOTICED, "{fault:?}: {:?}", begun.elapsed());
        let reason = self.rig.job().error;
        assert!(reason.is_some(), "{fault:?}: degraded without a reason");
        let rest = if is_long() { 10 } else { 1 };
        tokio::time::sleep(Duration::from_secs(rest)).await;
        assert_eq!(self.rig.job().state, "degraded", "{fault:?}");
        self.faults.heal();
        let healed = Instant::now();
        self.rig.until("running", |job| job.state == "running").await;
        self.rig.until_committed().await;
        figures.resumed = figures.resumed.max(healed.elapsed());
        assert!(healed.elapsed() < NOTICED, "after {fault:?}: {:?}", healed.elapsed());
        self.rig.check(self.rig.pipeline.log()).await;
        figures.cells += 1;
    }

    async fn finish(self, mut figures: Figures) -> Figures {
        let (longest, what) = self.timed.longest();
        figures.longest = longest;
        figures.struck = self.faults.struck();
        assert!(longest < self.deadline + SLACK, "{what}: an operation took {longest:?}");
        figures.digest = self.rig.check(self.rig.pipeline.log()).await;
        self.rig.pipeline.stop().await.unwrap();
        figures
    }
}

/// One operation through all kinds of fault.
async fn operation(op: Op, seed: u64) -> Figures {
    let mut bench = bench(&format!("{op:?}"), seed).await;
    let mut figures = Figures::default();
    for fault in KINDS {
        bench.cell(op, fault, "", &mut figures).await;
    }
    for (_, fault, prefix) in SPECIAL.iter().filter(|(special, ..)| *special == op) {
        bench.cell(op, *fault, prefix, &mut figures).await;
    }
    bench.finish(figures).await
}

fn report(what: &str, all: &[Figures]) {
    let sum = |get: fn(&Figures) -> u64| all.iter().map(get).sum::<u64>();
    let most = |get: fn(&Figures) -> Duration| all.iter().map(get).max().unwrap_or_default();
    eprintln!(
        "F4 {what}: {} cells, {} epochs, {} faults; longest operation {:?}, degraded after {:?}, \
         resumed after {:?}",
        all.iter().map(|figures| figures.cells).sum::<usize>(),
        sum(|figures| figures.epochs),
        sum(|figures| figures.struck),
        most(|figures| figures.longest),
        most(|figures| figures.degraded),
        most(|figures| figures.resumed),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_in_every_operation_leaves_the_result_as_it_is() {
    let tasks: Vec<_> =
        Op::ALL.into_iter().zip(7..).map(|(op, seed)| tokio::spawn(operation(op, seed))).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    // The undisturbed run over the longest input: each other is the beginning of it.
    let most = all.iter().map(|figures| figures.digest.len()).max().unwrap();
    let mut calm = bench("undisturbed", 1).await;
    let digest = loop {
        calm.rig.produce().await;
        calm.rig.until_committed().await;
        let digest = calm.rig.check(calm.rig.pipeline.log()).await;
        if digest.len() >= most {
            break digest;
        }
    };
    for figures in &all {
        assert_eq!(figures.digest, digest[..figures.digest.len()]);
    }
    calm.finish(Figures::default()).await;
    report("matrix", &all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_makes_the_job_degraded_and_it_comes_back() {
    let mut bench = bench("outage", 5).await;
    bench.rig.produce().await;
    bench.rig.until_committed().await;
    let mut figures = Figures::default();
    for status in [401, 403, 429, 500, 503] {
        bench.outage(Fault::Status(status), &mut figures).await;
    }
    for fault in [Fault::Before, Fault::After, Fault::Hang, Fault::HangAfter, Fault::Cut] {
        bench.outage(fault, &mut figures).await;
    }
    let figures = bench.finish(figures).await;
    report("outages", &[figures]);
}
