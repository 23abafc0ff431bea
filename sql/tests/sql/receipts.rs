//! Receipts: for every window that closes, the rows it was computed from and the offsets they came
//! from are those a count by hand finds, whatever the cuts, partitions and restarts; also for
//! windows that give no rows, and for views over views.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_contract::{Watermark, WindowBounds};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::{Engine, Provenance, Receipt};

use crate::stream::{DELAY, Random, catalog, event_batch, micros, random_rows};
use crate::windows::{MINUTE, START};

const VIEWS: &[&str] = &[
    "CREATE MATERIALIZED VIEW minutes AS SELECT window_start, window_end, k, count(*) AS c
     FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
     WHERE id % 3 <> 0 GROUP BY window_start, window_end, k HAVING count(*) > 4",
    "CREATE MATERIALIZED VIEW hops AS SELECT window_start, window_end, count(*) AS c
     FROM TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTE))
     WHERE id % 3 <> 0 GROUP BY window_start, window_end",
    "CREATE MATERIALIZED VIEW kept AS SELECT id, ts FROM s WHERE id % 2 = 0",
    "CREATE MATERIALIZED VIEW of_kept AS SELECT window_start, window_end, count(*) AS c
     FROM TABLE(TUMBLE(TABLE kept, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
     GROUP BY window_start, window_end",
    "CREATE MATERIALIZED VIEW hours AS SELECT window_start, window_end, sum(c) AS c
     FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(window_start), INTERVAL '5' MINUTE))
     GROUP BY window_start, window_end",
];

/// A row that was pushed.
struct Seen {
    id: i64,
    time: i64,
    partition: i32,
    offset: i64,
    behind: bool,
}

/// What a window must have been computed from, over the rows pushed so far.
fn expected(seen: &[Seen], window: WindowBounds, counts: fn(i64) -> bool) -> Provenance {
    let mut from = Provenance::default();
    let inside = |row: &&Seen| window.start <= row.time && row.time < window.end && counts(row.id);
    for row in seen.iter().filter(inside) {
        from.rows += 1;
        from.behind += u64::from(row.behind);
        let range = from.offsets.entry(row.partition).or_insert((row.offset, row.offset));
        *range = (range.0.min(row.offset), range.1.max(row.offset));
    }
    from
}

/// The offsets of a window over a view are those of the windows below that gave rows.
fn over(below: &[Receipt], window: WindowBounds) -> (u64, BTreeMap<i32, (i64, i64)>) {
    let mut offsets: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    let mut rows = 0;
    let inside = |receipt: &&Receipt| {
        window.start <= receipt.window.start && receipt.window.start < window.end
    };
    for receipt in below.iter().filter(inside).filter(|receipt| receipt.rows > 0) {
        rows += receipt.rows;
        for (partition, (first, last)) in &receipt.from.offsets {
            let range = offsets.entry(*partition).or_insert((*first, *last));
            *range = (range.0.min(*first), range.1.max(*last));
        }
    }
    (rows, offsets)
}

struct Checked {
    seen: Vec<Seen>,
    minutes: Vec<Receipt>,
    others: Vec<Receipt>,
}

impl Checked {
    fn take(&mut self, mut receipts: Vec<Receipt>) -> Result<(), TestCaseError> {
        // What a view over a view stands on comes first.
        receipts.sort_by_key(|receipt| receipt.query == "hours");
        for receipt in receipts {
            let counts: fn(i64) -> bool = match receipt.query.as_str() {
                "minutes" | "hops" => |id| id % 3 != 0,
                "of_kept" => |id| id % 2 == 0,
                _ => {
                    let (rows, offsets) = over(&self.minutes, receipt.window);
                    prop_assert_eq!((receipt.from.rows, &receipt.from.offsets), (rows, &offsets));
                    self.others.push(receipt);
                    continue;
                }
            };
            let expected = expected(&self.seen, receipt.window, counts);
            prop_assert_eq!(&receipt.from, &expected, "{} {:?}", receipt.query, receipt.window);
            prop_assert!(!receipt.is_revision);
            if receipt.query == "minutes" {
                self.minutes.push(receipt);
            } else {
                self.others.push(receipt);
            }
        }
        Ok(())
    }
}

fn check(catalog: &Catalog, seed: u64, partitions: usize) -> Result<(), TestCaseError> {
    let queries: Vec<String> = catalog.queries().keys().cloned().collect();
    let build = || Engine::build(catalog, "s", &queries).unwrap();
    let mut engine = build();
    let mut random = Random(seed);
    // Their id is their number.
    let rows = random_rows(seed, 400, START, 20 * MINUTE);
    let times = micros(&rows);
    // Out of order by up to three times the delay: some rows are behind, some late.
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by_cached_key(|row| times[*row as usize] + random.below(3 * DELAY as u64) as i64);
    let mut offsets = vec![0_i64; partitions];
    let mut checked = Checked { seen: Vec::new(), minutes: Vec::new(), others: Vec::new() };
    let mut mark = Watermark::MIN;
    let (mut newest, mut late) = (i64::MIN, 0);
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let partition = random.below(partitions as u64) as usize;
        let (picked, after) = rest.split_at((1 + random.below(30) as usize).min(rest.len()));
        rest = after;
        let mut batch = event_batch(&rows, picked, partition);
        // Gaps, as a compacted log has them.
        let mut next = || {
            offsets[partition] += 1 + random.below(3) as i64;
            offsets[partition]
        };
        batch.offsets = picked.iter().map(|_| next()).collect();
        for (row, offset) in picked.iter().zip(&batch.offsets) {
            let time = times[*row as usize];
            newest = newest.max(time);
            checked.seen.push(Seen {
                id: i64::from(*row),
                time,
                partition: partition as i32,
                offset: *offset,
                behind: time < mark.0,
            });
        }
        late += engine.push(&batch).unwrap().late.len();
        mark = mark.max(Watermark(newest - DELAY));
        engine.advance(mark).unwrap();
        checked.take(engine.take_receipts())?;
        if random.below(5) == 0 {
            let state = engine.snapshot().unwrap();
            engine = build();
            engine.restore(&state).unwrap();
        }
    }
    engine.advance(Watermark::MAX).unwrap();
    checked.take(engine.take_receipts())?;
    // Every row that counted is in one receipt of a tumbling view, and in three of the hops.
    let counters = engine.counters();
    let told = |receipts: &[Receipt], query: &str| -> u64 {
        let mine = receipts.iter().filter(|receipt| receipt.query == query);
        mine.map(|receipt| receipt.from.rows).sum()
    };
    prop_assert_eq!(told(&checked.minutes, "minutes"), counters["minutes"].counted);
    prop_assert_eq!(told(&checked.others, "of_kept"), counters["of_kept"].counted);
    prop_assert_eq!(told(&checked.others, "hours"), counters["hours"].counted);
    prop_assert!(told(&checked.others, "hops") <= 3 * counters["hops"].counted);
    // Nearly every case has late rows and windows that give no rows; the others do not count.
    prop_assume!(late > 0 && checked.minutes.iter().any(|receipt| receipt.rows == 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_receipt_names_what_its_window_was_computed_from(seed in any::<u64>(), partitions in 1_usize..4) {
        let views: Vec<String> = VIEWS.iter().map(|view| (*view).to_owned()).collect();
        check(&catalog(&views), seed, partitions)?;
    }
}
