//! Sources: the shop's known totals, every file format and compression, faults, following.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::{Decimal128Array, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, TimeUnit};
use serde_json::{Value, json};
use std::sync::Arc;
use tidemill_connectors::sources;
use tidemill_contract::{Column, ColumnKind, FaultClass, Options, Source, SourceRow, SourceSpec};

fn spec(columns: &[(&str, DataType)], options: &[(&str, &str)]) -> SourceSpec {
    let mut with = Options::default();
    for (key, value) in options {
        with.insert(key, *value, None);
    }
    SourceSpec {
        name: "orders".to_owned(),
        columns: columns
            .iter()
            .map(|(name, data_type)| Column {
                name: (*name).to_owned(),
                data_type: data_type.clone(),
                nullable: true,
                kind: ColumnKind::Physical,
            })
            .collect(),
        watermark: None,
        options: with,
    }
}

fn open(spec: &SourceSpec, done: &[&str]) -> Box<dyn Source> {
    let done: BTreeSet<String> = done.iter().map(|unit| (*unit).to_owned()).collect();
    sources::open(spec, done).unwrap().expect("a source to feed")
}

async fn rows_of_unit(source: &mut Box<dyn Source>) -> Vec<SourceRow> {
    let mut rows: Vec<SourceRow> = Vec::new();
    loop {
        let next = source.next_rows().await.unwrap();
        if next.is_empty() {
            let numbers: Vec<u64> = rows.iter().map(|row| row.row).collect();
            assert_eq!(numbers, (0..rows.len() as u64).collect::<Vec<_>>());
            return rows;
        }
        rows.extend(next);
    }
}

async fn read_all(source: &mut Box<dyn Source>) -> Vec<(String, Vec<SourceRow>)> {
    let mut units = Vec::new();
    while let Some(unit) = source.next_unit().await.unwrap() {
        let rows = rows_of_unit(source).await;
        units.push((unit, rows));
    }
    units
}

fn json(row: &SourceRow) -> Value {
    serde_json::from_slice(row.payload.as_ref().unwrap()).unwrap()
}

fn shop(options: &[(&str, &str)]) -> SourceSpec {
    let mut all = vec![("connector", "shop")];
    all.extend(options);
    spec(&[("invoice", DataType::Utf8), ("quantity", DataType::Int32)], &all)
}

/// A price in thousandths: the data has at most three places.
fn thousandths(number: &str) -> i64 {
    let (whole, places) = number.split_once('.').unwrap_or((number, ""));
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let places = format!("{places:0<3}").parse::<i64>().unwrap();
    whole.parse::<i64>().unwrap() * 1000 + sign * places
}

#[tokio::test]
async fn the_shop_is_replayed_whole() {
    let mut source = open(&shop(&[]), &[]);
    let (mut rows, mut gross, mut net, mut units) = (0_u64, 0_i64, 0_i64, 0_i64);
    let mut orders = BTreeSet::new();
    let mut months = Vec::new();
    let mut last = String::new();
    while let Some(month) = source.next_unit().await.unwrap() {
        for row in rows_of_unit(&mut source).await {
            let row = json(&row);
            let quantity = row["quantity"].as_i64().unwrap();
            let price = thousandths(&row["unit_price"].to_string());
            let invoice = row["invoice"].as_str().unwrap();
            let date = row["invoice_date"].as_str().unwrap();
            assert!(date >= last.as_str() && date.starts_with(&month));
            date.clone_into(&mut last);
            rows += 1;
            net += quantity * price;
            if !invoice.starts_with('C') && quantity > 0 && price > 0 {
                gross += quantity * price;
                units += quantity;
                orders.insert(invoice.to_owned());
            }
        }
        months.push(month);
    }
    assert_eq!(rows, 541_909);
    assert_eq!((gross + 5) / 10, 1_066_668_454);
    assert_eq!((net + 5) / 10, 974_774_793);
    assert_eq!(orders.len(), 19_960);
    assert_eq!(units, 5_588_376);
    assert_eq!(months.len(), 13);
    assert_eq!((months[0].as_str(), months[12].as_str()), ("2010-12", "2011-12"));
}

#[tokio::test]
async fn the_shop_leaves_out_what_is_done_and_stops_at_the_limit() {
    let mut source = open(&shop(&[("limit", "60000")]), &["2010-12"]);
    let units = read_all(&mut source).await;
    assert_eq!(units.len(), 1);
    assert_eq!(units[0].0, "2011-01");
    assert_eq!(units[0].1.len(), 60_000 - 42_481, "December counts against the limit");
    assert_eq!(
        json(&open_first(&shop(&[])).await),
        json!({
            "invoice": "536365", "stock_code": "85123A",
            "description": "WHITE HANGING HEART T-LIGHT HOLDER", "quantity": 6,
            "invoice_date": "2010-12-01 08:26:00", "unit_price": 2.55,
            "customer_id": "17850", "country": "United Kingdom",
        })
    );
    // A unit left early is left whole.
    let mut source = open(&shop(&[]), &[]);
    source.next_unit().await.unwrap();
    source.next_rows().await.unwrap();
    assert_eq!(source.next_unit().await.unwrap().as_deref(), Some("2011-01"));
}

async fn open_first(spec: &SourceSpec) -> SourceRow {
    let mut source = open(spec, &[]);
    source.next_unit().await.unwrap();
    source.next_rows().await.unwrap().remove(0)
}

#[tokio::test]
async fn the_shop_keeps_its_own_time() {
    // The first 1,000 lines span 08:26 to about 11 o'clock; a minute of it takes 10 ms here.
    let paced = shop(&[("limit", "1000"), ("speed", "6000")]);
    let mut source = open(&paced, &[]);
    let begin = Instant::now();
    source.next_unit().await.unwrap();
    let rows = rows_of_unit(&mut source).await;
    let last = json(&rows[999])["invoice_date"].as_str().unwrap().to_owned();
    let minutes =
        (last[11..13].parse::<u32>().unwrap() - 8) * 60 + last[14..16].parse::<u32>().unwrap() - 26;
    assert!(minutes > 100);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(10) * minutes, "{took:?} for {minutes} min");

    // What the topic has already is not paced again.
    let mut source = open(&shop(&[("limit", "1000"), ("speed", "1")]), &[]);
    source.next_unit().await.unwrap();
    source.already_fed(1000);
    assert_eq!(rows_of_unit(&mut source).await.len(), 1000);
}

#[test]
fn options_and_columns_are_checked() {
    let code = |spec: &SourceSpec| sources::validate(spec).map_err(|error| error.code);
    assert_eq!(code(&shop(&[("speed", "3600")])), Ok(()));
    assert_eq!(code(&shop(&[("speed", "0")])), Err("TM551"));
    assert_eq!(code(&shop(&[("colour", "red")])), Err("TM111"));
    let wrong = spec(&[("amount", DataType::Int32)], &[("connector", "shop")]);
    let error = sources::validate(&wrong).unwrap_err();
    assert_eq!(error.code, "TM552");
    assert!(error.help.unwrap().contains("unit_price"));
    assert_eq!(code(&spec(&[], &[("connector", "carrier-pigeon")])), Err("TM550"));
    assert_eq!(code(&spec(&[], &[])), Err("TM110"));

    let kafka = |options: &[(&str, &str)]| {
        let mut all = vec![("connector", "kafka")];
        all.extend(options);
        sources::validate(&spec(&[], &all)).map_err(|error| error.code)
    };
    assert_eq!(kafka(&[("topic", "orders"), ("format", "json")]), Ok(()));
    assert_eq!(kafka(&[("scan.startup.mode", "earliest-offset")]), Ok(()));
    assert_eq!(kafka(&[("scan.startup.mode", "yesterday")]), Err("TM551"));
    assert_eq!(kafka(&[("scan.startup.mode", "timestamp")]), Err("TM551"));
    assert_eq!(kafka(&[("format", "avro")]), Err("TM540"));
    assert_eq!(kafka(&[("properties.ssl.ca.location", "/etc/passwd")]), Err("TM520"));
    assert_eq!(kafka(&[("properties.bootstrap.servers", "localhost:9092")]), Ok(()));
    let opened = sources::open(&spec(&[], &[("connector", "kafka")]), BTreeSet::new());
    assert!(opened.unwrap().is_none());

    let file = |options: &[(&str, &str)]| {
        let mut all = vec![("connector", "filesystem"), ("path", "/tmp/x.csv")];
        all.extend(options);
        sources::validate(&spec(&[], &all)).map_err(|error| error.code)
    };
    assert_eq!(file(&[("csv.field-delimiter", ";")]), Ok(()));
    assert_eq!(file(&[("csv.field-delimiter", "ab")]), Err("TM551"));
    assert_eq!(file(&[("csv.colour", "red")]), Err("TM111"));
    assert_eq!(file(&[("format", "json"), ("csv.header", "true")]), Err("TM111"));
    assert_eq!(file(&[("source.monitor-interval", "1 s")]), Ok(()));
    assert_eq!(file(&[("source.monitor-interval", "soon")]), Err("TM551"));
    assert_eq!(file(&[("compression", "rar")]), Err("TM551"));
}

fn columns() -> Vec<(&'static str, DataType)> {
    vec![
        ("id", DataType::Int32),
        ("name", DataType::Utf8),
        ("price", DataType::Decimal128(12, 2)),
        ("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
    ]
}

fn files(path: &Path, options: &[(&str, &str)]) -> SourceSpec {
    let text = path.display().to_string();
    let mut all = vec![("connector", "filesystem"), ("path", text.as_str())];
    all.extend(options);
    spec(&columns(), &all)
}

const CSV: &str = "id,extra,name,price,at\n\
    1,x,\"Ann, \"\"A\"\"\",2.50,2024-01-01 00:00:00\n\
    007,x,,abc,1704067200000\n\
    3,x,short\n\
    4,x,ok,-.5,\n";

fn check_csv(rows: &[SourceRow]) {
    assert_eq!(rows.len(), 4);
    let text =
        |index: usize| String::from_utf8(rows[index].payload.clone().unwrap().to_vec()).unwrap();
    assert_eq!(text(0), r#"{"id":1,"name":"Ann, \"A\"","price":2.50,"at":"2024-01-01 00:00:00"}"#);
    assert_eq!(text(1), r#"{"id":"007","name":null,"price":"abc","at":1704067200000}"#);
    let fault = rows[2].payload.as_ref().unwrap_err();
    assert_eq!(fault.stage, "read");
    assert!(fault.reason.contains("3 fields instead of 5"), "{}", fault.reason);
    assert_eq!(&fault.raw[..], b"3,x,short");
    assert_eq!(text(3), r#"{"id":4,"name":"ok","price":"-.5","at":null}"#);
}

#[tokio::test]
async fn csv_by_header_in_every_compression() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.csv"), CSV).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(path("b.csv.gz")).unwrap(),
        flate2::Compression::fast(),
    );
    gzip.write_all(CSV.as_bytes()).unwrap();
    gzip.finish().unwrap();
    let mut xz =
        liblzma::write::XzEncoder::new(std::fs::File::create(path("c.csv.xz")).unwrap(), 1);
    xz.write_all(CSV.as_bytes()).unwrap();
    xz.finish().unwrap();
    std::fs::write(path("d.csv.zst"), zstd::encode_all(CSV.as_bytes(), 1).unwrap()).unwrap();
    std::fs::write(path(".hidden.csv"), "not,for,you\n").unwrap();

    let mut source = open(&files(folder.path(), &[]), &[]);
    let units = read_all(&mut source).await;
    let names: Vec<&str> = units.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, vec!["a.csv", "b.csv.gz", "c.csv.xz", "d.csv.zst"]);
    for (_, rows) in &units {
        check_csv(rows);
    }

    let done: Vec<&str> = units.iter().take(3).map(|(name, _)| name.as_str()).collect();
    let mut source = open(&files(&folder.path().join("*.csv*"), &[]), &done);
    let units = read_all(&mut source).await;
    assert_eq!(units.len(), 1);
    check_csv(&units[0].1);

    // A compression that is not in the name.
    std::fs::rename(path("b.csv.gz"), path("plain")).unwrap();
    let options = [("format", "csv"), ("compression", "gz")];
    let mut source = open(&files(&path("plain"), &options), &[]);
    check_csv(&read_all(&mut source).await[0].1);
}

#[tokio::test]
async fn csv_without_a_header_goes_by_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, b"1;a;1.5;2024-01-01\n# note\n2;\xff;1;\n3;\\N;2;\n").unwrap();
    let options =
        [("csv.field-delimiter", ";"), ("csv.allow-comments", "true"), ("csv.null-literal", "\\N")];
    let mut source = open(&files(&path, &options), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    assert_eq!(rows.len(), 3);
    assert_eq!(json(&rows[0])["at"], "2024-01-01");
    assert!(rows[1].payload.as_ref().unwrap_err().reason.contains("UTF-8"));
    assert_eq!(json(&rows[2])["name"], Value::Null);

    std::fs::write(&path, "a,b,c,d\n1,a,1,\n").unwrap();
    let mut source = open(&files(&path, &[("csv.ignore-header", "true")]), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    assert_eq!((rows.len(), &json(&rows[0])["id"]), (1, &json!(1)));
    let mut source = open(&files(&path, &[("csv.header", "true")]), &[]);
    let error = source.next_unit().await.unwrap_err();
    assert_eq!(error.code, "TM557");
    assert!(error.message.contains("id, name, price, at"), "{error}");
}

#[tokio::test]
async fn a_quote_that_is_never_closed_costs_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    let line = "2,b,1.5,\n";
    let lines = (40 << 20) / line.len();
    let text = format!("id,name,price,at\n1,\"a,1,\n{}", line.repeat(lines));
    std::fs::write(&path, text).unwrap();
    let mut source = open(&files(&path, &[]), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    let fault = rows[0].payload.as_ref().unwrap_err();
    assert_eq!((fault.stage, fault.class), ("read", FaultClass::TooLarge));
    assert!(fault.raw.len() <= 16 << 20);
    assert!(rows[1..].iter().all(|row| row.payload.is_ok()), "the next lines are rows again");
    let left = lines - (16 << 20) / line.len();
    assert!(rows.len().abs_diff(left) <= 3, "{} rows of {left}", rows.len());
}

#[tokio::test]
async fn json_lines_pass_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let mut bytes = b"{\"id\":1}\r\n\n   \nnot json\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', (16 << 20) + 5));
    bytes.extend_from_slice(b"\n{\"id\":2}");
    std::fs::write(&path, bytes).unwrap();
    let mut source = open(&files(&path, &[]), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0].payload.as_ref().unwrap(), "{\"id\":1}");
    assert_eq!(rows[1].payload.as_ref().unwrap(), "not json");
    assert!(rows[2].payload.as_ref().unwrap_err().reason.contains("longer than"));
    assert_eq!(rows[3].payload.as_ref().unwrap(), "{\"id\":2}");
}

#[tokio::test]
async fn parquet_gives_the_declared_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let ids: Int32Array = (0..2500).collect();
    let names: StringArray = (0..2500).map(|n| (n % 3 > 0).then(|| format!("n\n{n}"))).collect();
    let prices = Decimal128Array::from_iter_values((0..2500).map(i128::from));
    let prices = prices.with_precision_and_scale(12, 2).unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids.clone()) as _, true),
        ("other", Arc::new(ids) as _, true),
        ("name", Arc::new(names) as _, true),
        ("price", Arc::new(prices) as _, true),
    ])
    .unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let mut source = open(&files(&path, &[]), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    assert_eq!(rows.len(), 2500);
    let text = |n: usize| String::from_utf8(rows[n].payload.clone().unwrap().to_vec()).unwrap();
    assert_eq!(text(0), r#"{"id":0,"name":null,"price":0.00}"#);
    assert_eq!(text(2443), r#"{"id":2443,"name":"n\n2443","price":24.43}"#);
}

#[tokio::test]
async fn a_parquet_value_that_json_cannot_say_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let prices = Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(f64::INFINITY)]);
    let batch = RecordBatch::try_from_iter_with_nullable([("price", Arc::new(prices) as _, true)]);
    let batch = batch.unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut source = open(&files(&path, &[]), &[]);
    let rows = read_all(&mut source).await.remove(0).1;
    let classes: Vec<_> =
        rows.iter().map(|row| row.payload.as_ref().err().map(|fault| fault.class)).collect();
    assert_eq!(classes, [None, Some(FaultClass::Range), None, Some(FaultClass::Range)]);
}

#[tokio::test]
async fn nothing_to_read_is_an_error_and_so_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&files(&folder.path().join("*.csv"), &[]), &[]);
    assert_eq!(source.next_unit().await.unwrap_err().code, "TM555");
    std::fs::write(folder.path().join("x.csv.gz"), "this is no gzip").unwrap();
    let mut source = open(&files(folder.path(), &[]), &[]);
    assert_eq!(source.next_unit().await.unwrap_err().code, "TM556");
    std::fs::remove_file(folder.path().join("x.csv.gz")).unwrap();
    std::fs::write(folder.path().join("x.dat"), "?").unwrap();
    let mut source = open(&files(folder.path(), &[]), &[]);
    assert_eq!(source.next_unit().await.unwrap_err().code, "TM554");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_folder_gives_each_file_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("1.csv"), "id,name,price,at\n1,a,1,\n").unwrap();
    let options = [("source.monitor-interval", "20 ms")];
    let mut source = open(&files(folder.path(), &options), &[]);
    let first = source.next_unit().await.unwrap().unwrap();
    assert!(first.ends_with("1.csv"));
    assert_eq!(rows_of_unit(&mut source).await.len(), 1);

    let waiting = tokio::spawn(async move {
        let unit = source.next_unit().await.unwrap().unwrap();
        (unit, rows_of_unit(&mut source).await.len(), Instant::now())
    });
    std::fs::write(folder.path().join("2.csv"), "id,name,price,at\n1,a,1,\n2,b,2,\n").unwrap();
    let wrote = Instant::now();
    let (second, rows, read) = waiting.await.unwrap();
    assert!(second.ends_with("2.csv"));
    assert_eq!(rows, 2);
    assert!(read - wrote >= Duration::from_millis(15), "it was seen unchanged first");
}
