//! The poison: what each record is, and what must be said of it.
//!
//! In a text `@n` stands for the record's number and `@t` for its event time, so that no two
//! records are the same.

/// Event time of the first row, 2024-01-01T00:00:00Z.
pub(super) const START_MS: i64 = 1_704_067_200_000;

/// One kind of poison.
pub(super) struct Poison {
    pub(super) name: &'static str,
    pub(super) stage: &'static str,
    pub(super) class: &'static str,
    body: Body,
}

enum Body {
    Text(&'static [u8]),
    Made(fn(u64) -> Vec<u8>),
}

impl Poison {
    /// The bytes of the record with this number.
    pub(super) fn bytes(&self, number: u64) -> Vec<u8> {
        match self.body {
            Body::Made(make) => make(number),
            Body::Text(text) => filled(text, number),
        }
    }
}

fn filled(text: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match (*first, after.first()) {
            (b'@', Some(b'n')) => {
                bytes.extend_from_slice(number.to_string().as_bytes());
                rest = &after[1..];
            }
            (b'@', Some(b't')) => {
                bytes.extend_from_slice(time_of(number).to_string().as_bytes());
                rest = &after[1..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// All rows are of one day.
pub(super) fn time_of(number: u64) -> i64 {
    START_MS + i64::try_from(number % 80_000_000).unwrap()
}

const fn text(
    name: &'static str,
    stage: &'static str,
    class: &'static str,
    body: &'static [u8],
) -> Poison {
    Poison { name, stage, class, body: Body::Text(body) }
}

const fn made(
    name: &'static str,
    stage: &'static str,
    class: &'static str,
    body: fn(u64) -> Vec<u8>,
) -> Poison {
    Poison { name, stage, class, body: Body::Made(body) }
}

/// `{"id":n}` in another encoding.
fn wide(number: u64, unit: fn(u16) -> Vec<u8>) -> Vec<u8> {
    format!("{{\"id\":{number}}}").encode_utf16().flat_map(unit).collect()
}

fn nested(number: u64, open: &str, close: &str) -> Vec<u8> {
    let (depth, inner) = (10_000, format!("{number}"));
    format!("{{\"more\":{}{inner}{}}}", open.repeat(depth), close.repeat(depth)).into_bytes()
}

/// Kinds that are a few bytes each and may come often.
pub(super) const COMMON: &[Poison] = &[
    text("no bytes", "decode", "empty", b""),
    text("white space", "decode", "empty", b" \r\n\t "),
    text("byte order mark", "decode", "byte-order-mark", b"\xEF\xBB\xBF{\"id\":@n,\"at\":@t}"),
    made("utf-16 le with mark", "decode", "encoding", |n| {
        [vec![0xFF, 0xFE], wide(n, |unit| unit.to_le_bytes().to_vec())].concat()
    }),
    made("utf-16 be with mark", "decode", "encoding", |n| {
        [vec![0xFE, 0xFF], wide(n, |unit| unit.to_be_bytes().to_vec())].concat()
    }),
    made("utf-16 le", "decode", "encoding", |n| wide(n, |unit| unit.to_le_bytes().to_vec())),
    made("utf-16 be", "decode", "encoding", |n| wide(n, |unit| unit.to_be_bytes().to_vec())),
    made("utf-32 be", "decode", "encoding", |n| {
        wide(n, |unit| u32::from(unit).to_be_bytes().to_vec())
    }),
    made("utf-32 le", "decode", "encoding", |n| {
        wide(n, |unit| u32::from(unit).to_le_bytes().to_vec())
    }),
    text("gzip", "decode", "compressed", b"\x1F\x8B\x08\0\0\0\0\0\0\x03@n"),
    text("zstd", "decode", "compressed", b"\x28\xB5\x2F\xFD\x04\x58@n"),
    text("xz", "decode", "compressed", b"\xFD7zXZ\0\0\x04@n"),
    text("lz4", "decode", "compressed", b"\x04\x22\x4D\x18@n"),
    text("schema registry", "decode", "framed", b"\0\0\0\0\x07{\"id\":@n,\"at\":@t}"),
    text("a zero byte", "decode", "framed", b"\0"),
    text("invalid utf-8", "decode", "not-utf8", b"{\"id\":@n,\"note\":\"\xFF\"}"),
    text("overlong utf-8", "decode", "not-utf8", b"{\"id\":@n,\"note\":\"\xC0\xAF\"}"),
    text("surrogate in utf-8", "decode", "not-utf8", b"{\"id\":@n,\"note\":\"\xED\xA0\x80\"}"),
    text("cut utf-8", "decode", "not-utf8", b"{\"id\":@n,\"note\":\"\xE2\x82"),
    text("latin-1", "decode", "not-utf8", b"{\"id\":@n,\"note\":\"caf\xE9\"}"),
    text("array", "decode", "not-object", b"[@n]"),
    text("array of objects", "decode", "not-object", b"[{\"id\":@n,\"at\":@t}]"),
    text("string", "decode", "not-object", b"\"@n\""),
    text("number", "decode", "not-object", b"@n"),
    text("true", "decode", "not-object", b"true"),
    text("null", "decode", "not-object", b"null"),
    text("cut after a comma", "decode", "incomplete", b"{\"id\":@n,"),
    text("cut after a colon", "decode", "incomplete", b"{\"id\":"),
    text("cut in a string", "decode", "incomplete", b"{\"id\":@n,\"note\":\"abc"),
    text("cut in an array", "decode", "incomplete", b"{\"id\":@n,\"tags\":[1,2"),
    text("cut in a word", "decode", "incomplete", b"{\"id\":@n,\"flag\":tru"),
    text("cut in an escape", "decode", "incomplete", b"{\"id\":@n,\"note\":\"\\u00"),
    text("one brace", "decode", "incomplete", b"{"),
    text("two objects", "decode", "several-documents", b"{\"id\":@n}{\"id\":@n}"),
    text("two lines", "decode", "several-documents", b"{\"id\":@n}\n{\"id\":@n}\n"),
    text("objects and comma", "decode", "trailing-data", b"{\"id\":@n},{\"id\":@n}"),
    text("something behind", "decode", "trailing-data", b"{\"id\":@n,\"at\":@t}x"),
    text("a brace too many", "decode", "trailing-data", b"{\"id\":@n,\"at\":@t}}"),
    text("csv", "decode", "trailing-data", b"@n,ams,3.50"),
    text("spare comma", "decode", "syntax", b"{\"id\":@n,\"at\":@t,}"),
    text("spare comma in an array", "decode", "syntax", b"{\"id\":@n,\"tags\":[1,]}"),
    text("comma first", "decode", "syntax", b"{,\"id\":@n}"),
    text("two commas", "decode", "syntax", b"{\"id\":@n,,\"at\":@t}"),
    text("no comma", "decode", "syntax", b"{\"id\":@n \"at\":@t}"),
    text("no colon", "decode", "syntax", b"{\"id\" @n}"),
    text("single quotes", "decode", "syntax", b"{'id':@n,'at':@t}"),
    text("bare key", "decode", "syntax", b"{id:@n}"),
    text("NaN", "decode", "syntax", b"{\"id\":@n,\"at\":@t,\"ratio\":NaN}"),
    text("Infinity", "decode", "syntax", b"{\"id\":@n,\"ratio\":Infinity}"),
    text("minus Infinity", "decode", "syntax", b"{\"id\":@n,\"ratio\":-Infinity}"),
    text("hexadecimal", "decode", "syntax", b"{\"id\":@n,\"small\":0x1F}"),
    text("leading zero", "decode", "syntax", b"{\"id\":@n,\"small\":007}"),
    text("plus sign", "decode", "syntax", b"{\"id\":@n,\"small\":+1}"),
    text("bare point", "decode", "syntax", b"{\"id\":@n,\"ratio\":.5}"),
    text("point at the end", "decode", "syntax", b"{\"id\":@n,\"ratio\":5.}"),
    text("no exponent", "decode", "syntax", b"{\"id\":@n,\"ratio\":1e}"),
    text("two signs", "decode", "syntax", b"{\"id\":@n,\"ratio\":1-2+3}"),
    text("line comment", "decode", "syntax", b"{\"id\":@n // note\n}"),
    text("comment", "decode", "syntax", b"{\"id\":@n /* note */}"),
    text("zero byte in a string", "decode", "syntax", b"{\"id\":@n,\"note\":\"a\0b\"}"),
    text("zero byte for a value", "decode", "syntax", b"{\"id\":@n,\"note\":\0}"),
    text("tab in a string", "decode", "syntax", b"{\"id\":@n,\"note\":\"a\tb\"}"),
    text("line feed in a string", "decode", "syntax", b"{\"id\":@n,\"note\":\"a\nb\"}"),
    text("xml", "decode", "syntax", b"<row><id>@n</id></row>"),
    text("a word", "decode", "syntax", b"hello @n"),
    text("Python's True", "decode", "syntax", b"{\"id\":@n,\"flag\":True}"),
    text("undefined", "decode", "syntax", b"{\"id\":@n,\"note\":undefined}"),
    text("first half of a pair", "decode", "escape", b"{\"id\":@n,\"note\":\"\\ud800\"}"),
    text("second half of a pair", "decode", "escape", b"{\"id\":@n,\"note\":\"\\udc00\"}"),
    text("half and a letter", "decode", "escape", b"{\"id\":@n,\"note\":\"\\ud800\\u0041\"}"),
    text("unknown escape", "decode", "escape", b"{\"id\":@n,\"note\":\"\\x41\"}"),
    text("short escape", "decode", "escape", b"{\"id\":@n,\"note\":\"\\u12\"}"),
    made("arrays 10,000 deep", "decode", "too-deep", |n| nested(n, "[", "]")),
    made("objects 10,000 deep", "decode", "too-deep", |n| nested(n, "{\"a\":", "}")),
    made("10,000 open arrays", "decode", "too-deep", |n| {
        format!("{}{n}", "[".repeat(10_000)).into_bytes()
    }),
    text("object for a number", "decode", "shape", b"{\"id\":{\"a\":@n}}"),
    text("array for a text", "decode", "shape", b"{\"id\":@n,\"note\":[1]}"),
    text("number for an array", "decode", "shape", b"{\"id\":@n,\"tags\":1}"),
    text("object for an array", "decode", "shape", b"{\"id\":@n,\"tags\":{\"a\":1}}"),
    text("text for a row", "decode", "shape", b"{\"id\":@n,\"box\":\"1x2\"}"),
    text("fraction for an integer", "check", "type", b"{\"id\":@n.5}"),
    text("word for an integer", "check", "type", b"{\"id\":\"n@n\"}"),
    text("boolean for an integer", "check", "type", b"{\"id\":@n,\"small\":true}"),
    text("empty text for an integer", "check", "type", b"{\"id\":@n,\"small\":\"\"}"),
    text("decimal comma", "check", "type", b"{\"id\":@n,\"at\":@t,\"amount\":\"1,5\"}"),
    text("word for a decimal", "check", "type", b"{\"id\":@n,\"amount\":\"free\"}"),
    text("yes for a boolean", "check", "type", b"{\"id\":@n,\"flag\":\"yes\"}"),
    text("no such day", "check", "type", b"{\"id\":@n,\"day\":\"2024-13-45\"}"),
    text("not base64", "check", "type", b"{\"id\":@n,\"data\":\"@@@\"}"),
    text("word in an array", "check", "type", b"{\"id\":@n,\"tags\":[1,\"two\"]}"),
    text("word in a row", "check", "type", b"{\"id\":@n,\"box\":{\"w\":\"wide\"}}"),
    text("no point in time", "check", "type", b"{\"id\":@n,\"seen\":\"yesterday\"}"),
    text("2^63", "check", "range", b"{\"id\":9223372036854775808,\"note\":\"@n\"}"),
    text("-2^63 - 1", "check", "range", b"{\"id\":-9223372036854775809,\"note\":\"@n\"}"),
    text("2^31", "check", "range", b"{\"id\":@n,\"small\":2147483648}"),
    text("1e400 in an integer", "check", "range", b"{\"id\":1e400,\"note\":\"@n\"}"),
    text("1e400 in a double", "check", "range", b"{\"id\":@n,\"ratio\":1e400}"),
    text("NaN as text", "check", "range", b"{\"id\":@n,\"ratio\":\"NaN\"}"),
    text("eleven digits", "check", "range", b"{\"id\":@n,\"amount\":12345678901.00}"),
    text("huge exponent", "check", "range", b"{\"id\":@n,\"amount\":1e999999999}"),
    text("endless exponent", "check", "range", b"{\"id\":@n,\"amount\":1e99999999999999999999}"),
    text("a time out of range", "check", "range", b"{\"id\":@n,\"seen\":9223372036854775807}"),
    text("no id", "check", "missing", b"{\"at\":@t,\"note\":\"@n\"}"),
    text("id is null", "check", "missing", b"{\"id\":null,\"at\":@t,\"note\":\"@n\"}"),
    text("an empty object", "check", "missing", b"{}"),
    text("a computed column fails", "check", "computed", b"{\"id\":@n,\"at\":@t,\"code\":\"x\"}"),
    text("no event time", "time", "no-time", b"{\"id\":@n}"),
    text("event time is null", "time", "no-time", b"{\"id\":@n,\"at\":null}"),
    text("event time overflows", "time", "no-time", b"{\"id\":@n,\"at\":9223372036854775807}"),
    text("year 9999", "time", "future", b"{\"id\":@n,\"at\":253370764800000}"),
];

/// Kinds of many megabytes: one record each.
pub(super) const LARGE: &[Poison] = &[
    made("a million keys", "decode", "too-many-keys", |n| {
        // One digit each: below 16 MiB whatever `n` is.
        let keys: Vec<String> =
            (0..1_000_000).map(|key| format!("\"k{key}\":{}", n % 10)).collect();
        format!("{{{}}}", keys.join(",")).into_bytes()
    }),
    made("90 MB", "decode", "too-large", |n| {
        format!("{{\"id\":{n},\"note\":\"{}\"}}", "x".repeat(90_000_000)).into_bytes()
    }),
    made("17 MiB of spaces", "decode", "too-large", |n| {
        format!("{}{n}", " ".repeat(17 << 20)).into_bytes()
    }),
];

/// Rows that look odd and are good: their id is the record's number.
pub(super) const ODD: &[&[u8]] = &[
    b"  {\"id\":@n,\"at\":@t}\r\n",
    b"{\"id\":1,\"id\":@n,\"at\":@t}",
    b"{\"id\":@n.0,\"at\":@t}",
    b"{\"id\":\"@n\",\"at\":\"@t\"}",
    b"{\"id\":@n,\"at\":@t,\"note\":\"\\u0000\\ud83d\\ude00\"}",
    b"{\"id\":@n,\"at\":@t,\"more\":[[[[[[{\"deep\":null}]]]]]]}",
    b"{\"id\":@n,\"at\":@t,\"amount\":0.0000000000000000000000000000000000000000001e1}",
    b"{\"id\":@n,\"at\":@t,\"small\":2e3,\"ratio\":-0.0,\"flag\":\"TRUE\"}",
];

/// The bytes of an odd good row.
pub(super) fn odd(number: u64) -> Vec<u8> {
    let kind = usize::try_from(number).unwrap() % ODD.len();
    filled(ODD[kind], number)
}

/// Kinds that [`REPAIR`] makes good rows of: `{"id":n,"at":t}` and an amount of 1.5 in one case.
pub(super) const REPAIRABLE: &[&str] = &[
    "byte order mark",
    "schema registry",
    "something behind",
    "spare comma",
    "two commas",
    "no comma",
    "single quotes",
    "NaN",
    "decimal comma",
    "array of objects",
];

/// The expression that repairs them.
pub(super) const REPAIR: &str = "
    CASE class
      WHEN 'byte-order-mark' THEN substr(raw_text, 2)
      WHEN 'framed' THEN CASE WHEN octet_length(raw_text) > 5 THEN substr(raw_text, 6) END
      WHEN 'trailing-data' THEN CASE WHEN raw_text LIKE '%}x' THEN rtrim(raw_text, 'x') END
      WHEN 'type' THEN CASE WHEN raw_text LIKE '%\"1,5\"%' THEN replace(raw_text, '1,5', '1.5') END
      WHEN 'not-object' THEN CASE WHEN raw_text LIKE '[{%' THEN btrim(raw_text, '[]') END
      WHEN 'syntax' THEN CASE
        WHEN raw_text LIKE '{''id''%' THEN replace(raw_text, '''', '\"')
        WHEN raw_text LIKE '%NaN%' THEN replace(raw_text, 'NaN', 'null')
        WHEN raw_text LIKE '%,}' THEN replace(raw_text, ',}', '}')
        WHEN raw_text LIKE '%,,%' THEN replace(raw_text, ',,', ',')
        WHEN raw_text LIKE '% \"at\"%' THEN replace(raw_text, ' \"at\"', ',\"at\"')
      END
    END";
