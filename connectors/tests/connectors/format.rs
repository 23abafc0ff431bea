//! JSON decoding: types, exactness, poison, and that batch-mates of a bad row survive.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema,
    SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;
use tidemill_connectors::format::json::{Decoded, JsonDecoder, encode};
use tidemill_contract::{FaultClass, Options, PartitionId, RawBatch, RawRecord};

fn raw(payloads: &[Option<&[u8]>]) -> RawBatch {
    let records: Vec<RawRecord> = payloads
        .iter()
        .zip(0..)
        .map(|(payload, offset)| RawRecord {
            offset,
            timestamp_ms: 0,
            key: None,
            payload: payload.map(Bytes::copy_from_slice),
            headers: Vec::new(),
        })
        .collect();
    RawBatch::of(PartitionId(0), &records, payloads.len() as i64)
}

fn texts(payloads: &[&str]) -> RawBatch {
    raw(&payloads.iter().map(|text| Some(text.as_bytes())).collect::<Vec<_>>())
}

fn decoder(fields: Vec<Field>) -> JsonDecoder {
    JsonDecoder::new(Arc::new(Schema::new(fields)), &Options::default()).unwrap()
}

fn decode_one(field: Field, value: &str) -> Result<RecordBatch, String> {
    let name = field.name().clone();
    let decoded = decoder(vec![field]).decode(&texts(&[&format!("{{\"{name}\":{value}}}")]));
    let Decoded { rows, faults, .. } = decoded.unwrap();
    match faults.into_iter().next() {
        None => Ok(rows),
        Some((_, fault)) => Err(format!("{}: {}", fault.stage, fault.reason)),
    }
}

#[test]
fn numbers_are_what_was_written() {
    let int = || Field::new("n", DataType::Int32, true);
    let value = |text: &str| {
        decode_one(int(), text).map(|rows| rows.column(0).as_primitive::<Int32Type>().value(0))
    };
    assert_eq!(value("-7"), Ok(-7));
    assert_eq!(value("5.0"), Ok(5));
    assert_eq!(value("\"12\""), Ok(12));
    assert_eq!(value("2e3"), Ok(2000));
    assert!(value("1.5").unwrap_err().contains("is not an integer"));
    assert!(value("2147483648").unwrap_err().contains("range"));
    assert!(value("true").is_err());
    assert!(value("{}").is_err());
    assert!(value("[1]").is_err());

    let long = |text: &str| {
        decode_one(Field::new("n", DataType::Int64, true), text)
            .map(|rows| rows.column(0).as_primitive::<Int64Type>().value(0))
    };
    assert_eq!(long("9223372036854775807"), Ok(i64::MAX));
    assert!(long("9223372036854775808").is_err());

    let float = |text: &str| {
        decode_one(Field::new("n", DataType::Float64, true), text)
            .map(|rows| rows.column(0).as_primitive::<Float64Type>().value(0))
    };
    assert_eq!(float("0.1"), Ok(0.1));
    assert!(float("1e400").is_err());
    assert!(float("\"NaN\"").is_err());
}

#[test]
fn decimals_are_exact_and_round_half_away_from_zero() {
    let value = |text: &str| {
        decode_one(Field::new("d", DataType::Decimal128(12, 2), true), text)
            .map(|rows| rows.column(0).as_primitive::<Decimal128Type>().value(0))
    };
    assert_eq!(value("2.55"), Ok(255));
    assert_eq!(value("\"2.55\""), Ok(255));
    assert_eq!(value("0.1"), Ok(10));
    assert_eq!(value("-0.005"), Ok(-1));
    assert_eq!(value("1.995"), Ok(200));
    assert_eq!(value("1.9949999999999999999999999999999999999999999"), Ok(199));
    assert_eq!(value("1e2"), Ok(10_000));
    assert_eq!(value("12345e-3"), Ok(1235));
    assert_eq!(value("9999999999.99"), Ok(999_999_999_999));
    assert!(value("10000000000").unwrap_err().contains("too many digits"));
    assert!(value("1e999999999").is_err());
    assert_eq!(value("1e-999999999"), Ok(0));
    for bad in ["\"\"", "\"-\"", "\".\"", "\"1.2.3\"", "\"1e\"", "\"abc\"", "\"1 000\""] {
        assert!(value(bad).is_err(), "{bad}");
    }
}

#[test]
fn times_come_from_text_and_from_numbers() {
    let kind = DataType::Timestamp(TimeUnit::Microsecond, None);
    let value = |text: &str| {
        decode_one(Field::new("t", kind.clone(), true), text)
            .map(|rows| rows.column(0).as_primitive::<TimestampMicrosecondType>().value(0))
    };
    let noon = 1_291_205_160_000_000;
    assert_eq!(value("\"2010-12-01 12:06:00\""), Ok(noon));
    assert_eq!(value("\"2010-12-01T12:06:00Z\""), Ok(noon));
    assert_eq!(value("\"2010-12-01T14:06:00+02:00\""), Ok(noon));
    assert_eq!(value("\"2010-12-01 12:06:00.000001\""), Ok(noon + 1));
    assert_eq!(value("1291205160000"), Ok(noon));
    assert_eq!(value("\"1291205160000\""), Ok(noon));
    assert_eq!(value("1291205160000.5"), Ok(noon + 500));
    assert!(value("\"yesterday\"").unwrap_err().contains("point in time"));
    assert!(value("9223372036854775807").is_err());

    let mut options = Options::default();
    options.insert("json.epoch-unit", "s", None);
    let schema = Arc::new(Schema::new(vec![Field::new("t", kind.clone(), true)]));
    let mut in_seconds = JsonDecoder::new(Arc::clone(&schema), &options).unwrap();
    let rows = in_seconds.decode(&texts(&["{\"t\":1291205160}"])).unwrap().rows;
    assert_eq!(rows.column(0).as_primitive::<TimestampMicrosecondType>().value(0), noon);
    options.insert("json.epoch-unit", "weeks", None);
    assert_eq!(JsonDecoder::new(schema, &options).unwrap_err().code, "TM551");

    let day = decode_one(Field::new("t", DataType::Date32, true), "\"1970-01-02\"").unwrap();
    assert_eq!(day.column(0).as_primitive::<Date32Type>().value(0), 1);
}

#[test]
fn nested_values_and_bytes() {
    let point = DataType::Struct(
        vec![
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("price", DataType::Decimal128(10, 2), true),
        ]
        .into(),
    );
    let entries = Field::new(
        "entries",
        DataType::Struct(
            vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", DataType::Int64, true),
            ]
            .into(),
        ),
        false,
    );
    let fields = vec![
        Field::new(
            "tags",
            DataType::List(Arc::new(Field::new("item", DataType::Int32, true))),
            true,
        ),
        Field::new("points", DataType::List(Arc::new(Field::new("item", point, true))), true),
        Field::new("counts", DataType::Map(Arc::new(entries), false), true),
        Field::new("blob", DataType::Binary, true),
        Field::new("yes", DataType::Boolean, true),
    ];
    let good = r#"{"tags":[1,null,3],"points":[{"at":1000,"price":2.5}],"counts":{"a":1},"blob":"aGk=","yes":true}"#;
    let bad = [
        r#"{"tags":[1,"x"]}"#,
        r#"{"points":[{"price":1},{"price":"much"}]}"#,
        r#"{"counts":{"a":1.5}}"#,
        r#"{"blob":"?"}"#,
        r#"{"yes":"maybe"}"#,
        r#"{"tags":7}"#,
    ];
    let mut payloads = vec![good];
    payloads.extend(bad);
    payloads.push(good);
    let decoded = decoder(fields).decode(&texts(&payloads)).unwrap();
    assert_eq!(decoded.record_index, vec![0, 7]);
    assert_eq!(decoded.faults.len(), 6);
    assert!(decoded.faults[0].1.reason.contains("column 'tags'"), "{:?}", decoded.faults[0]);
    assert!(decoded.faults[1].1.reason.contains("column 'points'"), "{:?}", decoded.faults[1]);
    assert_eq!(decoded.rows.column(3).as_binary::<i32>().value(1), b"hi");
    assert_eq!(decoded.rows.column(0).as_list::<i32>().value(0).len(), 3);
}

#[test]
fn not_null_is_a_check_of_its_row() {
    let fields =
        vec![Field::new("id", DataType::Utf8, false), Field::new("n", DataType::Int32, false)];
    let decoded = decoder(fields)
        .decode(&texts(&[
            r#"{"id":"a","n":1}"#,
            r#"{"n":1}"#,
            r#"{"id":"b"}"#,
            r#"{"id":"c","n":2}"#,
        ]))
        .unwrap();
    assert_eq!(decoded.record_index, vec![0, 3]);
    let stages: Vec<_> =
        decoded.faults.iter().map(|(index, fault)| (*index, fault.stage)).collect();
    assert_eq!(stages, vec![(1, "check"), (2, "check")]);
    assert!(!decoded.rows.schema().field(0).is_nullable());
}

/// Everything seen in the wild that is not one JSON object.
const POISON: &[&[u8]] = &[
    b"",
    b"   ",
    b"null",
    b"7",
    b"\"text\"",
    b"[{\"id\":1}]",
    b"{\"id\":1",
    b"{\"id\":1}}",
    b"{\"id\":1}{\"id\":2}",
    b"{\"id\":1} {\"id\":2}",
    b"{\"id\":1} trailing",
    b"{\"id\":}",
    b"{id:1}",
    b"{'id':1}",
    b"{\"id\":01}x",
    b"{\"id\":NaN}",
    b"{\"id\":Infinity}",
    b"{\"id\":9223372036854775808}",
    b"{\"id\":1e400}",
    b"{\"id\":{\"deep\":1}}",
    b"{\"id\":[1]}",
    b"{\"id\":\"\xff\xfe\"}",
    b"\xef\xbb\xbf{\"id\":1}",
    b"{\"id\":\"\\ud800\"}",
    b"\0",
    b"{\"id\":\0}",
    b"{\"id\":1,}x{",
    b"<xml/>",
];

#[test]
fn poison_never_takes_its_batch_mates_along() {
    let mut payloads: Vec<Option<&[u8]>> = Vec::new();
    for poison in POISON {
        payloads.push(Some(b"{\"id\":1}"));
        payloads.push(Some(poison));
        payloads.push(None);
    }
    payloads.push(Some(b"{\"id\":2}"));
    let batch = raw(&payloads);
    let decoded = decoder(vec![Field::new("id", DataType::Int64, true)]).decode(&batch).unwrap();
    assert_eq!(decoded.tombstones as usize, POISON.len());
    let bad: Vec<u32> = decoded.faults.iter().map(|(index, _)| *index).collect();
    let wanted: Vec<u32> = (0..POISON.len() as u32).map(|index| index * 3 + 1).collect();
    assert_eq!(bad, wanted);
    for (index, fault) in &decoded.faults {
        assert_eq!(Some(&fault.raw[..]), payloads[*index as usize]);
        assert!(!fault.reason.is_empty());
    }
    let good: Vec<u32> = (0..=POISON.len() as u32).map(|index| index * 3).collect();
    assert_eq!(decoded.record_index, good);
    assert_eq!(decoded.rows.num_rows(), good.len());
}

#[test]
fn deep_nesting_and_many_keys_are_survived() {
    let deep = format!("{{\"id\":1,\"x\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let wide: String = (0..100_000).map(|n| format!("\"k{n}\":{n},")).collect();
    let wide = format!("{{{wide}\"id\":2}}");
    let twice = "{\"id\":3,\"id\":4}";
    let decoded = decoder(vec![Field::new("id", DataType::Int64, true)])
        .decode(&texts(&[&deep, &wide, twice]))
        .unwrap();
    let ids: Vec<i64> = decoded.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(decoded.rows.num_rows() + decoded.faults.len(), 3);
    assert_eq!(ids.last(), Some(&4), "of a repeated key the last value counts");
}

#[test]
fn large_batches_keep_order_whatever_is_bad() {
    let count = 30_000_u32;
    let text: Vec<String> = (0..count)
        .map(|n| match n % 97 {
            13 => format!("{{\"id\":{n}"),
            29 => format!("{{\"id\":{{\"n\":{n}}}}}"),
            31 => "oops".to_owned(),
            53 => "{\"id\":\"x\"}".to_owned(),
            _ => format!("{{\"id\":{n},\"name\":\"row {n}\"}}"),
        })
        .collect();
    let batch = texts(&text.iter().map(String::as_str).collect::<Vec<_>>());
    let fields =
        vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
    let mut decoder = decoder(fields);
    for _ in 0..2 {
        let decoded = decoder.decode(&batch).unwrap();
        let is_bad = |n: &u32| matches!(n % 97, 13 | 29 | 31 | 53);
        let good: Vec<u32> = (0..count).filter(|n| !is_bad(n)).collect();
        let bad: Vec<u32> = (0..count).filter(is_bad).collect();
        assert_eq!(decoded.record_index, good);
        assert_eq!(decoded.faults.iter().map(|(n, _)| *n).collect::<Vec<_>>(), bad);
        let ids = decoded.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(ids, good.iter().map(|n| i64::from(*n)).collect::<Vec<_>>());
        let names: &StringArray = decoded.rows.column(1).as_string();
        assert_eq!(names.value(names.len() - 1), format!("row {}", good[good.len() - 1]));
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("s", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(20, 3), true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("b", DataType::Binary, true),
        Field::new("f", DataType::Float64, true),
    ]));
    let payloads = [
        r#"{"s":"line\nfeed \"quoted\"","d":-0.001,"t":"2024-02-29T23:59:59.999999Z","b":"AP8=","f":0.1}"#,
        r#"{"s":"","d":99999999999999999.999,"t":-1,"b":"","f":-1e-9}"#,
        "{}",
    ];
    let mut decoder = JsonDecoder::new(Arc::clone(&schema), &Options::default()).unwrap();
    let first = decoder.decode(&texts(&payloads)).unwrap();
    assert!(first.faults.is_empty(), "{:?}", first.faults);
    let lines = encode(&first.rows).unwrap();
    let again = raw(&lines.iter().map(|line| Some(&line[..])).collect::<Vec<_>>());
    let second = decoder.decode(&again).unwrap();
    assert_eq!(first.rows, second.rows);
}

#[test]
fn no_columns_at_all_still_count_rows() {
    let decoded = decoder(Vec::new()).decode(&texts(&["{\"a\":1}", "[", "{}"])).unwrap();
    assert_eq!(decoded.rows.num_rows(), 2);
    assert_eq!(decoded.faults.len(), 1);
}

fn class_of(decoder: &mut JsonDecoder, payload: &[u8]) -> Option<FaultClass> {
    let decoded = decoder.decode(&raw(&[Some(payload)])).unwrap();
    assert_eq!(decoded.rows.num_rows() + decoded.faults.len(), 1);
    decoded.faults.first().map(|(_, fault)| fault.class)
}

#[test]
fn limits_are_exact() {
    let mut decoder = decoder(vec![Field::new("id", DataType::Int64, true)]);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!("{{\"id\":1,\"x\":{open}{close}}}").into_bytes()
    };
    assert_eq!(class_of(&mut decoder, &nested(127)), None);
    assert_eq!(class_of(&mut decoder, &nested(128)), Some(FaultClass::TooDeep));
    let keyed = |keys: usize| {
        let keys: Vec<String> = (0..keys).map(|key| format!("\"k{key}\":0")).collect();
        format!("{{{}}}", keys.join(",")).into_bytes()
    };
    assert_eq!(class_of(&mut decoder, &keyed(65_536)), None);
    assert_eq!(class_of(&mut decoder, &keyed(65_537)), Some(FaultClass::TooManyKeys));
    let long = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2)).into_bytes();
    assert_eq!(class_of(&mut decoder, &long(16 << 20)), None);
    assert_eq!(class_of(&mut decoder, &long((16 << 20) + 1)), Some(FaultClass::TooLarge));
}

/// Pieces that JSON is made of, and pieces that spoil it.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\"a\"",
    "\"a\":",
    "1",
    "-",
    "0",
    ".5",
    "e3",
    "true",
    "nul",
    "l",
    " ",
    "\n",
    "\\",
    "\\n",
    "\\u",
    "d83d",
    "\\ude00",
    "\u{e9}",
    "\u{0}",
    "x",
    "{\"b\":[",
    "]}",
    "{}",
    "[]",
    "\"id\":1",
    ",\"c\":\"\\u00e9\"",
];

proptest::proptest! {
    /// Few digits are read a quicker way than those with an exponent.
    #[test]
    fn decimals_of_few_digits_are_the_same(
        text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?", precision in 1_u8..=38, scale in 0_i8..=4
    ) {
        let scale = scale.min(precision as i8);
        let read = |text: &str| {
            let rows = decode_one(Field::new("d", DataType::Decimal128(precision, scale), true), text);
            rows.map(|rows| rows.column(0).as_primitive::<Decimal128Type>().value(0)).ok()
        };
        proptest::prop_assert_eq!(read(&text), read(&format!("{text}e0")), "{}", text);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

    /// What is taken is what another strict reader takes, and arrow's tape agrees with both.
    #[test]
    fn json_is_taken_to_the_letter(pieces in proptest::collection::vec(0..PIECES.len(), 0..14)) {
        let inner: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        for text in [inner.clone(), format!("{{{inner}}}"), format!("{{\"x\":{inner}}}")] {
            let read = serde_json::from_str::<serde_json::Value>(&text);
            // A number beyond a double is JSON all the same.
            let too_large = read.as_ref().err().is_some_and(|e| e.to_string().contains("out of range"));
            let is_object = read.as_ref().is_ok_and(serde_json::Value::is_object) || too_large;
            let mut decoder = decoder(vec![Field::new("nothing", DataType::Int64, true)]);
            let class = class_of(&mut decoder, text.as_bytes());
            proptest::prop_assert_eq!(class.is_none(), is_object, "{:?}: {:?}, {:?}", text, class, read);
        }
    }
}
