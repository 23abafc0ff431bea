//! The streaming result equals the same SQL over all rows at once, whatever the partitions, the
//! batch cuts, the order within the watermark, and wherever it is stopped and restored.

use proptest::prelude::*;

use crate::oracle::{Bounds, batch, canonical};
use crate::stream::{Delivery, catalog, random_rows, run};

pub(crate) const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2011-12-09 00:00 UTC.
pub(crate) const START: i64 = 1_323_388_800_000_000;

/// A window clause and the naive list of its windows around a span of time.
pub(crate) struct Case {
    pub(crate) clause: &'static str,
    pub(crate) windows: fn(i64, i64) -> Vec<Bounds>,
    pub(crate) span: i64,
}

fn tumble(size: i64, offset: i64, from: i64, to: i64) -> Vec<Bounds> {
    hop(size, size, offset, from, to)
}

pub(crate) fn hop(slide: i64, size: i64, offset: i64, from: i64, to: i64) -> Vec<Bounds> {
    let mut windows = Vec::new();
    let mut start = offset + (from - offset).div_euclid(slide) * slide - (size / slide + 1) * slide;
    while start <= to {
        windows.push((start, start + size));
        start += slide;
    }
    windows
}

fn cumulate(step: i64, size: i64, from: i64, to: i64) -> Vec<Bounds> {
    let mut windows = Vec::new();
    let mut start = from.div_euclid(size) * size;
    while start <= to {
        let ends = (1..=size / step).map(|count| (start, start + count * step));
        windows.extend(ends);
        start += size;
    }
    windows
}

/// First days of months by chrono: independent of the calendar code under test.
fn month_starts(from: i64, to: i64) -> Vec<i64> {
    use chrono::{Datelike, Months, NaiveDate};
    let date = |micros: i64| chrono::DateTime::from_timestamp_micros(micros).expect("in range");
    let first = date(from).date_naive();
    let mut day =
        NaiveDate::from_ymd_opt(first.year(), first.month(), 1).expect("valid") - Months::new(14);
    let mut starts = Vec::new();
    while day.and_hms_opt(0, 0, 0).expect("valid").and_utc().timestamp_micros() <= to + 130 * DAY {
        starts.push(day.and_hms_opt(0, 0, 0).expect("valid").and_utc().timestamp_micros());
        day = day + Months::new(1);
    }
    starts
}

pub(crate) const CASES: &[Case] = &[
    Case {
        clause: "TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
        windows: |from, to| tumble(MINUTE, 0, from, to),
        span: 10 * MINUTE,
    },
    Case {
        clause: "TUMBLE(s, ts, INTERVAL '7 minutes', INTERVAL '90 seconds')",
        windows: |from, to| tumble(7 * MINUTE, 90_000_000, from, to),
        span: HOUR,
    },
    Case {
        clause: "TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '1' MINUTE))",
        windows: |from, to| hop(10_000_000, MINUTE, 0, from, to),
        span: 5 * MINUTE,
    },
    Case {
        clause: "TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '10' MINUTE))",
        windows: |from, to| hop(10_000_000, 10 * MINUTE, 0, from, to),
        span: 25 * MINUTE,
    },
    Case {
        clause: "HOP(s, ts, INTERVAL '45 seconds', INTERVAL '5 minutes', INTERVAL '7 seconds')",
        windows: |from, to| hop(45_000_000, 5 * MINUTE, 7_000_000, from, to),
        span: 20 * MINUTE,
    },
    Case {
        clause: "HOP(s, ts, INTERVAL '4 minutes', INTERVAL '10 minutes')",
        windows: |from, to| hop(4 * MINUTE, 10 * MINUTE, 0, from, to),
        span: 40 * MINUTE,
    },
    Case {
        clause: "TABLE(HOP(DATA => TABLE s, TIMECOL => DESCRIPTOR(ts), \
                 SLIDE => INTERVAL '5' MINUTE, SIZE => INTERVAL '10' MINUTE))",
        windows: |from, to| hop(5 * MINUTE, 10 * MINUTE, 0, from, to),
        span: HOUR,
    },
    Case {
        clause: "TABLE(CUMULATE(TABLE s, DESCRIPTOR(ts), INTERVAL '2' MINUTE, INTERVAL '10' MINUTE))",
        windows: |from, to| cumulate(2 * MINUTE, 10 * MINUTE, from, to),
        span: 30 * MINUTE,
    },
    Case {
        clause: "TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MONTH))",
        windows: |from, to| month_starts(from, to).windows(2).map(|w| (w[0], w[1])).collect(),
        span: 200 * DAY,
    },
    Case {
        clause: "TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MONTH, INTERVAL '3' MONTH))",
        windows: |from, to| month_starts(from, to).windows(4).map(|w| (w[0], w[3])).collect(),
        span: 300 * DAY,
    },
];

/// SELECTs over a window: `{from}` is the window call or the oracle's join.
pub(crate) const QUERIES: &[&str] = &[
    "SELECT window_start, window_end, k, count(*) AS c, count(n) AS cn, sum(n) AS sn, sum(big) AS sb, \
     sum(price) AS sp, avg(price) AS ap, min(n) AS mi, max(price) AS ma, sum(n * price) AS rev \
     FROM {from} GROUP BY window_start, window_end, k",
    "SELECT window_start, window_end, window_time, count(*) AS c, avg(f) AS af, stddev(f) AS sf, \
     sum(f) AS f1, min(k) AS mk, max(ts) AS mt \
     FROM {from} GROUP BY window_start, window_end, window_time",
    "SELECT window_start, window_end, flag, count(DISTINCT k) AS dk, approx_distinct(n) AS an, \
     first_value(id ORDER BY ts, id) AS fi, last_value(id ORDER BY ts, id) AS la, \
     count(*) FILTER (WHERE n > 0) AS pos, sum(price) FILTER (WHERE flag) AS fp \
     FROM {from} WHERE n IS NOT NULL AND upper(k) <> 'FIG' GROUP BY window_start, window_end, flag",
    "SELECT window_end, k AS fruit, n % 3 AS m, count(*) * 2 AS twice, CAST(sum(n) AS DOUBLE) / count(*) AS ratio \
     FROM {from} GROUP BY window_start, window_end, k, n % 3 HAVING count(*) > 1 AND max(n) > 10",
    "SELECT window_start, window_end, k, flag, count(*) AS c, sum(price) AS sp, grouping(k) AS gk \
     FROM {from} GROUP BY GROUPING SETS ((window_start, window_end, k), (window_start, window_end, flag), \
     (window_start, window_end), (window_start, window_end, k, flag))",
    "SELECT window_start, q.label, q.total + 1 AS more FROM (SELECT window_start, window_end, \
     coalesce(k, 'none') AS label, sum(price) AS total FROM {from} WHERE price > 0 \
     GROUP BY window_start, window_end, coalesce(k, 'none')) q WHERE q.total > 100",
];

pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

fn check(case: &Case, queries: &[&str], rows_seed: u64, count: usize, delivery: &Delivery) {
    let rows = random_rows(rows_seed, count, START + 17, case.span);
    let statements: Vec<String> = queries
        .iter()
        .enumerate()
        .map(|(index, query)| {
            format!("CREATE MATERIALIZED VIEW v{index} AS {}", query.replace("{from}", case.clause))
        })
        .collect();
    let output = run(&catalog(&statements), &rows, delivery);
    let windows = (case.windows)(START, START + case.span);
    for (index, query) in queries.iter().enumerate() {
        let expected =
            canonical(&block(batch(&rows, &windows, &query.replace("{from}", "windowed"))));
        let streamed = canonical(output.get(&format!("v{index}")).map_or(&[][..], Vec::as_slice));
        assert_eq!(streamed, expected, "{query}\nover {}", case.clause);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// All queries of a window kind at once: they share keys and slices where they can.
    #[test]
    fn streaming_equals_batch(
        case in 0..CASES.len(),
        rows_seed in any::<u64>(),
        count in 1..400usize,
        partitions in 1..=8usize,
        seed in any::<u64>(),
        restore_after in 0..30usize,
    ) {
        let delivery = Delivery { partitions, seed, restore_after };
        check(&CASES[case], QUERIES, rows_seed, count, &delivery);
    }
}

/// Every window kind with every query, once, so that no combination is left to chance.
#[test]
fn every_window_with_every_query() {
    for (index, case) in CASES.iter().enumerate() {
        let delivery = Delivery { partitions: 1 + index % 4, seed: index as u64, restore_after: 3 };
        check(case, QUERIES, 99 + index as u64, 300, &delivery);
    }
}

/// The first rows of each window by an order, ties broken by the other columns.
#[test]
fn top_rows_of_each_window_equal_row_number() {
    let from = "TABLE(HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTE))";
    let inner = "SELECT window_start, window_end, k, n % 7 AS m, sum(n) AS total FROM {from} \
                 GROUP BY window_start, window_end, k, n % 7";
    let view = format!(
        "CREATE MATERIALIZED VIEW top AS {} ORDER BY total DESC NULLS LAST LIMIT 3",
        inner.replace("{from}", from)
    );
    let oracle = format!(
        "SELECT window_start, window_end, k, m, total FROM (SELECT *, row_number() OVER (PARTITION BY \
         window_start, window_end ORDER BY total DESC NULLS LAST, k NULLS FIRST, m NULLS FIRST) AS r FROM ({})) WHERE r <= 3",
        inner.replace("{from}", "windowed")
    );
    for seed in 0..6 {
        let rows = random_rows(seed, 500, START, 12 * MINUTE);
        let delivery = Delivery { partitions: 3, seed, restore_after: 5 };
        let output = run(&catalog(std::slice::from_ref(&view)), &rows, &delivery);
        let windows = hop(MINUTE, 3 * MINUTE, 0, START, START + 12 * MINUTE);
        let expected = canonical(&block(batch(&rows, &windows, &oracle)));
        assert_eq!(canonical(&output["top"]), expected);
    }
}

/// A view over a view: minutes rolled up to ten minutes, and a stateless view in between.
#[test]
fn views_over_views_equal_the_direct_query() {
    let statements = [
        "CREATE MATERIALIZED VIEW clean AS SELECT ts, upper(k) AS k, price FROM s WHERE price IS NOT NULL",
        "CREATE MATERIALIZED VIEW minutes AS SELECT window_start, window_end, window_time, k, \
         count(*) AS c, sum(price) AS p FROM TABLE(TUMBLE(TABLE clean, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) \
         GROUP BY window_start, window_end, window_time, k",
        "CREATE MATERIALIZED VIEW tens AS SELECT window_start, window_end, k, sum(c) AS c, sum(p) AS p \
         FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(window_time), INTERVAL '10' MINUTE)) \
         GROUP BY window_start, window_end, k",
        "CREATE MATERIALIZED VIEW fives AS SELECT window_start, window_end, k, sum(c) AS c, sum(p) AS p \
         FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(window_start), INTERVAL '5' MINUTE)) \
         GROUP BY window_start, window_end, k",
    ]
    .map(str::to_owned);
    let sql = "SELECT window_start, window_end, upper(k) AS k, count(*) AS c, sum(price) AS p FROM windowed \
               WHERE price IS NOT NULL GROUP BY window_start, window_end, upper(k)";
    for seed in 0..6 {
        let rows = random_rows(seed, 400, START, HOUR);
        let delivery = Delivery { partitions: 4, seed, restore_after: 7 };
        let output = run(&catalog(&statements), &rows, &delivery);
        for (view, size) in [("tens", 10 * MINUTE), ("fives", 5 * MINUTE)] {
            let windows = tumble(size, 0, START, START + HOUR);
            let expected = canonical(&block(batch(&rows, &windows, sql)));
            assert_eq!(canonical(&output[view]), expected, "{view}");
        }
    }
}
