//! Alerts: the life of a key over windows, ids, snapshots, and conditions that cannot be.

#![allow(clippy::unwrap_used)] // also in helpers of tests
#![allow(clippy::inconsistent_digit_grouping)] // amounts of money are written 12_34

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemill_contract::{AlertEvent, Emission, EmissionKind, Watermark, WindowBounds};
use tidemill_sql::alert::AlertProgram;
use tidemill_sql::parse::{AlertSpec, Statement, parse_script};
use tidemill_sql::window::{Step, WindowSpec};

const MINUTE: i64 = 60_000_000;

pub(crate) fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("window_end", time, true),
        Field::new("product", DataType::Utf8, true),
        Field::new("revenue", DataType::Decimal128(12, 2), true),
        Field::new("orders", DataType::Int64, true),
    ]))
}

pub(crate) fn spec(clauses: &str) -> AlertSpec {
    let sql = format!("CREATE ALERT low ON sales WHEN {clauses}");
    match parse_script(&sql).unwrap().remove(0).statement {
        Statement::CreateAlert(create) => create.spec,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn tumble() -> Option<WindowSpec> {
    Some(WindowSpec::new("tumble", &[Step { months: 0, micros: MINUTE }], None).unwrap())
}

pub(crate) fn program(clauses: &str) -> AlertProgram {
    AlertProgram::new(&spec(clauses), &schema(), 7, tumble()).unwrap()
}

/// The `number`th minute.
fn window(number: i64) -> WindowBounds {
    WindowBounds { start: number * MINUTE, end: (number + 1) * MINUTE }
}

/// Rows of a minute: product, revenue in cents.
pub(crate) fn emission(number: i64, rows: &[(&str, Option<i128>)]) -> Emission {
    let end = vec![(number + 1) * MINUTE; rows.len()];
    let products: Vec<&str> = rows.iter().map(|(product, _)| *product).collect();
    let revenue: Vec<Option<i128>> = rows.iter().map(|(_, cents)| *cents).collect();
    let revenue = Decimal128Array::from(revenue).with_precision_and_scale(12, 2).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(end)),
        Arc::new(StringArray::from(products)),
        Arc::new(revenue),
        Arc::new(Int64Array::from(vec![1; rows.len()])),
    ];
    Emission {
        query: "sales".to_owned(),
        window: Some(window(number)),
        kind: EmissionKind::Final,
        rows: RecordBatch::try_new(schema(), columns).unwrap(),
    }
}

/// `status subject window-number` of each event.
fn told(events: &[AlertEvent]) -> Vec<String> {
    let minute = |event: &AlertEvent| {
        let start = event.data["window"]["start"].as_str().unwrap();
        assert!(start.starts_with("1970-01-01T00:"), "{start}");
        start[14..16].trim_start_matches('0').to_owned()
    };
    events
        .iter()
        .map(|event| {
            let status = event.event_type.rsplit('.').next().unwrap();
            assert_eq!(event.data["status"], status);
            format!("{status} {} {}", event.subject, minute(event))
        })
        .collect()
}

#[test]
fn an_event_carries_everything() {
    let mut program = program("revenue < 100 BY product SEVERITY 'critical' NOTIFY ops, mail");
    let events = program.on_emission(&emission(1, &[("cup", Some(12_34)), ("tea", Some(200_00))]));
    let events = events.unwrap();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(event.id.len(), 32);
    let dedup = event.data["dedup_key"].as_str().unwrap();
    assert_eq!(dedup.len(), 32);
    assert_eq!(
        serde_json::to_value(event).unwrap(),
        json!({
            "specversion": "1.0",
            "id": event.id,
            "source": "/tidemill/alerts/low",
            "type": "io.tidemill.alert.firing",
            "subject": "product=cup",
            "time": "1970-01-01T00:02:00Z",
            "datacontenttype": "application/json",
            "partitionkey": "low/product=cup",
            "data": {
                "alert": "low",
                "version": 7,
                "view": "sales",
                "condition": "revenue < 100",
                "severity": "critical",
                "notify": ["ops", "mail"],
                "key": {"product": "cup"},
                "status": "firing",
                "value": {
                    "window_end": "1970-01-01T00:02:00Z",
                    "product": "cup", "revenue": 12.34, "orders": 1,
                },
                "matching_rows": 1,
                "window": {"start": "1970-01-01T00:01:00Z", "end": "1970-01-01T00:02:00Z"},
                "since": "1970-01-01T00:01:00Z",
                "dedup_key": dedup,
            },
        })
    );
}

#[test]
fn fires_after_its_windows_and_resolves() {
    let mut program = program("revenue < 100 FOR 3 WINDOWS BY product");
    let mut log = Vec::new();
    for (number, cents) in [(1, 5), (2, 5), (3, 5), (4, 5), (5, 500_00), (6, 5), (7, 500_00)] {
        let events = program.on_emission(&emission(number, &[("cup", Some(cents))])).unwrap();
        if number == 3 {
            assert_eq!(events[0].data["since"], "1970-01-01T00:01:00Z");
        }
        if number == 5 {
            assert_eq!(events[0].data["value"], Value::Null);
            assert_eq!(events[0].data["since"], "1970-01-01T00:01:00Z");
        }
        log.extend(told(&events));
    }
    assert_eq!(
        log,
        [
            "pending product=cup 1",
            "firing product=cup 3",
            "resolved product=cup 5",
            "pending product=cup 6",
        ]
    );
    assert_eq!(program.snapshot()["streaks"], json!({}));
}

#[test]
fn one_incident_has_one_dedup_key() {
    let mut program = program("revenue < 100 FOR 2 WINDOWS BY product");
    let mut keys = Vec::new();
    for (number, cents) in [(1, 5), (2, 5), (3, 500_00), (4, 5)] {
        for event in program.on_emission(&emission(number, &[("cup", Some(cents))])).unwrap() {
            keys.push(event.data["dedup_key"].clone());
        }
    }
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3]);
}

#[test]
fn a_gap_breaks_the_streak_and_absence_resolves() {
    let mut program = program("revenue < 100 FOR 2 WINDOWS BY product");
    let mut log = Vec::new();
    let low = |product| (product, Some(5));
    for (number, rows) in [
        (1, vec![low("a"), low("b")]),
        (2, vec![low("a")]),           // b: gap
        (3, vec![low("b")]),           // a: firing, now absent; b: a new streak
        (6, vec![low("b"), low("a")]), // b: gap again
    ] {
        log.extend(told(&program.on_emission(&emission(number, &rows)).unwrap()));
    }
    assert_eq!(
        log,
        [
            "pending product=a 1",
            "pending product=b 1",
            "firing product=a 2",
            "pending product=b 3",
            "resolved product=a 3",
            "pending product=a 6",
            "pending product=b 6",
        ]
    );
}

#[test]
fn the_watermark_tells_of_absence() {
    let mut program = program("revenue < 100 BY product");
    let fired = program.on_emission(&emission(1, &[("a", Some(5)), ("b", Some(5))])).unwrap();
    assert_eq!(told(&fired), ["firing product=a 1", "firing product=b 1"]);
    assert!(program.advance(Watermark(2 * MINUTE)).is_empty());
    assert!(program.advance(Watermark(3 * MINUTE - 1)).is_empty());
    assert!(program.advance(Watermark::MIN).is_empty());
    assert!(program.advance(Watermark::MAX).is_empty(), "the end of data is no absence");
    let still = program.on_emission(&emission(2, &[("b", Some(5))])).unwrap();
    assert!(still.is_empty(), "b still fires; a is absent only when told so: {still:?}");
    let resolved = program.advance(Watermark(3 * MINUTE));
    assert_eq!(told(&resolved), ["resolved product=a 2"]);
    assert_eq!(resolved[0].data["window"]["end"], "1970-01-01T00:03:00Z");
    assert!(program.advance(Watermark(3 * MINUTE)).is_empty());
    assert_eq!(told(&program.advance(Watermark(99 * MINUTE))), ["resolved product=b 3"]);
}

#[test]
fn without_a_key_any_row_of_the_window_counts() {
    let mut program = program("revenue < 100");
    let rows = [("b", Some(7)), ("c", Some(900_00)), ("a", Some(5)), ("d", None)];
    let events = program.on_emission(&emission(1, &rows)).unwrap();
    assert_eq!(told(&events), ["firing  1"]);
    assert_eq!(events[0].data["key"], json!({}));
    assert_eq!(events[0].data["matching_rows"], 2);
    let mut shuffled = rows;
    shuffled.reverse();
    let mut again = self::program("revenue < 100");
    assert_eq!(again.on_emission(&emission(1, &shuffled)).unwrap(), events);
    let none = program.on_emission(&emission(2, &[("c", Some(900_00))])).unwrap();
    assert_eq!(told(&none), ["resolved  2"]);
    program.on_emission(&emission(3, &[("c", Some(1))])).unwrap();
    assert_eq!(told(&program.advance(Watermark(5 * MINUTE))), ["resolved  4"]);
}

#[test]
fn null_is_not_true_and_null_is_a_key() {
    let mut alert = program("revenue < 100 BY product");
    assert!(alert.on_emission(&emission(1, &[("a", None)])).unwrap().is_empty());
    let mut rows = emission(2, &[("x", Some(1))]);
    let mut columns = rows.rows.columns().to_vec();
    columns[1] = Arc::new(StringArray::from(vec![None::<&str>]));
    rows.rows = RecordBatch::try_new(schema(), columns).unwrap();
    let events = alert.on_emission(&rows).unwrap();
    assert_eq!(events[0].subject, "product=null");
    assert_eq!(events[0].data["key"], json!({"product": null}));
}

#[test]
fn a_window_judged_twice_changes_nothing() {
    let mut alert = program("revenue < 100 FOR 2 WINDOWS BY product");
    let first = emission(1, &[("a", Some(1))]);
    assert_eq!(alert.on_emission(&first).unwrap().len(), 1);
    let state = alert.snapshot();
    assert!(alert.on_emission(&first).unwrap().is_empty());
    assert_eq!(alert.snapshot(), state);
    let mut other = first.clone();
    other.query = "another_view".to_owned();
    other.window = Some(window(2));
    assert!(alert.on_emission(&other).unwrap().is_empty());
    assert_eq!(alert.snapshot(), state);
}

#[test]
fn cumulating_and_hopping_windows_follow_each_other_by_end() {
    let step = |minutes: i64| Step { months: 0, micros: minutes * MINUTE };
    let spec_of = |name: &str| WindowSpec::new(name, &[step(2), step(10)], None).unwrap();
    for name in ["hop", "cumulate"] {
        let window_spec = spec_of(name);
        let spec = spec("revenue < 100 FOR 2 WINDOWS BY product");
        let mut alert = AlertProgram::new(&spec, &schema(), 1, Some(window_spec.clone())).unwrap();
        let mut bounds = window_spec.windows_at(11 * MINUTE)[0];
        let mut log = Vec::new();
        for _ in 0..3 {
            let mut rows = emission(1, &[("a", Some(1))]);
            rows.window = Some(bounds);
            log.push(alert.on_emission(&rows).unwrap().len());
            assert!(alert.advance(Watermark(bounds.end)).is_empty());
            bounds = window_spec.next(bounds);
        }
        assert_eq!(log, [1, 1, 0], "{name}: pending, firing, still firing");
    }
}

#[test]
fn rows_of_a_stateless_view_fire_alone() {
    let view = Arc::new(Schema::new(vec![
        Field::new("order_id", DataType::Utf8, false),
        Field::new("amount", DataType::Float64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
    ]));
    let spec = spec("abs(amount) >= 1000 BY order_id");
    let mut alert = AlertProgram::new(&spec, &view, 1, None).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["1", "2", "3"])),
        Arc::new(Float64Array::from(vec![-1_000.0, 5.5, 1_000.25])),
        Arc::new(TimestampMillisecondArray::from(vec![0, 1, 1_500]).with_timezone("UTC")),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&view), columns).unwrap();
    let emission =
        Emission { query: "sales".to_owned(), window: None, kind: EmissionKind::Final, rows };
    let events = alert.on_emission(&emission).unwrap();
    let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(subjects, ["order_id=1", "order_id=3"]);
    assert_eq!(events[1].time, "1970-01-01T00:00:01.500Z");
    assert_eq!(events[1].data["window"], Value::Null);
    assert_eq!(events[1].data["value"]["amount"], 1_000.25);
    assert_ne!(events[0].id, events[1].id);
    assert_eq!(alert.on_emission(&emission).unwrap(), events, "no state");

    let error = AlertProgram::new(&self::spec("amount > 1 FOR 2 WINDOWS"), &view, 1, None);
    assert_eq!(error.expect_err("needs windows").code, "TM126");
}

#[test]
fn damaged_state_is_refused_and_state_of_another_version_dropped() {
    let mut alert = program("revenue < 100 BY product");
    alert.on_emission(&emission(1, &[("a", Some(1))])).unwrap();
    let state = alert.snapshot();
    for damage in [
        json!(null),
        json!({}),
        json!({"format": 99, "alert": "low", "version": 7, "streaks": {}}),
        json!({"format": 1, "alert": "high", "version": 7, "streaks": {}}),
        json!({"format": 1, "alert": "low", "version": 7, "streaks": {"x": {}}}),
    ] {
        assert_eq!(alert.restore(&damage).expect_err("damaged").code, "TM310");
        assert_eq!(alert.snapshot(), state, "a failed restore changes nothing");
    }
    let spec = spec("revenue < 100 BY product");
    let mut next = AlertProgram::new(&spec, &schema(), 8, tumble()).unwrap();
    next.restore(&state).unwrap();
    assert_eq!(next.snapshot()["streaks"], json!({}));
    // Another version's events have other ids.
    let rows = emission(5, &[("a", Some(1))]);
    let mut first = AlertProgram::new(&spec, &schema(), 7, tumble()).unwrap();
    assert_ne!(next.on_emission(&rows).unwrap()[0].id, first.on_emission(&rows).unwrap()[0].id);
}

/// What the table in the module's documentation says, written down naively: for each key the list
/// of its windows, judged from the whole history at every step.
fn expected(history: &[Vec<(usize, bool)>], needed: usize, keys: usize) -> Vec<String> {
    let mut told = Vec::new();
    for now in 0..history.len() {
        let holds = |key: usize, at: usize| history[at].contains(&(key, true));
        let streak = |key: usize, at: usize| (0..=at).rev().take_while(|w| holds(key, *w)).count();
        for key in 0..keys {
            let before = if now == 0 { 0 } else { streak(key, now - 1) };
            let after = streak(key, now);
            let status = match (before, after) {
                (_, 0) if before >= needed => "resolved",
                (_, after) if after == needed => "firing",
                (_, 1) => "pending",
                _ => continue,
            };
            told.push(format!("{status} product=k{key} {}", now + 1));
        }
    }
    told.sort();
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any history gives the expected events, also with a snapshot and restore at every step, and
    /// the same ids however often it is repeated.
    #[test]
    fn histories_give_the_same_events_with_restarts(
        needed in 1_usize..4,
        history in prop::collection::vec(
            prop::collection::btree_map(0_usize..3, any::<bool>(), 0..4), 1..12),
    ) {
        let clauses = format!("revenue < 100 FOR {needed} WINDOWS BY product");
        let names = ["k0", "k1", "k2"];
        let run = |restarts: bool| {
            let mut alert = program(&clauses);
            let mut events = Vec::new();
            for (number, rows) in history.iter().enumerate() {
                let number = i64::try_from(number).unwrap() + 1;
                let rows: Vec<_> = rows.iter()
                    .map(|(key, holds)| (names[*key], Some(if *holds { 1 } else { 900_00 })))
                    .collect();
                if !rows.is_empty() {
                    events.extend(alert.on_emission(&emission(number, &rows)).unwrap());
                }
                if restarts {
                    let text = alert.snapshot().to_string();
                    alert = program(&clauses);
                    alert.restore(&serde_json::from_str(&text).unwrap()).unwrap();
                }
                events.extend(alert.advance(Watermark((number + 1) * MINUTE)));
            }
            events
        };
        let events = run(false);
        prop_assert_eq!(&run(true), &events);
        let ids: std::collections::BTreeSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
        prop_assert_eq!(ids.len(), events.len(), "ids are unique");
        let history: Vec<Vec<(usize, bool)>> =
            history.iter().map(|rows| rows.iter().map(|(key, holds)| (*key, *holds)).collect()).collect();
        let mut told = told(&events);
        told.sort();
        prop_assert_eq!(told, expected(&history, needed, 3));
    }
}
