//! The results printed in Flink's documentation of windowing functions, from its six-row Bid table
//! (Apache Flink docs, "Windowing table-valued functions" and "Window Aggregation").

use std::sync::Arc;

use arrow::array::{
    Array, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::util::display::array_value_to_string;
use tidemill_contract::{EventBatch, PartitionId, Watermark};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::{Engine, SourceProgram};
use tidemill_sql::parse::parse_script;

const BID: &str = "CREATE TABLE bid (
    bidtime TIMESTAMP(3), price DECIMAL(10, 2), item STRING, supplier_id STRING,
    WATERMARK FOR bidtime AS bidtime - INTERVAL '1' SECOND
) WITH ('connector' = 'kafka')";

/// 2020-04-15 08:00 UTC in milliseconds.
const EIGHT: i64 = 1_586_937_600_000;

fn bids(catalog: &Catalog) -> EventBatch {
    let minutes = [5, 7, 9, 11, 13, 17];
    let times: Vec<i64> = minutes.iter().map(|minute| EIGHT + minute * 60_000).collect();
    let prices = Decimal128Array::from(vec![400, 200, 500, 300, 100, 600])
        .with_precision_and_scale(10, 2)
        .expect("fits");
    let program = SourceProgram::new(catalog.source("bid").expect("declared")).expect("plain");
    let rows = RecordBatch::try_new(
        program.schema(),
        vec![
            Arc::new(arrow::array::TimestampMillisecondArray::from(times.clone())),
            Arc::new(prices),
            Arc::new(StringArray::from(vec!["C", "A", "D", "B", "E", "F"])),
            Arc::new(StringArray::from(vec![
                "supplier1",
                "supplier1",
                "supplier2",
                "supplier2",
                "supplier1",
                "supplier2",
            ])),
        ],
    )
    .expect("the declared types");
    EventBatch {
        partition: PartitionId(0),
        record_index: (0..6).collect(),
        offsets: Vec::new(),
        rows,
        event_time: Some(Int64Array::from_iter_values(times.iter().map(|ms| ms * 1_000))),
    }
}

/// Runs a view over the table and gives its rows as text, in order of emission.
fn rows_of(select: &str) -> Vec<String> {
    let mut catalog = Catalog::new();
    let script = format!("{BID}; CREATE MATERIALIZED VIEW v AS {select}");
    for parsed in parse_script(&script).unwrap_or_else(|error| panic!("{error}")) {
        catalog.apply(&parsed).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut engine = Engine::build(&catalog, "bid", &["v".to_owned()]).expect("builds");
    engine.push(&bids(&catalog)).expect("push");
    let mut lines = Vec::new();
    for emission in engine.advance(Watermark::MAX).expect("advance") {
        let batch = emission.rows;
        let mut window: Vec<String> = (0..batch.num_rows())
            .map(|row| {
                let cells: Vec<String> = batch.columns().iter().map(|c| show(c, row)).collect();
                cells.join(" ")
            })
            .collect();
        window.sort();
        lines.extend(window);
    }
    lines
}

fn show(column: &Arc<dyn Array>, row: usize) -> String {
    if let Some(times) = column.as_any().downcast_ref::<TimestampMicrosecondArray>() {
        let minute = (times.value(row) / 60_000_000) % 1_440;
        return format!("{:02}:{:02}", minute / 60, minute % 60);
    }
    if column.is_null(row) {
        return "(NULL)".to_owned();
    }
    array_value_to_string(column, row).expect("displayable")
}

#[test]
fn tumble_10_minutes() {
    let rows = rows_of(
        "SELECT window_start, window_end, SUM(price) AS total_price
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(bidtime), INTERVAL '10' MINUTES))
         GROUP BY window_start, window_end",
    );
    assert_eq!(rows, ["08:00 08:10 11.00", "08:10 08:20 10.00"]);
}

#[test]
fn hop_5_of_10_minutes() {
    let rows = rows_of(
        "SELECT window_start, window_end, SUM(price) AS total_price
         FROM TABLE(HOP(TABLE bid, DESCRIPTOR(bidtime), INTERVAL '5' MINUTES, INTERVAL '10' MINUTES))
         GROUP BY window_start, window_end",
    );
    let expected =
        ["08:00 08:10 11.00", "08:05 08:15 15.00", "08:10 08:20 10.00", "08:15 08:25 6.00"];
    assert_eq!(rows, expected);
}

#[test]
fn cumulate_2_of_10_minutes() {
    let rows = rows_of(
        "SELECT window_start, window_end, SUM(price) AS total_price
         FROM TABLE(CUMULATE(TABLE bid, DESCRIPTOR(bidtime), INTERVAL '2' MINUTES, INTERVAL '10' MINUTES))
         GROUP BY window_start, window_end",
    );
    let expected = [
        "08:00 08:06 4.00",
        "08:00 08:08 6.00",
        "08:00 08:10 11.00",
        "08:10 08:12 3.00",
        "08:10 08:14 4.00",
        "08:10 08:16 4.00",
        "08:10 08:18 10.00",
        "08:10 08:20 10.00",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn grouping_sets() {
    let rows = rows_of(
        "SELECT window_start, window_end, supplier_id, SUM(price) AS total_price
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(bidtime), INTERVAL '10' MINUTES))
         GROUP BY window_start, window_end, GROUPING SETS ((supplier_id), ())",
    );
    let expected = [
        "08:00 08:10 (NULL) 11.00",
        "08:00 08:10 supplier1 6.00",
        "08:00 08:10 supplier2 5.00",
        "08:10 08:20 (NULL) 10.00",
        "08:10 08:20 supplier1 1.00",
        "08:10 08:20 supplier2 9.00",
    ];
    assert_eq!(rows, expected);
}
