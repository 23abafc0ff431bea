//! Computed and metadata columns, and what happens to a row they fail on.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use tidemill_contract::{EventBatch, PartitionId, RawBatch, RawRecord, RowFault};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::SourceProgram;
use tidemill_sql::parse::parse_script;

const SOURCE: &str = "CREATE SOURCE s (
    at BIGINT, amount STRING,
    ts AS to_timestamp_millis(at),
    cents AS CAST(amount AS DECIMAL(10, 2)) * 100,
    arrived TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
    place BIGINT METADATA FROM 'offset',
    part INT METADATA FROM 'partition',
    key STRING METADATA,
    headers MAP<STRING, BYTES> METADATA,
    WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kafka')";

fn record(offset: i64) -> RawRecord {
    RawRecord {
        offset,
        timestamp_ms: 1_700_000_000_000 + offset,
        key: Some(Bytes::from(format!("key-{offset}"))),
        payload: Some(Bytes::from(format!("payload-{offset}"))),
        headers: vec![
            ("trace".to_owned(), Bytes::from_static(b"first")),
            ("trace".to_owned(), Bytes::from_static(b"last")),
        ],
    }
}

fn prepare(rows: &[(Option<i64>, &str)]) -> (EventBatch, Vec<(u32, RowFault)>) {
    let mut catalog = Catalog::new();
    for parsed in parse_script(SOURCE).unwrap_or_else(|error| panic!("{error}")) {
        catalog.apply(&parsed).unwrap_or_else(|error| panic!("{error}"));
    }
    let program = SourceProgram::new(catalog.source("s").expect("declared")).expect("it plans");
    let at: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
    let amount: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>());
    let physical = RecordBatch::try_new(program.physical_schema(), vec![at, amount]);
    let end = 100 + rows.len() as i64;
    let records: Vec<RawRecord> = (100..end).map(record).collect();
    let raw = RawBatch::of(PartitionId(3), &records, end);
    let index = (0..rows.len() as u32).collect();
    program.prepare(&physical.expect("the declared types"), index, &raw).expect("no bug")
}

#[test]
fn metadata_and_computed_columns_stand_where_they_were_declared() {
    let (batch, faults) = prepare(&[(Some(1_000), "1.50"), (Some(2_000), "2")]);
    assert_eq!(faults, []);
    let rows = &batch.rows;
    let names: Vec<String> =
        rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let declared = ["at", "amount", "ts", "cents", "arrived", "place", "part", "key", "headers"];
    assert_eq!(names, declared);
    let text = |column: usize, row: usize| {
        array_value_to_string(rows.column(column), row).expect("displayable")
    };
    assert_eq!(text(2, 1), "1970-01-01T00:00:02");
    assert_eq!(text(3, 0), "150.00");
    let zone = Some("UTC".into());
    assert_eq!(rows.column(4).data_type(), &DataType::Timestamp(TimeUnit::Millisecond, zone));
    let arrived = rows.column(4).as_primitive::<TimestampMillisecondType>();
    assert_eq!(arrived.value(1), 1_700_000_000_101);
    assert_eq!(rows.column(5).as_primitive::<Int64Type>().values(), &[100, 101]);
    assert_eq!(rows.column(6).as_primitive::<Int32Type>().values(), &[3, 3]);
    assert_eq!(text(7, 0), "key-100");
    let headers = rows.column(8).as_map().value(0);
    assert_eq!(headers.column(0).as_string::<i32>().value(0), "trace");
    assert_eq!(headers.column(1).as_binary::<i32>().value(0), b"last");
    assert_eq!(headers.len(), 1, "a repeated header keeps its last value");
    let times = batch.event_time.expect("a watermark is declared");
    assert_eq!(times.values(), &[1_000_000, 2_000_000]);
}

#[test]
fn a_row_that_cannot_be_completed_is_a_fault_and_its_neighbours_go_on() {
    let rows =
        [(Some(1_000), "1"), (Some(2_000), "one"), (None, "3"), (Some(4_000), "4"), (None, "x")];
    let (batch, faults) = prepare(&rows);
    assert_eq!(batch.record_index, [0, 3]);
    assert_eq!(batch.rows.num_rows(), 2);
    assert_eq!(batch.event_time.expect("declared").values(), &[1_000_000, 4_000_000]);
    let mut seen: Vec<(u32, &str)> =
        faults.iter().map(|(record, fault)| (*record, fault.stage)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(1, "check"), (2, "time"), (4, "check")]);
    let (_, fault) = &faults[0];
    assert_eq!(fault.raw, Bytes::from_static(b"payload-101"));
    assert!(fault.reason.contains("one"), "{}", fault.reason);
}
