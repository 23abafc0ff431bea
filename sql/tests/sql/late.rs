//! Late rows: with `LATE REVISE` the rows said last of every window are those of the same SQL over
//! all rows that came in time to be counted, whatever the cuts, partitions and restarts; each
//! revision begins with what was said before; and alerts corrected by revisions are those of the
//! last rows.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use tidemill_contract::{AlertEvent, Emission, EmissionKind, Watermark, WindowBounds};
use tidemill_sql::alert::AlertProgram;
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::{Engine, Pushed};

use crate::oracle::{batch_where, canonical};
use crate::stream::{DELAY, Random, catalog, event_batch, micros, random_rows};
use crate::windows::{CASES, Case, MINUTE, QUERIES, START, block};

/// Queries that tell both ends of their windows.
const REVISABLE: &[usize] = &[0, 1, 2, 4];
const ALERTS: &[&str] = &[
    "CREATE ALERT single ON v0 WHEN c > 2 BY k",
    "CREATE ALERT streak ON v0 WHEN c > 1 FOR 3 WINDOWS BY k",
    "CREATE ALERT total ON v1 WHEN c > 5 FOR 2 WINDOWS",
];

/// How rows come.
#[derive(Debug, Clone)]
struct Chaos {
    seed: u64,
    partitions: usize,
    /// Rows come up to so much out of order.
    disorder: i64,
    horizon: i64,
}

/// What was said, as a reader of the views has it.
#[derive(Default)]
struct Reader {
    windows: BTreeMap<(String, i64, i64), RecordBatch>,
    revisions: usize,
}

impl Reader {
    fn take(&mut self, emissions: &[Emission]) {
        for emission in emissions {
            let window = emission.window.unwrap();
            let key = (emission.query.clone(), window.end, window.start);
            let known = self.windows.insert(key, emission.rows.clone());
            match &emission.kind {
                EmissionKind::Final => assert!(known.is_none(), "a window closed twice"),
                EmissionKind::Revision { before, late_rows } => {
                    self.revisions += 1;
                    assert!(*late_rows > 0);
                    let known = known.map(|rows| canonical(&[rows])).unwrap_or_default();
                    assert_eq!(canonical(std::slice::from_ref(before)), known, "{window:?}");
                }
            }
        }
    }

    fn rows(&self, query: &str) -> Vec<String> {
        let mine = self.windows.iter().filter(|((name, ..), _)| name == query);
        canonical(&mine.map(|(_, rows)| rows.clone()).collect::<Vec<_>>())
    }
}

/// The alerts, and the ids of events that hold after all corrections.
struct Watch {
    catalog: Catalog,
    horizon: i64,
    programs: Vec<AlertProgram>,
    holds: Vec<BTreeSet<String>>,
    corrections: usize,
}

impl Watch {
    fn new(catalog: &Catalog, horizon: i64) -> Self {
        let programs = programs(catalog, Some(horizon));
        let holds = vec![BTreeSet::new(); programs.len()];
        Self { catalog: catalog.clone(), horizon, programs, holds, corrections: 0 }
    }

    fn take(&mut self, emissions: &[Emission]) {
        for (program, holds) in self.programs.iter_mut().zip(&mut self.holds) {
            for emission in emissions {
                let events = program.on_emission(emission).unwrap();
                self.corrections += apply(holds, &events);
            }
        }
    }

    fn advance(&mut self, watermark: Watermark) {
        for (program, holds) in self.programs.iter_mut().zip(&mut self.holds) {
            self.corrections += apply(holds, &program.advance(watermark));
        }
    }

    fn restart(&mut self) {
        let states: Vec<_> = self.programs.iter().map(AlertProgram::snapshot).collect();
        self.programs = programs(&self.catalog, Some(self.horizon));
        for (program, state) in self.programs.iter_mut().zip(&states) {
            program.restore(state).unwrap();
        }
    }
}

fn programs(catalog: &Catalog, horizon: Option<i64>) -> Vec<AlertProgram> {
    let compile = |alert: &tidemill_sql::catalog::RegisteredAlert| {
        let view = catalog.query(&alert.spec.view).unwrap();
        // One version: with and without late rows ids must be the same.
        let window = view.plan.window.clone();
        let program = AlertProgram::new(&alert.spec, &view.schema, 1, window).unwrap();
        match horizon {
            Some(horizon) => program.revisable(horizon, Watermark::MIN),
            None => program,
        }
    };
    catalog.alerts().values().map(compile).collect()
}

/// Adds what events say to the ids that hold; how many were corrections.
fn apply(holds: &mut BTreeSet<String>, events: &[AlertEvent]) -> usize {
    let mut corrections = 0;
    for event in events {
        let side = |name: &str| event.data[name]["id"].as_str().map(str::to_owned);
        if event.event_type != "io.tidemill.alert.revised" {
            assert!(holds.insert(event.id.clone()), "said twice: {event:?}");
            continue;
        }
        corrections += 1;
        assert!(side("before").is_some() || side("after").is_some());
        if let Some(id) = side("before") {
            assert!(holds.remove(&id), "takes back what was not said: {event:?}");
        }
        if let Some(id) = side("after") {
            assert!(holds.insert(id), "finds what was said: {event:?}");
        }
    }
    corrections
}

/// What an alert says of final rows without late ones.
fn undisturbed(catalog: &Catalog, reader: &Reader, last: Watermark) -> Vec<BTreeSet<String>> {
    let mut all = Vec::new();
    for (mut program, alert) in programs(catalog, None).into_iter().zip(catalog.alerts().values()) {
        let mut holds = BTreeSet::new();
        let mut told = false;
        for ((query, end, start), rows) in &reader.windows {
            if *query != alert.spec.view || rows.num_rows() == 0 {
                continue;
            }
            if *end > last.0 && !told {
                apply(&mut holds, &program.advance(last));
                told = true;
            }
            let window = Some(WindowBounds { start: *start, end: *end });
            let (query, rows) = (query.clone(), rows.clone());
            let emission = Emission { query, window, kind: EmissionKind::Final, rows };
            apply(&mut holds, &program.on_emission(&emission).unwrap());
        }
        if !told {
            apply(&mut holds, &program.advance(last));
        }
        all.push(holds);
    }
    all
}

/// Row numbers per partition, far out of order.
fn disordered(rows: &RecordBatch, chaos: &Chaos, random: &mut Random) -> Vec<Vec<u32>> {
    let times = micros(rows);
    let mut lanes = vec![Vec::new(); chaos.partitions];
    for (row, time) in times.iter().enumerate() {
        // One row in three is really late.
        let most = if random.below(3) == 0 { chaos.disorder } else { DELAY };
        let lane = random.below(chaos.partitions as u64) as usize;
        lanes[lane].push((time + random.below(most as u64) as i64, row as u32));
    }
    let sorted = |mut lane: Vec<(i64, u32)>| {
        lane.sort_unstable();
        lane.into_iter().map(|(_, row)| row).collect()
    };
    lanes.into_iter().map(sorted).collect()
}

/// Streams the rows; returns the reader, the alerts, the watermark at which each row came, and the
/// last watermark before the end.
fn stream(
    catalog: &Catalog,
    rows: &RecordBatch,
    chaos: &Chaos,
) -> (Reader, Watch, Vec<i64>, Watermark) {
    let queries: Vec<String> = catalog.queries().keys().cloned().collect();
    let build = || Engine::build(catalog, "s", &queries).unwrap();
    let mut engine = build();
    let mut random = Random(chaos.seed);
    let mut lanes = disordered(rows, chaos, &mut random);
    let mut marks = vec![Watermark::MIN; lanes.len()];
    let (mut reader, mut watch) = (Reader::default(), Watch::new(catalog, chaos.horizon));
    let mut seen = vec![i64::MIN; rows.num_rows()];
    let mut low = Watermark::MIN;
    let mut late = BTreeMap::<String, u64>::new();
    while lanes.iter().any(|lane| !lane.is_empty()) {
        let lane = random.below(lanes.len() as u64) as usize;
        let count = (1 + random.below(30) as usize).min(lanes[lane].len());
        if count == 0 {
            marks[lane] = Watermark::MAX;
            continue;
        }
        let picked: Vec<u32> = lanes[lane].drain(..count).collect();
        picked.iter().for_each(|row| seen[*row as usize] = low.0);
        let batch = event_batch(rows, &picked, lane);
        let newest = batch.event_time.as_ref().unwrap().values().iter().max().copied().unwrap();
        let Pushed { emissions, late: rows_late } = engine.push(&batch).unwrap();
        assert!(emissions.is_empty());
        rows_late.into_iter().for_each(|row| *late.entry(row.query).or_default() += 1);
        marks[lane] = marks[lane].max(Watermark(newest - DELAY));
        let least = marks.iter().min().copied().unwrap();
        if least < Watermark::MAX {
            low = low.max(least);
            let emissions = engine.advance(low).unwrap();
            reader.take(&emissions);
            watch.take(&emissions);
            watch.advance(low);
        }
        if random.below(4) == 0 {
            let mut peeked = Vec::new();
            for query in &queries {
                peeked.extend(engine.peek_revisions(query).unwrap());
            }
            let emissions = engine.revise().unwrap();
            assert_eq!(peeked.len(), emissions.len());
            reader.take(&emissions);
            watch.take(&emissions);
            if random.below(3) == 0 {
                let state = engine.snapshot().unwrap();
                engine = build();
                engine.restore(&state).unwrap();
                watch.restart();
            }
        }
    }
    let emissions = engine.advance(Watermark::MAX).unwrap();
    reader.take(&emissions);
    watch.take(&emissions);
    assert_eq!(engine.open_slices(), 0, "nothing stays");
    for (query, counters) in engine.counters() {
        let accounted = counters.counted + counters.filtered + counters.late;
        assert_eq!(counters.rows_in, accounted, "conservation of {query}");
        assert_eq!(counters.late, late.get(&query).copied().unwrap_or(0), "late for {query}");
        assert!(counters.revised <= counters.counted);
    }
    (reader, watch, seen, low)
}

/// The rows with the end that a window must have gone beyond for the row to count in it.
fn with_bounds(rows: &RecordBatch, seen: &[i64], horizon: i64) -> RecordBatch {
    let mut fields: Vec<_> = rows.schema().fields().iter().map(Arc::clone).collect();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    fields.push(Arc::new(Field::new("over", micros, true)));
    let over = seen.iter().map(|seen| if *seen == i64::MIN { 0 } else { seen - horizon });
    let over: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(over));
    let mut columns = rows.columns().to_vec();
    columns.push(over);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn check(case: &Case, rows_seed: u64, count: usize, chaos: &Chaos) -> (usize, usize) {
    let rows = random_rows(rows_seed, count, START + 17, case.span);
    let clause = format!("LATE REVISE FOR INTERVAL '{} seconds'", chaos.horizon / 1_000_000);
    let mut statements = Vec::new();
    for (index, query) in REVISABLE.iter().enumerate() {
        let select = QUERIES[*query].replace("{from}", case.clause);
        statements.push(format!("CREATE MATERIALIZED VIEW v{index} AS {select} {clause}"));
    }
    // The same groups, never revised: sharing must not change what either says.
    let plain = QUERIES[0].replace("{from}", case.clause);
    statements.push(format!("CREATE MATERIALIZED VIEW plain AS {plain} LATE DROP"));
    statements.extend(ALERTS.iter().map(|alert| (*alert).to_owned()));
    let catalog = catalog(&statements);
    let (reader, watch, seen, last) = stream(&catalog, &rows, chaos);
    let windows = (case.windows)(START, START + case.span);
    let expect = |query: usize, horizon: i64| {
        let rows = with_bounds(&rows, &seen, horizon);
        let sql = QUERIES[query].replace("{from}", "windowed");
        canonical(&block(batch_where(&rows, &windows, "w.window_end > s.over", &sql)))
    };
    for (index, query) in REVISABLE.iter().enumerate() {
        let name = format!("v{index}");
        assert_eq!(reader.rows(&name), expect(*query, chaos.horizon), "{name} {}", case.clause);
    }
    assert_eq!(reader.rows("plain"), expect(0, 0), "plain {}", case.clause);
    assert_eq!(watch.holds, undisturbed(&catalog, &reader, last), "{}", case.clause);
    (reader.revisions, watch.corrections)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_last_revision_equals_batch(
        case in 0..CASES.len(),
        rows_seed in any::<u64>(),
        count in 1..300usize,
        partitions in 1..=4usize,
        seed in any::<u64>(),
        disorder in 1..8i64,
        horizon in 1..10i64,
    ) {
        let case = &CASES[case];
        let unit = case.span / 10;
        let horizon = (horizon * unit / 1_000_000).max(1) * 1_000_000;
        let chaos = Chaos { seed, partitions, disorder: disorder * unit + DELAY, horizon };
        check(case, rows_seed, count, &chaos);
    }
}

/// Revisions and corrections of alerts do happen in what is checked above.
#[test]
fn every_window_is_revised_and_alerts_are_corrected() {
    for (index, case) in CASES.iter().enumerate() {
        let (mut revisions, mut corrections) = (0, 0);
        for seed in 0..3 {
            let chaos = Chaos {
                seed: seed + index as u64,
                partitions: 1 + index % 3,
                disorder: case.span / 2,
                horizon: case.span / 3 / 1_000_000 * 1_000_000,
            };
            let (revised, corrected) = check(case, 7 + index as u64, 300, &chaos);
            revisions += revised;
            corrections += corrected;
        }
        assert!(revisions > 0, "nothing was revised over {}", case.clause);
        assert!(corrections > 0, "no alert was corrected over {}", case.clause);
    }
}

/// A late row names its own record, also behind a view that drops rows.
#[test]
fn a_late_row_behind_a_filter_names_its_record() {
    let catalog = catalog(&[
        "CREATE MATERIALIZED VIEW odd AS SELECT ts, id FROM s WHERE id % 2 = 1".to_owned(),
        "CREATE MATERIALIZED VIEW v AS SELECT window_start, window_end, count(*) AS c FROM \
         TABLE(TUMBLE(TABLE odd, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end"
            .to_owned(),
    ]);
    let mut engine = Engine::build(&catalog, "s", &["odd".to_owned(), "v".to_owned()]).unwrap();
    let rows = random_rows(1, 10, START, MINUTE);
    engine.advance(Watermark(START + 10 * MINUTE)).unwrap();
    let pushed = engine.push(&event_batch(&rows, &(0..10).collect::<Vec<_>>(), 0)).unwrap();
    let records: Vec<u32> = pushed.late.iter().map(|late| late.record_index).collect();
    assert_eq!(records, vec![1, 3, 5, 7, 9]);
}

#[test]
fn a_snapshot_leaves_no_revision_unsaid() {
    let catalog = catalog(&[format!(
        "CREATE MATERIALIZED VIEW v AS {} LATE REVISE FOR INTERVAL '1' HOUR",
        QUERIES[1].replace("{from}", CASES[0].clause)
    )]);
    let mut engine = Engine::build(&catalog, "s", &["v".to_owned()]).unwrap();
    let rows = random_rows(1, 10, START, MINUTE);
    engine.advance(Watermark(START + 10 * MINUTE)).unwrap();
    engine.push(&event_batch(&rows, &[0, 1], 0)).unwrap();
    assert!(engine.snapshot().unwrap_err().to_string().contains("TM900"));
    let revisions = engine.revise().unwrap();
    assert_eq!(revisions.len(), 1, "{revisions:?}");
    assert!(engine.snapshot().is_ok());
    assert_eq!(engine.counters()["v"].revised, 2);
    assert_eq!(engine.counters()["v"].late, 0);
}

/// The emission of a minute as a revision of it.
fn revised(number: i64, rows: &[(&str, Option<i128>)]) -> Emission {
    let emission = crate::alert::emission(number, rows);
    let before = RecordBatch::new_empty(emission.rows.schema());
    Emission { kind: EmissionKind::Revision { before, late_rows: 1 }, ..emission }
}

#[test]
fn a_correction_names_what_it_takes_back_and_what_was_missed() {
    let begun = Watermark(MINUTE);
    let compile = || crate::alert::program("revenue < 100 FOR 2 WINDOWS BY product");
    let mut program = compile().revisable(60 * MINUTE, begun);
    let mut said = Vec::new();
    for minute in 1..4 {
        let emission =
            crate::alert::emission(minute, &[("cup", Some(1200)), ("tea", Some(20_000))]);
        said.extend(program.on_emission(&emission).unwrap());
        said.extend(program.advance(Watermark((minute + 1) * MINUTE)));
    }
    let types: Vec<&str> = said.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["io.tidemill.alert.pending", "io.tidemill.alert.firing"]);

    // The second of three low minutes was not low: pending, forgotten, pending again.
    let corrections = program.on_emission(&revised(2, &[("cup", Some(30_000))])).unwrap();
    let seen: Vec<_> = corrections
        .iter()
        .map(|event| {
            assert_eq!(event.event_type, "io.tidemill.alert.revised");
            assert_eq!(event.data["revision"], 1);
            assert_eq!(event.data["revised_window"]["start"], "1970-01-01T00:02:00Z");
            assert_eq!(event.subject, "product=cup");
            let window = event.data["window"]["start"].as_str().unwrap().to_owned();
            (window, event.data["before"]["id"].clone(), event.data["after"]["status"].clone())
        })
        .collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[0].0, "1970-01-01T00:02:00Z");
    assert_eq!(seen[0].1, said[1].id.as_str());
    assert!(seen[0].2.is_null());
    assert_eq!(seen[1].0, "1970-01-01T00:03:00Z");
    assert!(seen[1].1.is_null());
    assert_eq!(seen[1].2, "pending");

    // The same again after a restart: the same ids.
    let mut again = compile().revisable(60 * MINUTE, begun);
    again.restore(&program.snapshot()).unwrap();
    let back = revised(2, &[("cup", Some(1200))]);
    let (first, second) = (program.on_emission(&back).unwrap(), again.on_emission(&back).unwrap());
    assert_eq!(first, second);
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].data["after"]["id"], said[1].id.as_str());
    assert!(corrections.iter().all(|event| event.id != first[0].id && event.id != first[1].id));
    // What ended before the alert began is not judged now.
    assert!(program.on_emission(&revised(0, &[("cup", Some(1200))])).unwrap().is_empty());
}
