//! Integer sums widen and never wrap, in registered queries and across a restore.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use tidemill_contract::{EventBatch, PartitionId, Watermark};
use tidemill_sql::engine::Engine;

use crate::oracle::canonical;
use crate::stream::{Delivery, catalog, random_rows, run};

/// The exact value of an expression over one integer.
type Exact = fn(i128) -> i128;

#[test]
fn a_sum_beyond_64_bits_is_exact() {
    let view = "CREATE MATERIALIZED VIEW v AS SELECT window_start, sum(big) AS total, \
                sum(-big) AS below, count(*) AS c \
                FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end";
    // One hour of event time from a full hour on: one window.
    let rows = random_rows(7, 64, 1_323_388_800_000_000, 3_600_000_000);
    let index = rows.schema().index_of("big").expect("declared");
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[index] = Arc::new(Int64Array::from(vec![i64::MAX; rows.num_rows()]));
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("the same types");
    for restore_after in [1, 2, 3] {
        let delivery = Delivery { partitions: 3, seed: 11, restore_after };
        let output = run(&catalog(&[view.to_owned()]), &rows, &delivery);
        let total = i128::from(i64::MAX) * 64;
        let expected = format!("2011-12-09T00:00:00|{total}|{}|64", -total);
        assert_eq!(canonical(&output["v"]), [expected]);
    }
}

/// A column over one hour of rows whose `big` is each of `values` in turn.
fn over_big(select: &str, values: &[i64]) -> Result<Vec<String>, String> {
    let view = format!(
        "CREATE MATERIALIZED VIEW v AS SELECT {select} AS x, count(*) AS n FROM \
         TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' HOUR)) \
         GROUP BY window_start, window_end, {select}"
    );
    run_big(&view, values)
}

/// What the view gives for one hour of rows.
fn run_big(view: &str, values: &[i64]) -> Result<Vec<String>, String> {
    let rows = random_rows(7, values.len(), 1_323_388_800_000_000, 3_600_000_000);
    let index = rows.schema().index_of("big").expect("declared");
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[index] = Arc::new(Int64Array::from(values.to_vec()));
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("the same types");
    let catalog = catalog(&[view.to_owned()]);
    let mut engine = Engine::build(&catalog, "s", &["v".to_owned()]).expect("the engine builds");
    let ts = rows.schema().index_of("ts").expect("declared");
    let times = arrow::compute::cast(rows.column(ts), &DataType::Int64).expect("a time");
    let batch = EventBatch {
        partition: PartitionId(0),
        event_time: Some(times.as_primitive::<Int64Type>().clone()),
        record_index: (0..values.len() as u32).collect(),
        offsets: Vec::new(),
        rows,
    };
    engine.push(&batch).map_err(|error| error.to_string())?;
    let closed = engine.advance(Watermark::MAX).map_err(|error| error.to_string())?;
    let batches: Vec<RecordBatch> = closed.into_iter().map(|emission| emission.rows).collect();
    Ok(canonical(&batches))
}

#[test]
fn integer_arithmetic_is_exact_or_an_error() {
    // What 128 bits say, which no 64-bit operation can overflow.
    let edge = [i64::MIN, i64::MIN + 1, -3_037_000_500, -2, -1, 0, 1, 2, 3_037_000_500, i64::MAX];
    let cases: [(&str, Exact); 6] = [
        ("big + 1", |big| big + 1),
        ("big - 1", |big| big - 1),
        ("big * big", |big| big * big),
        ("-big", |big| -big),
        ("(big - 1) + 1", |big| if big - 1 < i128::from(i64::MIN) { big - 1 } else { big }),
        ("big * 9223372036854775807", |big| big * i128::from(i64::MAX)),
    ];
    for (select, exact) in cases {
        for value in edge {
            let exact = exact(i128::from(value));
            let outcome = over_big(select, &[value]);
            match i64::try_from(exact) {
                Ok(fits) => assert_eq!(outcome, Ok(vec![format!("{fits}|1")]), "{select} {value}"),
                Err(_) => {
                    let error = outcome.expect_err(&format!("{select} of {value} wraps"));
                    let named = ["verflow", "out of range"].iter().any(|word| error.contains(word));
                    assert!(named, "{error}");
                }
            }
        }
    }
}

#[test]
fn time_beyond_its_type_is_an_error() {
    for select in ["ts + INTERVAL '290000' YEAR", "ts - INTERVAL '290000' YEAR"] {
        assert!(over_big(select, &[1]).is_err(), "{select}");
    }
}

#[test]
fn a_sum_of_long_decimals_is_exact_or_an_error() {
    // Two of them are beyond what 128 bits hold.
    let huge = "CAST('90000000000000000000000000000000000000' AS DECIMAL(38, 0))";
    let view = format!(
        "CREATE MATERIALIZED VIEW v AS SELECT sum(CASE WHEN big > 0 THEN {huge} ELSE -{huge} END) \
         AS x FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' HOUR)) \
         GROUP BY window_start, window_end"
    );
    assert!(run_big(&view, &[1; 8]).is_err(), "720000…0 does not fit 38 digits");
    let mixed = [1, 1, 1, -1, -1, -1, 1];
    let exact = "90000000000000000000000000000000000000";
    assert_eq!(run_big(&view, &mixed), Ok(vec![exact.to_owned()]));
}

/// A decimal compared with the number it is equal to, as written; the cast of a text is exact by
/// itself and says what must come out.
#[test]
fn a_decimal_is_compared_with_the_number_that_was_written() {
    let tests = [
        ("price >= {x}", "price >= {d}"),
        ("{x} < price", "{d} < price"),
        ("price = {x}", "price = {d}"),
        ("price BETWEEN {x} AND 5000.5", "price BETWEEN {d} AND CAST('5000.5' AS DECIMAL(10, 2))"),
        (
            "price IN (1, {x}, 2.5)",
            "price IN (CAST(1 AS DECIMAL(10, 2)), {d}, CAST('2.5' AS DECIMAL(10, 2)))",
        ),
        ("price <> {x}", "price <> {d}"),
        ("{x} IS DISTINCT FROM price", "price IS DISTINCT FROM {d}"),
    ];
    let rows = random_rows(5, 60, 1_323_388_800_000_000, 3_600_000_000);
    let prices = rows.column_by_name("price").expect("declared");
    let prices: Vec<String> = (0..rows.num_rows())
        .filter(|row| prices.is_valid(*row))
        .map(|row| arrow::util::display::array_value_to_string(prices, row).expect("a number"))
        .take(24)
        .collect();
    assert!(prices.len() > 20, "{prices:?}");
    let mut views = Vec::new();
    for (place, price) in prices.iter().enumerate() {
        let decimal = format!("CAST('{price}' AS DECIMAL(10, 2))");
        for (test, (written, exact)) in tests.iter().enumerate() {
            for (way, condition) in [("w", written), ("e", exact)] {
                let condition = condition.replace("{x}", price).replace("{d}", &decimal);
                views.push(format!(
                    "CREATE MATERIALIZED VIEW {way}{place}_{test} AS SELECT id FROM s WHERE {condition}"
                ));
            }
        }
    }
    let delivery = Delivery { partitions: 1, seed: 1, restore_after: 1 };
    let output = run(&catalog(&views), &rows, &delivery);
    let of = |name: String| canonical(output.get(&name).map_or(&[][..], Vec::as_slice));
    let mut found = 0;
    for (place, price) in prices.iter().enumerate() {
        for (test, (written, _)) in tests.iter().enumerate() {
            let exact = of(format!("e{place}_{test}"));
            found += exact.len();
            assert_eq!(of(format!("w{place}_{test}")), exact, "{written} with {price}");
        }
    }
    assert!(found > prices.len(), "{found} rows");
}
