//! What each mistake says, limits, and that no text makes the parser panic.

use datafusion::sql::sqlparser::ast::SetExpr;
use proptest::prelude::*;
use tidemill_sql::parse::{CreateView, MAX_SCRIPT_BYTES, Statement, parse_script, window_call};

use crate::parse::error;
use crate::parse_windows::KINDS;

/// The whole error in one text: code, message, the text it points at, reason, help.
fn render(sql: &str) -> String {
    let error = error(sql);
    let mut text = format!("{} {}", error.code, error.message);
    let span = error.span.unwrap_or_else(|| panic!("no span: {error}"));
    text.push_str(&format!("\n  at: {}", &sql[span.start..span.end]));
    if let Some(reason) = error.reason {
        text.push_str(&format!("\n  reason: {reason}"));
    }
    if let Some(help) = error.help {
        text.push_str(&format!("\n  help: {help}"));
    }
    text
}

#[test]
fn what_is_no_part_of_the_dialect_is_refused() {
    for sql in [
        "COPY t TO 'file'",
        "SET a = 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TEMPORARY TABLE t (a INT)",
        "CREATE DATABASE d",
        "CREATE FUNCTION f() RETURNS INT",
        "CREATE INDEX i ON t (a)",
        "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TABLE t (a INT)",
        "CREATE TABLE t (a INT) PARTITIONED BY (a) WITH ('a'='b')",
        "CREATE TABLE t (a INT PRIMARY KEY) WITH ('a'='b')",
        "CREATE TABLE t (a INT DEFAULT 1) WITH ('a'='b')",
        "CREATE TABLE t () WITH ('a'='b')",
        "CREATE MATERIALIZED VIEW v (a) AS SELECT 1",
        "CREATE MATERIALIZED VIEW v WITH ('a'='b') AS SELECT 1",
        "CREATE MATERIALIZED VIEW v AS INSERT INTO t SELECT 1",
        "CREATE MATERIALIZED VIEW v AS SELECT 1 EMIT CHANGES EVERY INTERVAL '1' SECOND",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE",
        "WITH x AS (DELETE FROM t) SELECT 1",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "WITH x AS (SELECT 1) UPDATE t SET a = 1",
        "SELECT 1 INTO t",
        "SELECT a FROM t FOR UPDATE",
        "SELECT $1",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t (a, b) SELECT 1, 2",
        "INSERT OVERWRITE t SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN VERBOSE SELECT 1",
        "EXPLAIN EXPLAIN SELECT 1",
        "EXPLAIN SHOW TABLES",
        "EXPLAIN",
        "DROP x",
        "DROP VIEW x CASCADE",
        "DROP VIEW a, b",
        "SHOW CREATE TABLE x",
        "SHOW",
        "BEGIN",
        "TRUNCATE t",
        "ATTACH 'x' AS y",
        "LOAD x",
        "PREPARE x AS SELECT 1",
        "CALL f()",
        "'text'",
        "42",
        "CREATE SOURCE \"../../etc\" (a INT) WITH ('a'='b')",
        "CREATE SOURCE \"\" (a INT) WITH ('a'='b')",
        "CREATE SOURCE a.b (a INT) WITH ('a'='b')",
        "CREATE SOURCE orders$dead (a INT) WITH ('a'='b')",
        "CREATE SOURCE s (a INT) WITH ('a'='b', 'A'='c')",
        "CREATE SOURCE s (a INT) WITH ('a')",
        "CREATE SOURCE s (a INT) WITH ('a'=b)",
        "CREATE SOURCE s (a INT,) WITH ('a'='b')",
        "CREATE SOURCE s (a INT METADATA FROM 'offset') WITH ('a'='b')",
        "CREATE SOURCE s (a INT, WATERMARK FOR a AS a) WITH ('a'='b')",
    ] {
        let error = error(sql);
        assert!(error.code.starts_with("TM1"), "{sql}: {error}");
        let span = error.span.unwrap_or_else(|| panic!("{sql}: {error}"));
        assert!(span.start <= span.end && span.end <= sql.len(), "{sql}: {span:?}");
    }
}

#[test]
fn mistakes_say_where_why_and_what_to_do() {
    let cases = [
        (
            "CREAT SOURCE s (a INT) WITH ('a'='b')",
            "TM102 CREAT is not a known statement\n  at: CREAT\n  help: did you mean CREATE?",
        ),
        (
            "SELECT * FORM orders",
            "TM101 expected the end of the statement, found 'FORM'\n  at: FORM\n  help: did you mean FROM instead of FORM?",
        ),
        (
            "CREATE SOURCE s (a INT, é STRIG) WITH ('a'='b')",
            "TM103 unknown type 'STRIG'\n  at: STRIG\n  help: did you mean STRING?",
        ),
        (
            "CREATE SOURCE s (a INT, b TEXT, A TEXT) WITH ('a'='b')",
            "TM105 column 'a' is declared twice\n  at: A\n  reason: names are compared in lower case unless quoted\n  help: rename one of them",
        ),
        (
            "CREATE TABLE t (a INT, PRIMARY KEY (a) NOT ENFORCED) WITH ('a'='b')",
            "TM109 keys and constraints are not supported\n  at: PRIMARY\n  reason: a source is a stream of rows; no row replaces another\n  help: remove it",
        ),
        (
            "CREATE SOURCE s (ts TIMESTAMP, WATERMARK FOR tx AS tx) WITH ('a'='b')",
            "TM106 the watermark is for unknown column 'tx'\n  at: tx\n  help: did you mean ts?",
        ),
        (
            "CREATE SOURCE s (t TIMESTAMP METADATA FROM 'timestmp') WITH ('a'='b')",
            "TM107 unknown metadata field 'timestmp'\n  at: TIMESTAMP METADATA FROM 'timestmp'\n  help: did you mean 'timestamp'?",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT a FROM t EMIT CHANGES",
            "TM109 EMIT CHANGES is not supported\n  at: EMIT\n  reason: a view's rows become final when their window closes and never change again\n  help: write EMIT ON WINDOW CLOSE, or leave it out: it is the default",
        ),
        (
            "CREATE OR REPLACE SINK s FROM v",
            "TM109 OR REPLACE is not supported\n  at: CREATE OR\n  reason: replacing a running query would silently drop its state\n  help: DROP the object first, or create one under a new name",
        ),
        (
            "-- größer ☕\nSELECT 'open",
            "TM101 unterminated string literal\n  at: '\n  help: check that every quote and comment is closed",
        ),
        ("SELECT count( FROM orders", "TM101 expected ), found 'orders'\n  at: orders"),
        ("SELECT '☕', (1 + 2", "TM101 expected ), found the end of the statement\n  at: 2"),
        (
            "CREATE ALERT a ON v WHEN x > 1 SEVERITY 'critcal'",
            "TM123 unknown severity 'critcal'\n  at: 'critcal'\n  help: did you mean 'critical'?",
        ),
        (
            "SHOW SORCES",
            "TM101 expected SOURCES or VIEWS or ALERTS or SINKS or JOBS or LOSSES or TABLES or DEAD, found 'SORCES'\n  at: SORCES\n  help: did you mean SOURCES?",
        ),
        (
            "CREATE SOURCE \"../x\" (a INT) WITH ('a'='b')",
            "TM104 '../x' cannot be the name of a source\n  at: \"../x\"\n  reason: the name becomes a topic and a folder of the bucket\n  help: use letters a-z, digits, _ and -, beginning with a letter",
        ),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let rendered = render(sql);
        if rendered != expected {
            wrong.push(format!("--- {sql}\n{rendered}\n+++ expected\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn spans_are_bytes_of_the_whole_script() {
    let script = "-- ☕ größe\nSELECT 1;\r\n/* ü */ SELECT 'é' FORM x;\n";
    let error = error(script);
    let span = error.span.unwrap();
    assert_eq!(&script[span.start..span.end], "x");
    let marked = parse_script("\u{feff}SELECT 1; SELECT 2").unwrap();
    assert_eq!((marked[0].offset, marked[1].text.as_str()), (3, "SELECT 2"));
    assert!(parse_script(" ; ;; -- nothing\n ;").unwrap().is_empty());
}

#[test]
fn limits_hold() {
    let long = format!("SELECT '{}'", "x".repeat(MAX_SCRIPT_BYTES));
    assert_eq!(error(&long).code, "TM100");
    let many = format!("SELECT {}", vec!["1"; 6_000].join(", "));
    assert_eq!(error(&many).code, "TM100");
    let wide = format!("SELECT a IN ({})", vec!["1"; 4_900].join(", "));
    assert!(parse_script(&wide).is_ok());
    for (sql, code) in [
        (format!("SELECT {}1{}", "(".repeat(3_000), ")".repeat(3_000)), "TM100"),
        (format!("SELECT {}1", "NOT ".repeat(3_000)), "TM101"),
        (format!("SELECT {}1", "+ ".repeat(3_000)), "TM100"),
        (format!("SELECT {}", vec!["1"; 4_900].join(" + ")), "TM100"),
        (format!("SELECT {}", vec!["a"; 4_900].join(" OR ")), "TM100"),
        (format!("SELECT a{}", " IN (1)".repeat(2_400)), "TM100"),
        (format!("SELECT a{}", " BETWEEN 1 AND 2".repeat(2_400)), "TM100"),
        (format!("SELECT a{}", "[1]".repeat(3_000)), "TM100"),
        (format!("SELECT a{}", ".b".repeat(3_000)), "TM100"),
        (format!("SELECT {} INTO t", vec!["1"; 4_900].join(" + ")), "TM1"),
        (format!("SELECT a{}", "::INT".repeat(4_900)), "TM100"),
        (format!("SELECT a{}", " IS NULL".repeat(4_900)), "TM100"),
        (format!("SELECT {}1{}", "f(".repeat(3_000), ")".repeat(3_000)), "TM100"),
        (format!("SELECT {}1{}", "(SELECT ".repeat(2_000), ")".repeat(2_000)), "TM100"),
        (format!("SELECT * FROM {}a{}", "(".repeat(3_000), ")".repeat(3_000)), "TM100"),
        (format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(500)), "TM100"),
        (format!("CREATE ALERT a ON v WHEN {}", vec!["a"; 4_900].join(" OR ")), "TM100"),
        (format!("{}SELECT 1{}", "(".repeat(3_000), ")".repeat(3_000)), "TM100"),
    ] {
        assert!(error(&sql).code.starts_with(code), "{}", &sql[..60]);
    }
    let chain = format!("SELECT {}", vec!["a = 1"; 100].join(" OR "));
    assert!(parse_script(&chain).is_ok());
}

const SEEDS: &[&str] = &[
    "CREATE SOURCE s (a INT NOT NULL, ts AS to_timestamp(a), m MAP<STRING, ARRAY<INT>>, t TIMESTAMP(3) METADATA FROM 'timestamp', WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) WITH ('connector'='kafka')",
    "CREATE MATERIALIZED VIEW v AS SELECT window_start, sum(x) FILTER (WHERE y > 1) FROM TABLE(HOP(DATA => TABLE s, TIMECOL => DESCRIPTOR(ts), SLIDE => INTERVAL '1' MINUTE, SIZE => INTERVAL '1' HOUR)) GROUP BY window_start EMIT ON WINDOW CLOSE",
    "CREATE ALERT a ON v WHEN x < 100 AND y IS NOT NULL FOR 3 WINDOWS BY p, q SEVERITY 'critical' NOTIFY n",
    "CREATE SINK k AS SELECT * FROM (SELECT 1 AS a UNION ALL SELECT 2) x WITH ('connector'='kafka', a.b = 5)",
    "CREATE SINK k FROM v WITH ('connector'='filesystem')",
    "INSERT INTO t SELECT CASE WHEN a THEN 'é' ELSE b END, c[1], d::TEXT FROM TUMBLE(s, ts, INTERVAL '1 minute') w",
    "EXPLAIN SELECT a, row_number() OVER (PARTITION BY b ORDER BY c) FROM t JOIN u USING (a) WHERE a IN (1, 2) LIMIT 5",
    "REPLAY DEAD FROM s WHERE class = 'x' WITH replace(raw_text, 'a', 'b') LIMIT 5 FORCE; SHOW DEAD FROM s LIMIT 2",
    "DROP MATERIALIZED VIEW IF EXISTS v; SHOW JOBS; PAUSE x; RESUME x; DESCRIBE y$dead;",
];

const PIECES: &[&str] = &[
    "(",
    ")",
    ",",
    ";",
    "'",
    "\"",
    "`",
    "<",
    ">",
    ">>",
    "[",
    "]",
    "{",
    "}",
    "=",
    "=>",
    "::",
    ".",
    "$",
    "$1",
    "?",
    "@",
    "--",
    "/*",
    "*/",
    "☕",
    "\u{0}",
    " TABLE ",
    " AS ",
    " FROM ",
    " WITH ",
    " EMIT ON ",
    " SELECT ",
    " INTERVAL ",
    " NOT ",
    " NULL ",
    " CASE ",
    " (SELECT ",
    "E'\\x'",
    "0x",
    "1e999",
    " WATERMARK FOR ",
    " METADATA ",
    " ROW<",
    " -",
    " FOR ",
    "U&'\\",
    "$$",
    "X'1",
    "#",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Whatever is done to a statement, parsing it gives a statement or an error in the text.
    #[test]
    fn mutated_statements_never_panic(
        seed in 0..SEEDS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, 0..PIECES.len()), 1..12),
    ) {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (place, action, piece) in edits {
            let at = place.index(text.len() + 1);
            match action {
                0 => { text.splice(at..at, PIECES[piece].chars()); }
                1 => { let end = (at + piece).min(text.len()); text.drain(at..end); }
                2 => { let end = (at + piece).min(text.len()); let copy = text[at..end].to_vec(); text.splice(at..at, copy); }
                _ => { text.truncate(at.max(1)); }
            }
        }
        let sql: String = text.into_iter().collect();
        match parse_script(&sql) {
            Ok(parsed) => for statement in parsed {
                let end = statement.offset + statement.text.len();
                prop_assert_eq!(&sql[statement.offset..end], &statement.text);
                prop_assert!(parse_script(&statement.text).is_ok(), "{}", statement.text);
                let (Statement::Select(query) | Statement::CreateView(CreateView { query, .. })) =
                    &statement.statement
                else { continue };
                let SetExpr::Select(select) = query.ast.body.as_ref() else { continue };
                for from in &select.from {
                    if let Ok(Some(call)) = window_call(&from.relation, KINDS) {
                        call.resolve(&["size"]).ok();
                    }
                }
            },
            Err(error) => if let Some(span) = error.span {
                prop_assert!(sql.get(span.start..span.end).is_some(), "{:?} of {}", span, sql);
            },
        }
    }

    /// Nor does any other text.
    #[test]
    fn any_text_never_panics(text in "\\PC{0,80}") {
        parse_script(&text).ok();
        parse_script(&format!("CREATE SOURCE {text}")).ok();
        parse_script(&format!("SELECT {text}")).ok();
    }
}
