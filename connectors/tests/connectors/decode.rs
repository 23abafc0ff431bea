//! The two ways of decoding JSON, compared on rows of every type: in any order of keys, with keys
//! left out, repeated and escaped, with strange values, spaces, nested values and torn bytes.
//! Whatever comes, rows and faults are the same, in the same places, with the same reasons.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use proptest::prelude::*;
use tidemill_connectors::format::json::JsonDecoder;
use tidemill_contract::{Options, PartitionId, RawBatch, RawRecord};

/// Name, type and whether null is allowed.
fn columns() -> Vec<Field> {
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    vec![
        Field::new("id", DataType::Int64, false),
        Field::new("small", DataType::Int8, true),
        Field::new("count", DataType::UInt32, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("title", DataType::Utf8View, true),
        Field::new("price", DataType::Decimal128(12, 2), true),
        Field::new("rate", DataType::Float64, true),
        Field::new("ratio", DataType::Float32, true),
        Field::new("at", utc(TimeUnit::Microsecond), true),
        Field::new("then", utc(TimeUnit::Second), true),
        Field::new("day", DataType::Date32, true),
        Field::new("hour", DataType::Time64(TimeUnit::Microsecond), true),
        Field::new("raw", DataType::Binary, true),
        Field::new("is open", DataType::Boolean, true),
    ]
}

/// Keys as they may be written: of columns, of none, with escapes.
const KEYS: &[&str] = &[
    "id",
    "small",
    "count",
    "name",
    "title",
    "price",
    "rate",
    "ratio",
    "at",
    "then",
    "day",
    "hour",
    "raw",
    "is open",
    "i\\u0064",
    "na\\u006de",
    "nobody",
    "x\\\"y",
    "",
    "ID",
    "\u{e9}",
];

/// Values that fit some column, none, or break the JSON.
const VALUES: &[&str] = &[
    "1",
    "-1",
    "0",
    "127",
    "128",
    "-129",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "1.0",
    "1.5",
    "1e2",
    "1e400",
    "-0",
    "-0.0",
    "0.005",
    "12345678901.23",
    "1704067200000",
    "99999999999999999999",
    "01",
    "1.",
    "+1",
    ".5",
    "1e",
    "--1",
    "true",
    "false",
    "null",
    "nul",
    "\"\"",
    "\"1\"",
    "\" 7 \"",
    "\"true\"",
    "\"TRUE\"",
    "\"2024-01-01\"",
    "\"2024-01-01T10:00:00Z\"",
    "\"2024-01-01 10:00:00.123456+02:00\"",
    "\"10:11:12\"",
    "\"AAEC\"",
    "\"A\"",
    "\"NaN\"",
    "\"a somewhat longer text than a view keeps in place\"",
    "\"caf\u{e9}\"",
    "\"a\\nb\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\u0000\"",
    "\"\\x\"",
    "\"tab\there\"",
    "\"open",
    "{}",
    "[]",
    "{\"id\":2}",
    "[1,{\"name\":\"x\"}]",
    "[1,]",
    "{\"a\"}",
];

/// What stands between tokens.
const SPACES: &[&str] = &["", "", "", "", "", " ", "\n\t "];

#[derive(Debug, Clone)]
struct Row {
    /// Key, value, space before the value.
    fields: Vec<(usize, usize, usize)>,
    /// All columns first, in their order, with values that fit.
    is_plain: bool,
    /// Where the bytes are cut, if at all.
    cut: Option<usize>,
    /// A byte that is put somewhere.
    spoiled: Option<(usize, u8)>,
}

const FITTING: &str = r#""id":7,"small":-3,"count":12,"name":"chair","title":"red","price":12.5,"rate":0.25,"ratio":2,"at":1704067200000,"then":"2024-01-01T00:00:00Z","day":"2024-02-29","hour":"01:02:03","raw":"AAEC","is open":true"#;

impl Row {
    fn bytes(&self) -> Vec<u8> {
        let mut parts: Vec<String> = Vec::new();
        if self.is_plain {
            parts.push(FITTING.to_owned());
        }
        for (key, value, space) in &self.fields {
            let space = SPACES[*space];
            parts
                .push(format!("{space}\"{}\"{space}:{space}{}{space}", KEYS[*key], VALUES[*value]));
        }
        let mut bytes = format!("{{{}}}", parts.join(",")).into_bytes();
        if let Some(cut) = self.cut {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        if let Some((at, byte)) = self.spoiled {
            let at = at % (bytes.len() + 1);
            bytes.insert(at, byte);
        }
        bytes
    }
}

fn row() -> impl Strategy<Value = Row> {
    let field = (0..KEYS.len(), 0..VALUES.len(), 0..SPACES.len());
    let fields = prop::collection::vec(field, 0..5);
    let cut = prop::option::weighted(0.05, any::<usize>());
    let spoiled = prop::option::weighted(0.05, (any::<usize>(), any::<u8>()));
    (fields, prop::bool::weighted(0.7), cut, spoiled)
        .prop_map(|(fields, is_plain, cut, spoiled)| Row { fields, is_plain, cut, spoiled })
}

fn raw(rows: &[Row]) -> RawBatch {
    let record = |(row, offset): (&Row, i64)| RawRecord {
        offset,
        timestamp_ms: 0,
        key: None,
        payload: (offset % 17 != 16).then(|| Bytes::from(row.bytes())),
        headers: Vec::new(),
    };
    let records: Vec<RawRecord> = rows.iter().zip(0..).map(record).collect();
    RawBatch::of(PartitionId(0), &records, rows.len() as i64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn both_ways_give_the_same(batches in prop::collection::vec(prop::collection::vec(row(), 0..40), 1..4)) {
        let schema = Arc::new(Schema::new(columns()));
        let mut quick = JsonDecoder::new(Arc::clone(&schema), &Options::default()).unwrap();
        let mut general = JsonDecoder::new(schema, &Options::default()).unwrap().general();
        for rows in &batches {
            let batch = raw(rows);
            let (quick, general) = (quick.decode(&batch).unwrap(), general.decode(&batch).unwrap());
            prop_assert_eq!(&quick.record_index, &general.record_index);
            prop_assert_eq!(format!("{:?}", quick.faults), format!("{:?}", general.faults));
            prop_assert_eq!(quick.tombstones, general.tombstones);
            prop_assert_eq!(quick.rows, general.rows);
        }
    }
}

/// Rows that fit, whatever their order, are not the business of the general way: the comparison
/// above would prove nothing if it read them all.
#[test]
fn plain_rows_are_read_in_one_pass() {
    let schema = Arc::new(Schema::new(columns()));
    let mut decoder = JsonDecoder::new(schema, &Options::default()).unwrap();
    let plain = Row { fields: Vec::new(), is_plain: true, cut: None, spoiled: None };
    let other = Row { fields: vec![(3, 43, 6), (18, 53, 1)], ..plain.clone() };
    let decoded = decoder.decode(&raw(&[plain, other])).unwrap();
    assert_eq!(decoded.rows.num_rows(), 2);
    assert_eq!(decoder.rows_in_one_pass(), 2);
}

/// What the decoder remembers of the rows stays small, whoever writes them.
#[test]
fn long_keys_are_read_and_not_remembered() {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let mut decoder = JsonDecoder::new(schema, &Options::default()).unwrap();
    for row in 0..20 {
        // Small keys that were there before lead to ever further places.
        let small: String = (0..row).map(|key| format!("\"k{key}\":0,")).collect();
        let text = format!("{{{small}\"{}\":1,\"id\":{row}}}", "x".repeat(1 << 20));
        let record = RawRecord {
            offset: row,
            timestamp_ms: 0,
            key: None,
            payload: Some(Bytes::from(text)),
            headers: Vec::new(),
        };
        let decoded = decoder.decode(&RawBatch::of(PartitionId(0), &[record], row + 1)).unwrap();
        assert_eq!((decoded.rows.num_rows(), decoded.faults.len()), (1, 0));
    }
    assert_eq!(decoder.rows_in_one_pass(), 20);
    assert!(format!("{decoder:?}").len() < 100_000, "it remembers a key of a mebibyte");
}
