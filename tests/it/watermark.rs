//! Event-time progress, judged with a clock the test sets: no threads, no log, no waiting.

use std::collections::BTreeMap;

use tidemill_contract::{Micros, Options, PartitionId, SourceSpec, Watermark, WatermarkSpec};
use tidemill_runtime::parse_duration;
use tidemill_runtime::watermark::{SourceWatermark, TimeSettings};

const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;
const A: PartitionId = PartitionId(0);
const B: PartitionId = PartitionId(1);

fn unbounded() -> TimeSettings {
    TimeSettings {
        delay: 5 * SECOND,
        idle_timeout: Some(30 * SECOND),
        max_drift: MINUTE,
        max_future_skew: Some(5 * MINUTE),
        bounded: false,
    }
}

fn bounded() -> TimeSettings {
    TimeSettings { idle_timeout: None, max_future_skew: None, bounded: true, ..unbounded() }
}

/// The broker says that nothing waits in these partitions, each at its offset 10.
fn confirmed(clock: &mut SourceWatermark, partitions: &[PartitionId], now: Micros) {
    assert!(clock.needs_confirmation(now));
    for partition in partitions {
        clock.confirm(*partition, 10, Some(10), now);
    }
    assert!(!clock.needs_confirmation(now), "asked and answered");
}

/// Both partitions known to be read to their end.
fn caught_up(clock: &mut SourceWatermark, now: Micros) {
    for partition in [A, B] {
        clock.position(partition, 10, Some(10), None, now);
    }
}

#[test]
fn the_slowest_partition_holds_the_watermark_and_nothing_goes_back() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    assert_eq!(clock.advance(0), Watermark::MIN);
    clock.observe(B, Some(50 * SECOND), 0);
    assert_eq!(clock.advance(0), Watermark(45 * SECOND));
    clock.observe(B, Some(20 * SECOND), 0);
    assert_eq!(clock.advance(0), Watermark(45 * SECOND));
    clock.observe(B, Some(90 * SECOND), 0);
    assert_eq!(clock.advance(0), Watermark(85 * SECOND));
}

#[test]
fn a_partition_with_unread_records_is_never_idle() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    clock.position(A, 10, Some(10), None, 0);
    for now in [0, HOUR, 2 * HOUR] {
        clock.position(B, 0, Some(5), None, now);
        assert_eq!(clock.advance(now), Watermark::MIN, "at {now}");
    }
    clock.position(B, 0, None, None, 3 * HOUR);
    assert_eq!(clock.advance(3 * HOUR), Watermark::MIN, "an unknown end is not an end");
}

#[test]
fn an_idle_partition_lets_go_after_the_timeout_and_takes_part_again() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.position(B, 10, Some(10), None, 0);
    clock.observe(A, Some(100 * SECOND), 29 * SECOND);
    clock.position(A, 5, Some(9), None, 29 * SECOND);
    assert_eq!(clock.advance(29 * SECOND), Watermark::MIN);
    assert_eq!(clock.advance(30 * SECOND), Watermark::MIN, "the broker was not asked");
    confirmed(&mut clock, &[B], 30 * SECOND);
    assert_eq!(clock.advance(30 * SECOND), Watermark(95 * SECOND));
    clock.observe(B, Some(101 * SECOND), 31 * SECOND);
    clock.observe(A, Some(500 * SECOND), 31 * SECOND);
    assert_eq!(clock.advance(31 * SECOND), Watermark(96 * SECOND));
}

#[test]
fn when_all_are_idle_the_watermark_goes_on_with_the_clock() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    clock.observe(B, Some(70 * SECOND), 0);
    caught_up(&mut clock, 0);
    assert_eq!(clock.advance(29 * SECOND), Watermark(65 * SECOND));
    confirmed(&mut clock, &[A, B], 30 * SECOND);
    assert_eq!(clock.advance(30 * SECOND), Watermark(95 * SECOND), "the highest known");
    confirmed(&mut clock, &[A, B], 90 * SECOND);
    assert_eq!(clock.advance(90 * SECOND), Watermark(155 * SECOND));
    // Back with an event: the watermark waits for it and never goes back.
    clock.observe(A, Some(130 * SECOND), 91 * SECOND);
    assert_eq!(clock.advance(91 * SECOND), Watermark(155 * SECOND));
}

#[test]
fn an_idle_partition_lets_windows_close_only_on_fresh_word() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    caught_up(&mut clock, 0);
    confirmed(&mut clock, &[A, B], 31 * SECOND);
    clock.advance(31 * SECOND);
    // Both got records; the reader has those of A and has not heard of those of B.
    clock.observe(A, Some(1000 * SECOND), 40 * SECOND);
    clock.position(A, 20, Some(20), None, 40 * SECOND);
    assert_eq!(clock.advance(40 * SECOND), Watermark::MIN, "is B really idle?");
    assert!(clock.needs_confirmation(40 * SECOND));
    clock.confirm(A, 20, Some(20), 40 * SECOND);
    clock.confirm(B, 10, Some(12), 40 * SECOND);
    assert_eq!(clock.advance(40 * SECOND), Watermark::MIN, "it is not");
    clock.observe(B, Some(100 * SECOND), 41 * SECOND);
    assert_eq!(clock.advance(41 * SECOND), Watermark(95 * SECOND));
}

#[test]
fn while_the_broker_does_not_answer_nothing_is_idle() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    caught_up(&mut clock, 0);
    confirmed(&mut clock, &[A, B], 30 * SECOND);
    assert_eq!(clock.advance(40 * SECOND), Watermark(95 * SECOND));
    assert!(clock.needs_confirmation(60 * SECOND));
    for partition in [A, B] {
        clock.confirm(partition, 10, None, 60 * SECOND);
    }
    let held = clock.advance(60 * SECOND);
    assert_eq!(clock.advance(10 * MINUTE), held);
    // It answers, and records wait that the reader had not heard of.
    clock.confirm(A, 10, Some(12), 10 * MINUTE);
    clock.confirm(B, 10, Some(10), 10 * MINUTE);
    assert_eq!(clock.advance(10 * MINUTE), held);
}

#[test]
fn without_any_event_there_is_no_watermark_however_long_it_takes() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    caught_up(&mut clock, 0);
    confirmed(&mut clock, &[A, B], 1000 * HOUR);
    assert_eq!(clock.advance(1000 * HOUR), Watermark::MIN);
}

#[test]
fn the_end_of_a_bounded_source_closes_everything_and_the_clock_moves_nothing() {
    let mut clock = SourceWatermark::new(bounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    caught_up(&mut clock, 0);
    assert_eq!(clock.advance(1000 * HOUR), Watermark::MIN, "B may still give something");
    clock.position(B, 0, Some(0), Some(0), 0);
    assert_eq!(clock.advance(0), Watermark(95 * SECOND), "B is finished");
    assert!(!clock.is_finished());
    clock.position(A, 10, Some(10), Some(10), 0);
    assert_eq!(clock.advance(0), Watermark::MAX);
    assert!(clock.is_finished());
}

#[test]
fn a_partition_an_hour_ahead_is_not_read_while_another_is_behind() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    for partition in [A, B] {
        clock.position(partition, 0, Some(1000), None, 0);
    }
    assert_eq!(clock.next_partition(&[]), Some(A));
    clock.observe(A, Some(HOUR), 0);
    assert_eq!(clock.next_partition(&[]), Some(B));
    assert_eq!(clock.next_partition(&[B]), None, "wait for B, do not run ahead");
    for minute in 0..59 {
        clock.observe(B, Some(minute * MINUTE), 0);
        assert_eq!(clock.next_partition(&[]), Some(B));
    }
    clock.observe(B, Some(59 * MINUTE + 30 * SECOND), 0);
    assert_eq!(clock.next_partition(&[B]), Some(A), "within the drift");
    // B has nothing more and is idle after a while: it holds nobody back.
    clock.observe(A, Some(2 * HOUR), 0);
    clock.position(B, 1000, Some(1000), None, 0);
    assert_eq!(clock.next_partition(&[B]), None);
    confirmed(&mut clock, &[B], 31 * SECOND);
    clock.advance(31 * SECOND);
    assert_eq!(clock.next_partition(&[B]), Some(A));
}

#[test]
fn equals_take_turns() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    let mut read = Vec::new();
    for _ in 0..4 {
        let next = clock.next_partition(&[]).unwrap();
        clock.observe(next, None, 0);
        read.push(next);
    }
    assert_eq!(read, [A, B, A, B]);
}

#[test]
fn a_restart_remembers_watermarks_and_idleness() {
    let mut clock = SourceWatermark::new(unbounded(), [A, B], 0);
    clock.observe(A, Some(100 * SECOND), 0);
    caught_up(&mut clock, 0);
    confirmed(&mut clock, &[A, B], 60 * SECOND);
    clock.advance(60 * SECOND);
    clock.advance(61 * SECOND);
    let (source, memory) = (clock.current(), clock.memory());
    assert!(source > Watermark(95 * SECOND));
    assert!(memory[&B].idle);

    let mut again = SourceWatermark::new(unbounded(), [A, B], 0);
    again.restore(source, &memory);
    caught_up(&mut again, 0);
    assert_eq!(again.advance(0), source);
    let mut older = SourceWatermark::new(unbounded(), [A, B], 0);
    older.restore(Watermark(1), &BTreeMap::new());
    older.restore(source, &memory);
    older.restore(Watermark(1), &BTreeMap::new());
    assert_eq!(older.current(), source);
}

#[test]
fn options_and_their_defaults() {
    let mut options = Options::default();
    let spec = |options: &Options| SourceSpec {
        name: "orders".to_owned(),
        columns: Vec::new(),
        watermark: Some(WatermarkSpec { column: "ts".to_owned(), delay: 5 * SECOND }),
        options: options.clone(),
    };
    assert_eq!(TimeSettings::of_source(&spec(&options), false).unwrap(), unbounded());
    assert_eq!(TimeSettings::of_source(&spec(&options), true).unwrap(), bounded());
    options.insert("scan.watermark.idle-timeout", "500 ms", None);
    options.insert("watermark.max-future-skew", "1 h", None);
    let settings = TimeSettings::of_source(&spec(&options), true).unwrap();
    assert_eq!(settings.idle_timeout, Some(SECOND / 2));
    assert_eq!(settings.latest_believed(7), HOUR + 7);
    options.insert("scan.watermark.idle-timeout", "soon", None);
    assert_eq!(TimeSettings::of_source(&spec(&options), true).unwrap_err().code, "TM112");
}

#[test]
fn durations() {
    for (text, micros) in [
        ("30 s", 30 * SECOND),
        ("500 ms", SECOND / 2),
        ("250ms", SECOND / 4),
        ("5 minutes", 5 * MINUTE),
        ("1h", HOUR),
        ("2 d", 48 * HOUR),
        ("1500", 1_500_000),
    ] {
        assert_eq!(parse_duration(text), Some(micros), "{text}");
    }
    for text in ["", "s", "-1 s", "1 fortnight", "1.5 s", "99999999999999999 d"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}
