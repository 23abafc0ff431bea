//! Sinks: the Delta table of a view, and files whose appends can be repeated.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Decimal128Array, DictionaryArray, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray, Time64MicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int32Type, Schema, TimeUnit};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_connectors::sinks::{self, Delivery, delta, filesystem::FileSink};
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Options, SinkSpec, StagedFile};

fn sink(options: &[(&str, &str)]) -> SinkSpec {
    let mut with = Options::default();
    for (key, value) in options {
        with.insert(key, *value, None);
    }
    SinkSpec { name: "big_orders".to_owned(), options: with }
}

fn batch(from: i64, count: i64) -> RecordBatch {
    let window: TimestampMillisecondArray =
        (from..from + count).map(|n| Some(1_291_205_160_000 + n * 60_000)).collect();
    let country: StringViewArray = (from..from + count).map(|n| Some(format!("C{n}"))).collect();
    let orders: Int64Array = (from..from + count).map(Some).collect();
    let revenue = Decimal128Array::from_iter_values((from..from + count).map(|n| match n {
        99 => 123_456_789_012_345_678_901_234_567_890_123_999,
        _ => i128::from(n) * 101,
    }));
    let revenue = revenue.with_precision_and_scale(38, 3).unwrap();
    RecordBatch::try_from_iter([
        ("window_start", Arc::new(window) as ArrayRef),
        ("country", Arc::new(country) as ArrayRef),
        ("orders", Arc::new(orders) as ArrayRef),
        ("revenue", Arc::new(revenue) as ArrayRef),
    ])
    .unwrap()
}

async fn stage(store: &Store, view: &str, name: &str, rows: &RecordBatch) -> StagedFile {
    let bytes = delta::write_parquet(std::slice::from_ref(rows)).unwrap();
    let path = delta::location(view).join(name);
    store::put(store, &path, bytes.clone()).await.unwrap();
    StagedFile {
        view: view.to_owned(),
        path: path.to_string(),
        bytes: bytes.len() as u64,
        rows: rows.num_rows() as u64,
        crc32c: crc32c::crc32c(&bytes),
    }
}

fn local() -> (tempfile::TempDir, Store) {
    // `TIDEMILL_KEEP` keeps the tables for a look with another reader.
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var("TIDEMILL_KEEP").unwrap_or(folder.path().display().to_string());
    let store = store::open(&path, &BTreeMap::new()).unwrap();
    (folder, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_added_once() {
    let (_folder, store) = local();
    let view = "sales_per_minute";
    let schema = batch(0, 1).schema();
    assert!(delta::files(&store, view).await.unwrap().is_empty());
    delta::create_if_missing(&store, view, &schema).await.unwrap();
    delta::create_if_missing(&store, view, &schema).await.unwrap();
    assert_eq!(delta::committed_version(&store, view, "job").await.unwrap(), None);

    let first = stage(&store, view, "1.parquet", &batch(0, 100)).await;
    let second = stage(&store, view, "2.parquet", &batch(100, 50)).await;
    let add = async |files: &[StagedFile], version| {
        delta::add_files(&store, view, files, "job", version).await.unwrap()
    };
    assert!(add(std::slice::from_ref(&first), 1).await);
    assert!(!add(std::slice::from_ref(&first), 1).await, "a repeat does nothing");
    assert!(add(std::slice::from_ref(&second), 4).await);
    assert!(!add(&[first.clone(), second.clone()], 3).await, "nor does an older one");
    assert_eq!(
        delta::files(&store, view).await.unwrap(),
        vec!["tables/sales_per_minute/1.parquet", "tables/sales_per_minute/2.parquet"]
    );
    assert_eq!(delta::committed_version(&store, view, "job").await.unwrap(), Some(4));

    let log = delta::location(view).join("_delta_log").join("00000000000000000001.json");
    let log = store::get(&store, &log).await.unwrap().unwrap();
    let add = String::from_utf8(log.to_vec()).unwrap();
    let add: serde_json::Value = add
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|action| action.get("add").is_some())
        .unwrap();
    let stats: serde_json::Value =
        serde_json::from_str(add["add"]["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats["numRecords"], 100);
    assert_eq!(stats["minValues"]["orders"], 0);
    assert_eq!(stats["maxValues"]["orders"], 99);
    assert_eq!(stats["nullCount"]["country"], 0);
    assert_eq!(stats["minValues"]["window_start"], "2010-12-01T12:06:00Z");
    let text = add["add"]["stats"].as_str().unwrap();
    assert!(text.contains("\"revenue\":123456789012345678901234567890123.999"), "{text}");

    let other = Schema::new(vec![Field::new("x", DataType::Int32, true)]);
    let error = delta::create_if_missing(&store, view, &other).await.unwrap_err();
    assert_eq!(error.code, "TM563");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_and_a_race_lose_nothing() {
    let url = std::env::var("TIDEMILL_S3_URL")
        .map(|bucket| format!("{bucket}/delta-test/{}", uuid::Uuid::new_v4()))
        .unwrap_or("memory://".to_owned());
    let store = store::open(&url, &BTreeMap::new()).unwrap();
    let view = "race";
    delta::create_if_missing(&store, view, &batch(0, 1).schema()).await.unwrap();
    // More than one checkpoint interval.
    for version in 1..=60 {
        let file = stage(&store, view, &format!("a{version}.parquet"), &batch(version, 1)).await;
        assert!(delta::add_files(&store, view, &[file], "a", version).await.unwrap());
    }
    let file = stage(&store, view, "b.parquet", &batch(0, 1)).await;
    let rivals = (0..4).map(|_| {
        let (store, file) = (Arc::clone(&store), file.clone());
        tokio::spawn(async move { delta::add_files(&store, view, &[file], "b", 1).await })
    });
    let mut added = 0;
    for outcome in futures::future::join_all(rivals).await {
        added += usize::from(outcome.unwrap().unwrap());
    }
    assert!(added >= 1, "of rivals with one version, one adds");
    assert_eq!(delta::files(&store, view).await.unwrap().len(), 61);
    let logs = store::list(&store, &delta::location(view).join("_delta_log")).await.unwrap();
    // Rivals that write the same bytes at the same moment are one: each hears that it is there.
    let mut entries = 0;
    for path in logs.iter().filter(|path| path.as_ref().ends_with(".json")) {
        let entry = store::get(&store, path).await.unwrap().unwrap();
        entries += usize::from(String::from_utf8_lossy(&entry).contains("\"b.parquet\""));
    }
    assert_eq!(entries, 1, "one entry of the log adds the file");
    assert!(logs.iter().any(|path| path.as_ref().ends_with(".checkpoint.parquet")), "{logs:?}");
}

/// All values of the column `orders` in the table's active files, sorted.
async fn orders(store: &Store, view: &str) -> Vec<i64> {
    let mut values = Vec::new();
    for path in delta::files(store, view).await.unwrap() {
        let bytes = store::get(store, &Path::from(path)).await.unwrap().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        for rows in reader {
            let rows = rows.unwrap();
            let column = rows.column_by_name("orders").unwrap();
            values.extend_from_slice(column.as_primitive::<arrow::datatypes::Int64Type>().values());
        }
    }
    values.sort_unstable();
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_become_one_and_no_row_changes() {
    let (_folder, store) = local();
    let view = "compacted";
    let settings = delta::CompactSettings { files_min: 10, ..Default::default() };
    delta::create_if_missing(&store, view, &batch(0, 1).schema()).await.unwrap();
    let add = async |version: i64| {
        let name = format!("part-{version:04}.parquet");
        let file = stage(&store, view, &name, &batch(version * 10, 10)).await;
        delta::add_files(&store, view, &[file], "job", version).await.unwrap()
    };
    for version in 1..10 {
        assert!(add(version).await);
    }
    let few = delta::compact(&store, view, settings).await.unwrap();
    assert_eq!(few, None, "nine files are left alone");
    for version in 10..=20 {
        assert!(add(version).await);
    }
    // The writer goes on while files are put together.
    let compacting = delta::compact(&store, view, settings);
    let (done, added) = futures::future::join(compacting, add(21)).await;
    assert!(added);
    let done = done.unwrap().expect("twenty files are worth it");
    assert!(done.removed.len() >= 20, "{done:?}");
    let files = delta::files(&store, view).await.unwrap();
    assert!(files.contains(&done.added) && files.len() <= 2, "{files:?}");
    let expected: Vec<i64> = (10..220).collect();
    assert_eq!(orders(&store, view).await, expected);
    for old in &done.removed {
        let there = store::get(&store, &Path::from(old.as_str())).await.unwrap();
        assert!(there.is_some(), "{old}: readers of an older version still need it");
    }
    assert!(!add(21).await, "what was added stays known");
    assert_eq!(delta::committed_version(&store, view, "job").await.unwrap(), Some(21));
    assert_eq!(delta::compact(&store, view, settings).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_there_is_named() {
    let store = store::open("memory://", &BTreeMap::new()).unwrap();
    let error = delta::add_files(&store, "nothing", &[], "job", 1).await.unwrap_err();
    assert_eq!(error.code, "TM565");
    delta::create_if_missing(&store, "v", &batch(0, 1).schema()).await.unwrap();
    let foreign = StagedFile {
        view: "v".to_owned(),
        path: "elsewhere/1.parquet".to_owned(),
        bytes: 1,
        rows: 1,
        crc32c: 0,
    };
    assert!(delta::add_files(&store, "v", &[foreign], "job", 1).await.is_err());
}

#[test]
fn lake_types_lose_no_digit() {
    let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None].into_iter().collect();
    let rows = RecordBatch::try_from_iter([
        ("u32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])) as ArrayRef),
        ("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])) as ArrayRef),
        (
            "naive",
            Arc::new(TimestampNanosecondArray::from(vec![Some(1_234_567), None])) as ArrayRef,
        ),
        (
            "zoned",
            Arc::new(TimestampMillisecondArray::from(vec![Some(5), None]).with_timezone("+02:00"))
                as ArrayRef,
        ),
        (
            "time",
            Arc::new(Time64MicrosecondArray::from(vec![Some(3_723_000_000), None])) as ArrayRef,
        ),
        ("dict", Arc::new(dictionary) as ArrayRef),
    ])
    .unwrap();
    let lake = delta::to_lake(&rows).unwrap();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types: Vec<DataType> =
        lake.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(
        types,
        vec![
            DataType::Int64,
            DataType::Decimal128(20, 0),
            utc.clone(),
            utc,
            DataType::Utf8,
            DataType::Utf8
        ]
    );
    let wide = lake.column(1).as_primitive::<Decimal128Type>();
    assert_eq!(wide.value(0), i128::from(u64::MAX));
    let text: &StringArray = lake.column(4).as_string();
    assert!(text.value(0).starts_with("01:02:03"), "{}", text.value(0));
    assert_eq!(
        lake.column(2).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0),
        1234
    );

    let schema = Schema::new(vec![Field::new("big", DataType::Decimal256(50, 2), true)]);
    let error = delta::lake_schema(&schema).unwrap_err();
    assert_eq!(error.code, "TM562");
    assert!(error.message.contains("'big'"), "{error}");
}

#[test]
fn a_parquet_file_reads_back() {
    let rows = batch(0, 1000);
    let bytes = delta::write_parquet(&[rows.clone(), batch(1000, 10)]).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 1);
    let read: usize = reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(read, 1010);
    assert!(delta::write_parquet(&[]).is_err());
}

#[tokio::test]
async fn a_file_ends_the_same_however_often_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/orders.csv");
    let text = path.display().to_string();
    let file = FileSink::new(&sink(&[("connector", "filesystem"), ("path", &text)])).unwrap();
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef),
        ("name", Arc::new(StringArray::from(vec!["a", "b,c"])) as ArrayRef),
    ])
    .unwrap();
    let first = file.encode(&rows, true).unwrap();
    assert_eq!(&first[..], b"id,name\n1,a\n,\"b,c\"\n");
    let length = file.append(0, first.clone()).await.unwrap();
    let second = file.encode(&rows, false).unwrap();
    let total = file.append(length, second.clone()).await.unwrap();
    // The same again, over a torn try, and late, when more is behind it.
    assert_eq!(file.append(length, second.clone()).await.unwrap(), total);
    file.append(length, Bytes::from(vec![0; 4])).await.unwrap();
    assert_eq!(file.append(length, second.clone()).await.unwrap(), total);
    let end = file.append(total, first.clone()).await.unwrap();
    assert_eq!(file.append(length, second.clone()).await.unwrap(), total);
    assert_eq!(std::fs::read(&path).unwrap(), [&first[..], &second[..], &first[..]].concat());
    assert_eq!(file.append(end + 1, second).await.unwrap_err().code, "TM560");
}

#[test]
fn sink_options_are_checked() {
    let code = |options: &[(&str, &str)]| sinks::validate(&sink(options)).map_err(|e| e.code);
    assert_eq!(code(&[("connector", "kafka"), ("topic", "big")]), Ok(()));
    assert_eq!(code(&[("connector", "kafka")]), Err("TM110"));
    assert_eq!(code(&[("connector", "kafka"), ("topic", "t"), ("x", "y")]), Err("TM111"));
    assert_eq!(code(&[("connector", "filesystem"), ("path", "/tmp/x.json")]), Ok(()));
    assert_eq!(code(&[("connector", "file"), ("path", "/tmp/")]), Err("TM551"));
    let avro = [("connector", "file"), ("path", "/tmp/x"), ("format", "avro")];
    assert_eq!(code(&avro), Err("TM540"));
    assert_eq!(code(&[("connector", "smoke-signal")]), Err("TM550"));
    let kafka = sink(&[("connector", "kafka"), ("topic", "big")]);
    assert_eq!(sinks::delivery(&kafka).unwrap(), Delivery::Topic);
    let file = sink(&[("connector", "file"), ("path", "/tmp/x")]);
    assert_eq!(sinks::delivery(&file).unwrap(), Delivery::File);
    assert_eq!(Path::from("tables/v"), delta::location("v"));
}
