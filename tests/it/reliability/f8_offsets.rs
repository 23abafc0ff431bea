//! F8: a topic that loses records, is cut, is made anew, grows or has gaps, while the job is down
//! and while it reads. Nothing of it passes silently: the exact ranges are reported, the job waits
//! for a choice, and after it the result is that of the rows that were read.
//!
//! Nine faults, each at a restart and while running, on the embedded broker with random sizes;
//! those that can be made there also on Apache Kafka. Scenarios run side by side, each with its own
//! topic and its own pipeline: most of one is waiting.

mod stand;
mod surgery;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use tidemill_contract::{Loss, LossKind};

use super::is_long;
use crate::backends::{Server, free_port};
use stand::{Dice, PATIENCE, Partition, Record, SOURCE, Stand};

/// What happens to the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Retention,
    Truncated,
    Regrown,
    Shorter,
    Equal,
    Longer,
    Grown,
    Compacted,
    Tombstones,
}

/// What the job does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Restart,
    Running,
}

/// Scenarios of one test that run at the same time.
const SIDE_BY_SIDE: usize = 4;

/// One run of one fault.
#[derive(Debug, Clone, Copy)]
struct Case {
    fault: Fault,
    when: When,
    seed: u64,
}

/// Repetitions of a scenario.
fn repetitions() -> u64 {
    if is_long() { 10 } else { 1 }
}

/// Partition and record numbers before the fault.
struct Before {
    held: BTreeMap<i32, Partition>,
    ends: BTreeMap<i32, i64>,
}

async fn scenario(case: Case, cluster: Option<&str>) {
    let Case { fault, when, seed } = case;
    let what = format!("{fault:?} {when:?} seed {seed}");
    let mut dice = Dice::new(seed * 977 + fault as u64 * 31 + when as u64 + 1);
    let partitions = i32::try_from(dice.roll(1, 4)).unwrap();
    let topic = format!("{SOURCE}-{fault:?}-{when:?}-{seed}").to_lowercase();
    let mut stand = match cluster {
        Some(brokers) => Stand::on_cluster(brokers, &topic, partitions).await,
        None => Stand::new(partitions, "").await,
    };
    for partition in 0..partitions {
        let count = dice.roll(20, 300);
        stand.produce(partition, count).await;
    }
    stand.open().await;
    stand.catch_up().await;

    let is_remade = matches!(fault, Fault::Shorter | Fault::Equal | Fault::Longer);
    let is_cut = matches!(fault, Fault::Truncated | Fault::Regrown);
    let is_paused = when == When::Running && (fault == Fault::Retention || dice.coin());
    match when {
        When::Restart => stand.close().await,
        When::Running if is_paused => drop(stand.execute("PAUSE per_minute").await),
        When::Running => {}
    }
    if when == When::Restart || is_paused {
        // So many that they are not all fetched ahead.
        for partition in 0..partitions {
            let count = dice.roll(20, 300);
            stand.produce(partition, count).await;
        }
    }
    let before = Before { held: stand.held.clone(), ends: stand.ends.clone() };
    strike(&mut stand, fault, &mut dice).await;
    match when {
        When::Restart => stand.open().await,
        When::Running if is_paused => drop(stand.execute("RESUME per_minute").await),
        When::Running => {}
    }
    if is_remade || is_cut || fault == Fault::Retention {
        decide(&mut stand, fault, &before, &mut dice, &what).await;
    }
    for partition in 0..i32::try_from(stand.ends.len()).unwrap() {
        let count = dice.roll(1, 100);
        stand.produce(partition, count).await;
    }
    stand.catch_up().await;
    stand.check_result(&what).await;
    let losses = stand.job().losses;
    if dice.coin() {
        stand.close().await;
        stand.open().await;
        stand.catch_up().await;
        stand.check_result(&what).await;
        assert_eq!(stand.job().losses, losses, "{what}");
    }
    if cluster.is_some() {
        stand.delete_topic().await;
    }
    stand.end().await;
}

/// Does it to the topic, and to the model of it.
async fn strike(stand: &mut Stand, fault: Fault, dice: &mut Dice) {
    let ends = stand.ends.clone();
    match fault {
        Fault::Retention => {
            // At least one partition loses what was not read.
            for (partition, end) in &ends {
                let read = stand.cursor[partition];
                let before = if *partition == 0 { *end } else { dice.roll(read / 2, end + 1) };
                stand.delete_records(*partition, before).await;
            }
        }
        Fault::Truncated | Fault::Regrown => cut(stand, fault, dice).await,
        Fault::Shorter | Fault::Equal | Fault::Longer => remake(stand, fault, dice).await,
        Fault::Grown => {
            let partitions = i32::try_from(ends.len()).unwrap();
            let more = partitions + i32::try_from(dice.roll(1, 4)).unwrap();
            stand.add_partitions(more).await;
        }
        Fault::Compacted => {
            let mut gone = BTreeMap::new();
            for (partition, end) in &ends {
                // The last record always stays.
                let offsets: BTreeSet<i64> = (0..end - 1).filter(|_| dice.roll(0, 3) > 0).collect();
                stand.held.get_mut(partition).unwrap().retain(|id, _| !offsets.contains(id));
                gone.insert(*partition, offsets);
            }
            stand
                .behind_its_back(|folder| {
                    for (partition, gone) in &gone {
                        surgery::compact(folder, *partition, gone);
                    }
                })
                .await;
        }
        Fault::Tombstones => {
            for partition in ends.keys() {
                let count = dice.roll(1, 200);
                let first = 10_000 + dice.roll(0, 1000);
                let records: Vec<Record> = (0..count)
                    .map(|n| (dice.roll(0, 3) == 0).then_some(first + n))
                    .chain([None])
                    .collect();
                stand.append(*partition, &records, None).await;
            }
        }
    }
}

/// The tail of every partition goes; sometimes others write there, beyond what was read, before
/// anybody looks.
async fn cut(stand: &mut Stand, fault: Fault, dice: &mut Dice) {
    let mut kept = BTreeMap::new();
    let wanted: BTreeMap<i32, i64> =
        stand.cursor.iter().map(|(partition, read)| (*partition, dice.roll(0, *read))).collect();
    let kept_ends = &mut kept;
    stand
        .take_down(|folder| {
            for (partition, end) in wanted {
                kept_ends.insert(partition, surgery::cut(folder, partition, end));
            }
        })
        .await;
    for (partition, end) in &kept {
        stand.held.get_mut(partition).unwrap().retain(|offset, _| offset < end);
    }
    stand.ends = kept.clone();
    stand.cut_at = kept;
    if fault == Fault::Regrown {
        let beyond = |(id, read): (&i32, &i64)| (*id, read - stand.ends[id] + dice.roll(1, 100));
        let counts = stand.cursor.iter().map(beyond).collect();
        stand.produce_unseen(&counts).await;
    }
    stand.bring_up().await;
}

/// The topic is deleted and made anew; sometimes with the very records it had.
async fn remake(stand: &mut Stand, fault: Fault, dice: &mut Dice) {
    let old = stand.held.clone();
    let is_twin = dice.coin();
    stand.delete_topic().await;
    stand.make_topic(i32::try_from(old.len()).unwrap()).await;
    for (partition, records) in old {
        let read = stand.cursor[&partition];
        let count = match fault {
            Fault::Shorter => dice.roll(0, read),
            Fault::Equal => read,
            _ => read + dice.roll(1, 300),
        };
        if is_twin {
            let twins = records.values().cycle().take(usize::try_from(count).unwrap());
            let twins: Vec<Record> = twins.copied().collect();
            stand.append(partition, &twins, None).await;
        } else {
            stand.produce(partition, count).await;
        }
    }
}

/// The job has stopped and says exactly what is lost; the choice is taken, and is true at once.
async fn decide(stand: &mut Stand, fault: Fault, before: &Before, dice: &mut Dice, what: &str) {
    stand.until(what, |job| job.state == "data loss").await;
    let next = stand.committed().await;
    if fault == Fault::Regrown {
        // What follows the place of the job is of the new tail.
        let held = stand.held.clone();
        stand.account(&held, &next);
    } else {
        stand.account(&before.held, &next);
    }
    let losses = stand.open_losses();
    let expected = expected_losses(stand, fault, before, &next);
    check_report(stand, fault, &losses, &expected, what).await;

    let to_the_end = dice.coin();
    let from = if to_the_end { "LATEST" } else { "EARLIEST" };
    let lost_before = stand.job().records_lost;
    let message = stand.execute(&format!("RECOVER SOURCE events FROM {from}")).await;
    let accepted = stand.commit().await.unwrap().losses;
    assert!(accepted.len() >= losses.len(), "{what}: {accepted:?}");
    for loss in &accepted {
        assert!(message.contains(&loss.to_string()), "{what}: {message}");
        assert!(loss.accepted_at.is_some(), "{what}");
    }
    let counted: u64 = accepted.iter().map(|loss| loss.lost).sum();
    stand.until(what, |job| job.records_lost == lost_before + counted).await;
    for loss in &losses {
        let is_it = |other: &&Loss| (other.partition, other.kind) == (loss.partition, loss.kind);
        let resumed = accepted.iter().find(is_it).unwrap().resumed_at.unwrap();
        let low = stand.held[&loss.partition].keys().next().copied();
        match (fault, to_the_end) {
            (_, true) => assert_eq!(resumed, stand.ends[&loss.partition], "{what}"),
            (Fault::Truncated | Fault::Regrown, false) => assert_eq!(resumed, loss.from, "{what}"),
            (_, false) => {
                assert_eq!(resumed, low.unwrap_or(stand.ends[&loss.partition]), "{what}");
            }
        }
        stand.cursor.insert(loss.partition, resumed);
    }
}

/// By partition: from and to; of a log that is gone, to is as far as it can have been known to reach.
fn expected_losses(
    stand: &Stand,
    fault: Fault,
    before: &Before,
    next: &BTreeMap<i32, i64>,
) -> BTreeMap<i32, (i64, i64)> {
    let mut expected = BTreeMap::new();
    for (partition, next) in next {
        let end = stand.ends[partition];
        match fault {
            Fault::Retention => {
                let low = stand.held[partition].keys().next().copied().unwrap_or(end);
                if low > *next {
                    expected.insert(*partition, (*next, low));
                }
            }
            _ => {
                // As far as the old log was known to reach.
                expected.insert(*partition, (*next, before.ends[partition].max(*next)));
            }
        }
    }
    expected
}

async fn check_report(
    stand: &Stand,
    fault: Fault,
    losses: &[Loss],
    expected: &BTreeMap<i32, (i64, i64)>,
    what: &str,
) {
    let found: BTreeSet<i32> = losses.iter().map(|loss| loss.partition).collect();
    assert_eq!(found, expected.keys().copied().collect(), "{what}: all of them: {losses:?}");
    let error = stand.job().error.unwrap();
    let listed = stand.execute("SHOW LOSSES").await;
    assert_eq!(listed.matches("\"open\"").count(), losses.len(), "{what}: {listed}");
    let commit = stand.commit().await.unwrap();
    for loss in losses {
        let (from, to) = expected[&loss.partition];
        let progress = &commit.partitions[&loss.partition];
        let known_end = progress.end.unwrap_or(from).max(from);
        assert!(error.contains(&loss.to_string()), "{what}: {error}");
        match fault {
            Fault::Retention => {
                assert_eq!(
                    (loss.kind, loss.from, loss.to),
                    (LossKind::Expired, from, to),
                    "{what}"
                );
                assert_eq!(loss.lost, u64::try_from(to - from).unwrap(), "{what}");
            }
            Fault::Truncated | Fault::Regrown => {
                // Records the job has not marked may be the same: they count as gone.
                let cut_at = stand.cut_at[&loss.partition];
                let marks = progress.marks.iter().map(|mark| mark.offset);
                let same = marks.filter(|offset| *offset < cut_at).max();
                let begin = same.map_or(0, |same| same + 1);
                assert_eq!((loss.kind, loss.from, loss.to), (LossKind::Cut, begin, known_end));
                assert_eq!(loss.lost, u64::try_from(known_end - from).unwrap(), "{what}");
            }
            _ => {
                let found = (loss.kind, loss.from, loss.to);
                assert_eq!(found, (LossKind::Remade, from, known_end), "{what}");
                assert!(known_end <= to, "{what}: {loss:?} of {to}");
            }
        }
    }
    // Nothing is read on meanwhile.
    let read = stand.job().rows_in;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stand.job().rows_in, read, "{what}");
}

/// Every fault at a restart and while running, as often as is asked for.
async fn all(faults: &[Fault], first_seed: u64, cluster: Option<&str>) {
    let mut cases = Vec::new();
    for seed in first_seed..first_seed + repetitions() {
        for fault in faults.iter().copied() {
            cases.push(Case { fault, when: When::Restart, seed });
            cases.push(Case { fault, when: When::Running, seed });
        }
    }
    let count = cases.len();
    let started = Instant::now();
    let running = stream::iter(cases).map(|case| async move {
        let started = Instant::now();
        Box::pin(scenario(case, cluster)).await;
        let on = if cluster.is_some() { "Apache Kafka" } else { "the embedded broker" };
        eprintln!("F8 on {on}: {case:?} in {:.1?}", started.elapsed());
    });
    let done = running.buffer_unordered(SIDE_BY_SIDE).count().await;
    assert_eq!(done, count);
    eprintln!("F8 {faults:?}: {done} scenarios, none silent, in {:.1?}", started.elapsed());
}

macro_rules! scenarios {
    ($($name:ident: $fault:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            all(&[Fault::$fault], 0, None).await;
        })*
    };
}

scenarios! {
    retention_is_reported_to_the_record: Retention;
    a_cut_log_is_reported: Truncated;
    a_log_that_was_cut_and_grew_again_is_reported: Regrown;
    a_topic_made_anew_and_shorter_is_reported: Shorter;
    a_topic_made_anew_and_as_long_is_reported: Equal;
    a_topic_made_anew_and_longer_is_reported: Longer;
    new_partitions_are_read_from_their_start: Grown;
    gaps_of_compaction_are_no_loss: Compacted;
    tombstones_are_counted: Tombstones;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_kafka_is_no_different() {
    let Some(kafka) = Server::start("kafka.sh", free_port(22_000, 1), "TIDEMILL_REQUIRE_KAFKA")
    else {
        return;
    };
    let faults = [
        Fault::Retention,
        Fault::Shorter,
        Fault::Equal,
        Fault::Longer,
        Fault::Grown,
        Fault::Tombstones,
    ];
    all(&faults, 100, Some(kafka.printed.trim())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_partitions_are_read_while_the_job_is_busy() {
    let mut stand = Stand::new(1, "'scan.startup.mode'='latest-offset',").await;
    stand.produce(0, 50).await;
    stand.open().await;
    // The start at the end is kept: what comes from here on is read, also after a restart.
    stand.until("the start is committed", |job| job.epoch > 0).await;
    stand.cursor.insert(0, 50);
    stand.close().await;
    stand.produce(0, 10).await;
    stand.open().await;
    stand.catch_up().await;
    stand.add_partitions(3).await;
    stand.produce(2, 20).await;
    let started = Instant::now();
    while stand.committed().await.get(&2) != Some(&20) {
        stand.produce(0, 5).await;
        assert!(started.elapsed() < PATIENCE, "{:?}", stand.job());
    }
    eprintln!("F8: new partitions were read after {:.1?}", started.elapsed());
    stand.catch_up().await;
    stand.check_result("grown while busy").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_can_be_accepted_beforehand_and_stops_nobody_else() {
    let mut stand = Stand::new(2, "'scan.on-data-loss'='earliest',").await;
    for partition in [0, 1] {
        stand.produce(partition, 100).await;
    }
    stand.open().await;
    stand.catch_up().await;
    let second =
        "CREATE SOURCE other (id BIGINT NOT NULL, at BIGINT, ts AS to_timestamp_millis(at),
          WATERMARK FOR ts AS ts)
        WITH ('connector'='kafka', 'topic'='events', 'format'='json');
        CREATE MATERIALIZED VIEW other_count AS SELECT window_start, count(*) AS n
        FROM TABLE(TUMBLE(TABLE other, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start;";
    stand.pipeline().execute(second).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while stand.pipeline().status().jobs.iter().all(|job| job.name != "other" || job.rows_in < 200)
    {
        assert!(Instant::now() < deadline, "{:?}", stand.pipeline().status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = stand.pipeline().execute("RECOVER SOURCE events FROM LATEST").await.unwrap_err();
    assert_eq!(refused.code, "TM521");
    let refused = stand.pipeline().execute("RECOVER SOURCE nobody FROM LATEST").await.unwrap_err();
    assert_eq!(refused.code, "TM301");
    stand.close().await;
    stand.produce(1, 40).await;
    stand.delete_records(1, 120).await;
    stand.open().await;
    stand.cursor.insert(1, 120);
    stand.catch_up().await;
    stand.check_result("accepted beforehand").await;
    let losses = stand.job().losses;
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert_eq!((losses[0].from, losses[0].to, losses[0].lost), (100, 120, 20));
    // The other source asks first.
    let status = stand.pipeline().status();
    assert!(status.jobs.iter().any(|job| job.name == "other"), "{status:?}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = stand.pipeline().status();
        let other = status.jobs.iter().find(|job| job.name == "other").unwrap();
        if other.state == "data loss" {
            break;
        }
        assert!(Instant::now() < deadline, "{other:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stand.produce(0, 30).await;
    stand.catch_up().await;
    stand.check_result("goes on beside a job that waits").await;
    assert_eq!(stand.job().name, SOURCE);
    stand.end().await;
}
