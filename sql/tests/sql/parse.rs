//! Statements: what parses to what, and what each mistake says.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::{Expr, SetExpr, TableFactor};
use proptest::prelude::*;
use tidemill_contract::{Column, ColumnKind, Error, MetadataColumn, Severity};
use tidemill_sql::parse::{
    CreateAlert, CreateSink, CreateSource, CreateView, Interval, MAX_SCRIPT_BYTES, ObjectKind,
    SelectQuery, ShowKind, Statement, WindowCall, parse_interval, parse_script, window_call,
};

const KINDS: &[&str] = &["tumble", "hop", "cumulate"];
const SECOND: i64 = 1_000_000;

fn one(sql: &str) -> Statement {
    let mut parsed = parse_script(sql).unwrap_or_else(|error| panic!("{sql}\n{error}"));
    assert_eq!(parsed.len(), 1, "{sql}");
    parsed.remove(0).statement
}

fn source(sql: &str) -> CreateSource {
    match one(sql) {
        Statement::CreateSource(create) => create,
        other => panic!("{other:?}"),
    }
}

fn view(sql: &str) -> CreateView {
    match one(sql) {
        Statement::CreateView(create) => create,
        other => panic!("{other:?}"),
    }
}

fn alert(sql: &str) -> CreateAlert {
    match one(sql) {
        Statement::CreateAlert(create) => create,
        other => panic!("{other:?}"),
    }
}

fn sink(sql: &str) -> CreateSink {
    match one(sql) {
        Statement::CreateSink(create) => create,
        other => panic!("{other:?}"),
    }
}

fn error(sql: &str) -> Error {
    match parse_script(sql) {
        Ok(parsed) => panic!("{sql} was accepted: {parsed:?}"),
        Err(error) => error,
    }
}

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

fn column(data_type: &str) -> Column {
    source(&format!(
        "CREATE SOURCE s (c {data_type}) WITH ('connector'='kafka')"
    ))
    .spec
    .columns
    .remove(0)
}

fn factor(query: &SelectQuery) -> TableFactor {
    match query.ast.body.as_ref() {
        SetExpr::Select(select) => select.from[0].relation.clone(),
        other => panic!("{other}"),
    }
}

fn call(from: &str) -> Result<Option<WindowCall>, Error> {
    let Statement::Select(query) = one(&format!("SELECT * FROM {from}")) else {
        panic!("{from}")
    };
    window_call(&factor(&query), KINDS)
}

fn interval(text: &str) -> Result<Interval, Error> {
    let view = view(&format!("CREATE MATERIALIZED VIEW v AS SELECT {text}"));
    let SetExpr::Select(select) = view.query.ast.body.as_ref() else {
        panic!("{text}")
    };
    match &select.projection[0] {
        datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr) => parse_interval(expr),
        other => panic!("{other}"),
    }
}

fn micros(micros: i64) -> Interval {
    Interval { months: 0, micros }
}

fn months(months: i32) -> Interval {
    Interval { months, micros: 0 }
}

#[test]
fn the_design_example_parses() {
    let script = "
CREATE SOURCE orders (
  order_id TEXT NOT NULL, product_id TEXT, quantity INT, unit_price DECIMAL(12,2), country TEXT,
  ordered_at TIMESTAMP,
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('connector'='kafka', 'topic'='orders', 'format'='json', 'scan.startup.mode'='earliest-offset');

CREATE MATERIALIZED VIEW sales_per_minute AS
SELECT window_start, window_end, product_id, count(*) AS orders, sum(quantity * unit_price) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, product_id
EMIT ON WINDOW CLOSE;

CREATE ALERT revenue_drop ON sales_per_minute WHEN revenue < 100 FOR 3 WINDOWS BY product_id
  SEVERITY 'critical' NOTIFY ops_webhook;
CREATE SINK big_orders WITH ('connector'='kafka','topic'='big-orders') AS SELECT * FROM orders WHERE quantity > 9;
";
    let parsed = parse_script(script).unwrap();
    assert_eq!(parsed.len(), 4);
    for statement in &parsed {
        let end = statement.offset + statement.text.len();
        assert_eq!(&script[statement.offset..end], statement.text);
        assert!(!statement.text.ends_with(';'));
    }
    assert!(parsed[1].text.ends_with("EMIT ON WINDOW CLOSE"));
    let Statement::CreateView(view) = &parsed[1].statement else {
        panic!()
    };
    assert!(
        view.query.text.ends_with("product_id"),
        "{}",
        view.query.text
    );
    assert!(script[view.query.offset..].starts_with("SELECT window_start"));
}

#[test]
fn sources_have_physical_metadata_and_computed_columns() {
    let create = source(
        "create table if not exists \"Orders\" (
           `Id` bigint not null,
           at_ms BIGINT NULL,
           ts AS to_timestamp_millis(at_ms /* ms */ ), -- computed
           t TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
           partition INT METADATA,
           \"offset\" BIGINT METADATA VIRTUAL NOT NULL,
           k BYTES METADATA FROM 'KEY',
           h MAP<STRING, BYTES> METADATA FROM 'headers',
           WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
         ) with (connector = 'kafka', scan.startup.mode = 'earliest-offset', 'Rows' = 5, x = TRUE)",
    );
    assert!(create.if_not_exists);
    let spec = create.spec;
    assert_eq!(spec.name, "Orders");
    let kinds: Vec<(&str, bool, &ColumnKind)> = spec
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.nullable, &c.kind))
        .collect();
    let computed = ColumnKind::Computed("to_timestamp_millis(at_ms /* ms */ )".to_owned());
    let metadata = |field| ColumnKind::Metadata(field);
    assert_eq!(
        kinds,
        vec![
            ("Id", false, &ColumnKind::Physical),
            ("at_ms", true, &ColumnKind::Physical),
            ("ts", true, &computed),
            ("t", true, &metadata(MetadataColumn::Timestamp)),
            ("partition", true, &metadata(MetadataColumn::Partition)),
            ("offset", false, &metadata(MetadataColumn::Offset)),
            ("k", true, &metadata(MetadataColumn::Key)),
            ("h", true, &metadata(MetadataColumn::Headers)),
        ]
    );
    let watermark = spec.watermark.unwrap();
    assert_eq!(
        (watermark.column.as_str(), watermark.delay),
        ("ts", 5 * SECOND)
    );
    let options: Vec<_> = spec.options.iter().collect();
    assert_eq!(
        options,
        [
            ("connector", "kafka"),
            ("rows", "5"),
            ("scan.startup.mode", "earliest-offset"),
            ("x", "true")
        ]
    );
}

#[test]
fn a_watermark_may_have_no_delay_or_any_fixed_one() {
    for (written, delay) in [
        ("ts", 0),
        ("TS - INTERVAL '1' DAY", 86_400 * SECOND),
        ("ts - INTERVAL '0.5' SECOND", SECOND / 2),
        ("(ts - INTERVAL '1 minute 30 seconds')", -1),
        ("ts - INTERVAL '1 minute 30 seconds'", 90 * SECOND),
        ("ts + INTERVAL '1' SECOND", -1),
        ("ts - INTERVAL '1' MONTH", -1),
        ("ts - INTERVAL '-1' SECOND", -1),
        ("other - INTERVAL '1' SECOND", -1),
    ] {
        let sql = format!(
            "CREATE SOURCE s (ts TIMESTAMP(3), WATERMARK FOR ts AS {written}) WITH ('connector'='x')"
        );
        match parse_script(&sql) {
            Ok(_) => assert_eq!(
                source(&sql).spec.watermark.unwrap().delay,
                delay,
                "{written}"
            ),
            Err(error) => assert_eq!((delay, error.code), (-1, "TM106"), "{written}: {error}"),
        }
    }
}

#[test]
fn types_of_flink_and_postgres() {
    use DataType::{
        Binary, Boolean, Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Time64,
        Timestamp, Utf8,
    };
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let utc = || Some("UTC".into());
    for (name, expected) in [
        ("BOOLEAN", Boolean),
        ("bool", Boolean),
        ("TINYINT", Int8),
        ("SMALLINT", Int16),
        ("int", Int32),
        ("INTEGER", Int32),
        ("INT4", Int32),
        ("BIGINT", Int64),
        ("INT8", Int64),
        ("REAL", Float32),
        ("FLOAT", Float32),
        ("FLOAT8", Float64),
        ("DOUBLE", Float64),
        ("DOUBLE PRECISION", Float64),
        ("DECIMAL", Decimal128(38, 10)),
        ("NUMERIC(12)", Decimal128(12, 0)),
        ("DEC(12, 2)", Decimal128(12, 2)),
        ("STRING", Utf8),
        ("text", Utf8),
        ("VARCHAR(20)", Utf8),
        ("CHARACTER VARYING(20)", Utf8),
        ("CHAR", Utf8),
        ("BYTES", Binary),
        ("BYTEA", Binary),
        ("VARBINARY(9)", Binary),
        ("DATE", Date32),
        ("TIME(3)", Time64(Microsecond)),
        ("TIMESTAMP", Timestamp(Microsecond, None)),
        ("TIMESTAMP(0)", Timestamp(Second, None)),
        ("TIMESTAMP(3)", Timestamp(Millisecond, None)),
        (
            "TIMESTAMP(6) WITHOUT TIME ZONE",
            Timestamp(Microsecond, None),
        ),
        ("TIMESTAMP(9)", Timestamp(Nanosecond, None)),
        ("TIMESTAMP_LTZ(3)", Timestamp(Millisecond, utc())),
        ("TIMESTAMPTZ", Timestamp(Microsecond, utc())),
        ("TIMESTAMP WITH TIME ZONE", Timestamp(Microsecond, utc())),
        (
            "TIMESTAMP(3) WITH LOCAL TIME ZONE",
            Timestamp(Millisecond, utc()),
        ),
    ] {
        assert_eq!(column(name).data_type, expected, "{name}");
    }
}

#[test]
fn nested_types() {
    let list = |of: DataType| DataType::List(Field::new_list_field(of, true).into());
    let row = |fields: Vec<Field>| DataType::Struct(fields.into());
    assert_eq!(column("ARRAY<INT>").data_type, list(DataType::Int32));
    assert_eq!(
        column("TEXT[][] NOT NULL").data_type,
        list(list(DataType::Utf8))
    );
    assert_eq!(column("INT ARRAY").data_type, list(DataType::Int32));
    assert_eq!(
        column("ROW<a INT NOT NULL, \"B\" ARRAY<ROW<c STRING>>> NOT NULL"),
        Column {
            name: "c".to_owned(),
            data_type: row(vec![
                Field::new("a", DataType::Int32, false),
                Field::new(
                    "B",
                    list(row(vec![Field::new("c", DataType::Utf8, true)])),
                    true
                ),
            ]),
            nullable: false,
            kind: ColumnKind::Physical,
        }
    );
    let nested = column("ARRAY<ARRAY<STRUCT<x MAP<STRING, ARRAY<INT>>>>>").data_type;
    assert!(matches!(nested, DataType::List(_)));
    assert_eq!(
        column("ROW(a INT, b ROW<c INT>)").data_type,
        row(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", row(vec![Field::new("c", DataType::Int32, true)]), true),
        ])
    );
    for wrong in [
        "ARRAY<INT",
        "ARRAY<INT>>",
        "MAP<STRING>",
        "ROW<a>",
        "ROW<a INT, a INT>",
        "INT[3]",
    ] {
        error(&format!(
            "CREATE SOURCE s (c {wrong}) WITH ('connector'='x')"
        ));
    }
    let deep = format!("{}INT{}", "ARRAY<".repeat(40), ">".repeat(40));
    assert_eq!(
        error(&format!("CREATE SOURCE s (c {deep}) WITH (a='x')")).code,
        "TM103"
    );
    let deep = format!("INT{}", "[]".repeat(40));
    assert_eq!(
        error(&format!("CREATE SOURCE s (c {deep}) WITH (a='x')")).code,
        "TM103"
    );
}

#[test]
fn windows_in_all_spellings() {
    let minute = micros(60 * SECOND);
    let flink = call("TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))");
    let flink = flink.unwrap().unwrap();
    assert_eq!(
        (flink.kind.as_str(), flink.table.as_str()),
        ("tumble", "orders")
    );
    assert_eq!(
        (flink.time_column.as_str(), flink.intervals.clone()),
        ("ts", vec![minute])
    );
    assert_eq!(flink.resolve(&["size"]).unwrap(), [minute]);
    for same in [
        "TUMBLE(orders, ts, INTERVAL '1 minute')",
        "tumble(Orders, TS, INTERVAL '1 minute')",
        "TABLE(TUMBLE(TABLE \"orders\", DESCRIPTOR(\"ts\"), INTERVAL '60' SECONDS))",
        "TABLE(TUMBLE(DATA => TABLE orders, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1' MINUTE))",
        "TABLE(TUMBLE(size => INTERVAL '1' MINUTE, timecol => DESCRIPTOR(ts), data => TABLE orders))",
        "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), SIZE => INTERVAL '1' MINUTE))",
    ] {
        let found = call(same).unwrap().unwrap();
        assert_eq!(
            (found.table.as_str(), found.time_column.as_str()),
            ("orders", "ts"),
            "{same}"
        );
        assert_eq!(found.resolve(&["size"]).unwrap(), [minute], "{same}");
    }
    let hop = call(
        "TABLE(HOP(TABLE a$dead, DESCRIPTOR(t), INTERVAL '5' MINUTES, INTERVAL '10' MINUTES, INTERVAL '-1' SECOND)) AS H",
    );
    let hop = hop.unwrap().unwrap();
    assert_eq!(
        (hop.table.as_str(), hop.alias.as_deref()),
        ("a$dead", Some("h"))
    );
    assert_eq!(
        hop.resolve(&["slide", "size"]).unwrap(),
        [micros(300 * SECOND), micros(600 * SECOND), micros(-SECOND)]
    );
    let named = call(
        "CUMULATE(t, ts, SIZE => INTERVAL '1' DAY, STEP => INTERVAL '1' HOUR, OFFSET => INTERVAL '8' HOUR) c",
    );
    assert_eq!(
        named.unwrap().unwrap().resolve(&["step", "size"]).unwrap(),
        [
            micros(3_600 * SECOND),
            micros(86_400 * SECOND),
            micros(28_800 * SECOND)
        ]
    );
    assert_eq!(call("orders").unwrap(), None);
    assert_eq!(call("generate_series(1, 2)").unwrap(), None);
    assert_eq!(call("(SELECT 1) x").unwrap(), None);
}

#[test]
fn wrong_windows_say_so() {
    for (from, parameters, message) in [
        (
            "TUMBLE(INTERVAL '1' DAY)",
            &["size"][..],
            "is not the name of a source",
        ),
        (
            "TUMBLE((SELECT 1), ts, INTERVAL '1' DAY)",
            &["size"],
            "is not the name of a source",
        ),
        (
            "TUMBLE(a.b, ts, INTERVAL '1' DAY)",
            &["size"],
            "is not the name of a source",
        ),
        ("TUMBLE(orders)", &["size"], "no time column"),
        ("TUMBLE(orders, ts)", &["size"], "needs an interval 'size'"),
        (
            "TUMBLE(orders, ts, 5)",
            &["size"],
            "expected an interval literal",
        ),
        (
            "TUMBLE(orders, ts + 1, INTERVAL '1' DAY)",
            &["size"],
            "is not a column name",
        ),
        (
            "HOP(orders, ts, SLID => INTERVAL '1' DAY)",
            &["slide", "size"],
            "no argument 'slid'",
        ),
        (
            "HOP(orders, ts, INTERVAL '1' DAY, SLIDE => INTERVAL '1' DAY)",
            &["slide", "size"],
            "twice",
        ),
        (
            "HOP(orders, ts, SIZE => INTERVAL '1' DAY, SIZE => INTERVAL '1' DAY)",
            &["slide", "size"],
            "twice",
        ),
        (
            "HOP(DATA => TABLE a, DATA => TABLE b)",
            &["slide", "size"],
            "twice",
        ),
        (
            "TUMBLE(o, ts, SIZE => INTERVAL '1' DAY, INTERVAL '1' DAY)",
            &["size"],
            "come after",
        ),
        (
            "TUMBLE(o, ts, INTERVAL '1' DAY, INTERVAL '1' DAY, INTERVAL '1' DAY)",
            &["size"],
            "too many",
        ),
    ] {
        let outcome = call(from).and_then(|call| call.unwrap().resolve(parameters).map(|_| ()));
        let error = outcome.expect_err(from);
        assert!(error.message.contains(message), "{from}: {error}");
        assert!(
            error.help.is_some() && error.span.is_some(),
            "{from}: {error:?}"
        );
    }
}

#[test]
fn intervals() {
    for (text, expected) in [
        ("INTERVAL '5' SECOND", micros(5 * SECOND)),
        ("INTERVAL '5 seconds'", micros(5 * SECOND)),
        ("INTERVAL '5s'", micros(5 * SECOND)),
        ("INTERVAL 5 SECOND", micros(5 * SECOND)),
        ("INTERVAL '1.5' HOUR", micros(5_400 * SECOND)),
        ("INTERVAL '250' MILLISECOND", micros(250_000)),
        ("INTERVAL '1 hour 30 minutes'", micros(5_400 * SECOND)),
        ("INTERVAL '1' DAY", micros(86_400 * SECOND)),
        ("INTERVAL '2' WEEK", micros(14 * 86_400 * SECOND)),
        ("INTERVAL '1' MONTH", months(1)),
        ("INTERVAL '1' QUARTER", months(3)),
        ("INTERVAL '2' YEAR", months(24)),
        (
            "INTERVAL '1 month 1 day'",
            Interval {
                months: 1,
                micros: 86_400 * SECOND,
            },
        ),
        ("INTERVAL '-3' MINUTE", micros(-180 * SECOND)),
        ("- INTERVAL '3' MINUTE", micros(-180 * SECOND)),
        ("INTERVAL '10' MINUTE(3)", micros(600 * SECOND)),
    ] {
        assert_eq!(interval(text).unwrap(), expected, "{text}");
    }
    for text in [
        "INTERVAL '5'",
        "INTERVAL '5 lightyears'",
        "INTERVAL 'x' SECOND",
        "INTERVAL '' SECOND",
        "INTERVAL ''",
        "INTERVAL '1 2' SECOND",
        "INTERVAL '1-2' YEAR TO MONTH",
        "INTERVAL '0.5' MONTH",
        "INTERVAL '0.0000001' SECOND",
        "INTERVAL '9999999999999999999' DAY",
        "INTERVAL '99999999999999999999999999999999999999999999' DAY",
        "INTERVAL '1:30' HOUR",
        "INTERVAL '1--2' HOUR",
        "INTERVAL '.' HOUR",
        "INTERVAL '5' CENTURY",
        "5",
    ] {
        let error = interval(text).expect_err(text);
        assert_eq!(error.code, "TM112", "{text}: {error}");
        assert!(error.help.is_some(), "{text}");
    }
}

#[test]
fn views_take_emit_on_window_close() {
    let with =
        view("CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT a FROM t EMIT ON WINDOW CLOSE");
    let without = view("CREATE MATERIALIZED VIEW v AS SELECT a FROM t");
    assert!(with.if_not_exists && !without.if_not_exists);
    assert_eq!(with.query.text, "SELECT a FROM t");
    assert_eq!(with.query.ast.to_string(), without.query.ast.to_string());
    // A column may be named like the clause.
    let named = view("CREATE MATERIALIZED VIEW v AS SELECT emit, a AS emit FROM t WHERE emit > 1");
    assert!(named.query.text.ends_with("emit > 1"));
    let last = view("CREATE MATERIALIZED VIEW v AS SELECT a FROM t ORDER BY emit");
    assert!(last.query.text.ends_with("ORDER BY emit"));
}

#[test]
fn alerts_take_their_clauses_in_any_order() {
    let spec = alert(
        "CREATE ALERT IF NOT EXISTS a ON v WHEN revenue < 100 OR (x IS NULL) NOTIFY hook, Mail \
         SEVERITY critical BY product_id, \"Country\" FOR 3 WINDOWS",
    );
    assert!(spec.if_not_exists);
    let spec = spec.spec;
    assert_eq!(
        (spec.name.as_str(), spec.view.as_str(), spec.for_windows),
        ("a", "v", 3)
    );
    assert_eq!(spec.condition_text, "revenue < 100 OR (x IS NULL)");
    assert!(matches!(spec.condition, Expr::BinaryOp { .. }));
    assert_eq!(spec.by, ["product_id", "Country"]);
    assert_eq!(spec.notify, ["hook", "mail"]);
    assert_eq!(spec.severity, Severity::Critical);

    let spec = alert("CREATE ALERT a ON v WHEN x > 1 FOR 1 WINDOW").spec;
    assert_eq!((spec.for_windows, spec.severity), (1, Severity::Warning));
    assert!(spec.by.is_empty() && spec.notify.is_empty());
    for wrong in [
        "CREATE ALERT a ON v",
        "CREATE ALERT a ON v WHEN",
        "CREATE ALERT a WHEN x > 1",
        "CREATE ALERT a ON v WHEN x > 1 FOR 0 WINDOWS",
        "CREATE ALERT a ON v WHEN x > 1 FOR 1.5 WINDOWS",
        "CREATE ALERT a ON v WHEN x > 1 FOR 3",
        "CREATE ALERT a ON v WHEN x > 1 FOR 3 MINUTES",
        "CREATE ALERT a ON v WHEN x > 1 BY",
        "CREATE ALERT a ON v WHEN x > 1 BY a, a",
        "CREATE ALERT a ON v WHEN x > 1 SEVERITY 'bad'",
        "CREATE ALERT a ON v WHEN x > 1 SEVERITY 'info' SEVERITY 'info'",
        "CREATE ALERT a ON v WHEN x > 1 nonsense",
        "CREATE ALERT a ON s.v WHEN x > 1",
    ] {
        assert!(error(wrong).span.is_some(), "{wrong}");
    }
}

#[test]
fn sinks_in_three_spellings() {
    let first =
        sink("CREATE SINK s WITH ('connector'='kafka') AS SELECT * FROM v EMIT ON WINDOW CLOSE");
    let last = sink("CREATE SINK s AS SELECT * FROM v WITH ('connector'='kafka')");
    let whole = sink("CREATE SINK IF NOT EXISTS s FROM v WITH ('connector'='kafka')");
    for create in [&first, &last, &whole] {
        assert_eq!(create.spec.name, "s");
        assert_eq!(create.spec.connector(), "kafka");
        assert_eq!(create.query.text, "SELECT * FROM v");
        assert_eq!(create.query.ast.to_string(), "SELECT * FROM v");
    }
    assert!(whole.if_not_exists);
    let cte =
        sink("CREATE SINK s AS WITH x AS (SELECT 1 AS a) SELECT a FROM x WITH (connector='kafka')");
    assert_eq!(cte.query.text, "WITH x AS (SELECT 1 AS a) SELECT a FROM x");
    assert!(
        error("CREATE SINK s AS SELECT 1")
            .message
            .contains("no options")
    );
    for wrong in [
        "CREATE SINK s",
        "CREATE SINK s WITH ('a'='b')",
        "CREATE SINK s WITH ('a'='b') AS DELETE FROM t",
        "CREATE SINK s FROM v",
        "CREATE SINK s AS SELECT 1 WITH ('a'='b') EMIT ON WINDOW CLOSE nonsense",
        "CREATE SINK s FROM v WITH ('a'='b') nonsense",
    ] {
        error(wrong);
    }
}

#[test]
fn short_statements() {
    for (sql, expected) in [
        ("SHOW SOURCES", ShowKind::Sources),
        ("show views", ShowKind::Views),
        ("SHOW MATERIALIZED VIEWS", ShowKind::Views),
        ("SHOW ALERTS;", ShowKind::Alerts),
        ("SHOW SINKS", ShowKind::Sinks),
        ("SHOW JOBS", ShowKind::Jobs),
        ("SHOW TABLES", ShowKind::All),
    ] {
        assert!(
            matches!(one(sql), Statement::Show(kind) if kind == expected),
            "{sql}"
        );
    }
    for (sql, kind, if_exists) in [
        ("DROP SOURCE x", ObjectKind::Source, false),
        ("DROP TABLE IF EXISTS x", ObjectKind::Source, true),
        ("DROP VIEW x", ObjectKind::View, false),
        ("DROP MATERIALIZED VIEW IF EXISTS x", ObjectKind::View, true),
        ("DROP ALERT x", ObjectKind::Alert, false),
        ("DROP SINK x RESTRICT", ObjectKind::Sink, false),
    ] {
        let Statement::Drop(drop) = one(sql) else {
            panic!("{sql}")
        };
        assert_eq!(
            (drop.kind, drop.name.as_str(), drop.if_exists),
            (kind, "x", if_exists)
        );
    }
    assert!(matches!(one("PAUSE v"), Statement::Pause(name) if name == "v"));
    assert!(matches!(one("resume \"V\""), Statement::Resume(name) if name == "V"));
    assert!(
        matches!(one("DESCRIBE orders$dead"), Statement::Describe(name) if name == "orders$dead")
    );
    assert!(matches!(one("desc v"), Statement::Describe(_)));
    assert!(matches!(one("VALUES (1)"), Statement::Select(_)));
    assert!(matches!(
        one("(SELECT 1) UNION ALL (SELECT 2) LIMIT 1"),
        Statement::Select(_)
    ));
    assert!(matches!(
        one("WITH x AS (SELECT 1) SELECT * FROM x"),
        Statement::Select(_)
    ));
    let Statement::Explain(inner) = one("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT 1") else {
        panic!()
    };
    assert!(matches!(*inner, Statement::CreateView(_)));
    let Statement::InsertInto(insert) = one("INSERT INTO t SELECT a, b FROM v WHERE a > 1") else {
        panic!()
    };
    assert_eq!(
        (insert.table.as_str(), insert.query.text.as_str()),
        ("t", "SELECT a, b FROM v WHERE a > 1")
    );
}

#[test]
fn queries_keep_what_datafusion_understands() {
    for query in [
        "SELECT count(*) FILTER (WHERE a > 1), count(DISTINCT b) FROM t GROUP BY GROUPING SETS ((a), ())",
        "SELECT a, row_number() OVER (PARTITION BY b ORDER BY c DESC) AS n FROM t",
        "SELECT CAST(a AS STRING), a::BIGINT, TRY_CAST(b AS DECIMAL(12,2)) FROM t",
        "SELECT first_value(a ORDER BY b), date_trunc('hour', ts), EXTRACT(YEAR FROM ts) FROM t",
        "SELECT * FROM a JOIN b ON a.x = b.y AND a.w = b.w",
        "SELECT struct_column.field, array_column[1], {'a': 1} FROM t",
        "SELECT DISTINCT a FROM (VALUES (1), (2)) AS v(a) ORDER BY a DESC NULLS LAST LIMIT 10 OFFSET 1",
        "SELECT TIMESTAMP '2024-01-01 00:00:00' - INTERVAL '1' DAY, DATE '2024-01-01'",
        "SELECT CASE WHEN a > 1 THEN 'x' ELSE 'y' END, a BETWEEN 1 AND 2, b LIKE '%x', c IN (1, 2) FROM t",
        "SELECT * EXCLUDE (a) FROM t",
        "SELECT 'naïve ☕' AS \"größe\" FROM t",
    ] {
        assert!(matches!(one(query), Statement::Select(_)), "{query}");
    }
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
        assert!(
            span.start <= span.end && span.end <= sql.len(),
            "{sql}: {span:?}"
        );
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
        (
            "SELECT count( FROM orders",
            "TM101 expected ), found 'orders'\n  at: orders",
        ),
        (
            "SELECT '☕', (1 + 2",
            "TM101 expected ), found the end of the statement\n  at: 2",
        ),
        (
            "CREATE ALERT a ON v WHEN x > 1 SEVERITY 'critcal'",
            "TM114 unknown severity 'critcal'\n  at: 'critcal'\n  help: did you mean 'critical'?",
        ),
        (
            "SHOW SORCES",
            "TM101 expected SOURCES or VIEWS or ALERTS or SINKS or JOBS or TABLES, found 'SORCES'\n  at: SORCES\n  help: did you mean SOURCES?",
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
    let parsed = parse_script("\u{feff}").map(|_| ());
    assert!(parsed.is_err());
    assert!(parse_script(" ; ;; -- nothing\n ;").unwrap().is_empty());
}

#[test]
fn limits_hold() {
    let long = format!("SELECT '{}'", "x".repeat(MAX_SCRIPT_BYTES));
    assert_eq!(error(&long).code, "TM100");
    let many = format!("SELECT {}", vec!["1"; 6_000].join(", "));
    assert_eq!(error(&many).code, "TM100");
    let wide = format!("SELECT a IN ({})", vec!["1"; 4_000].join(", "));
    assert!(parse_script(&wide).is_ok());
    for (sql, code) in [
        (
            format!("SELECT {}1{}", "(".repeat(3_000), ")".repeat(3_000)),
            "TM100",
        ),
        (format!("SELECT {}1", "NOT ".repeat(3_000)), "TM101"),
        (
            format!("SELECT {}1", "+ ".repeat(3_000)),
            "TM100",
        ),
        (format!("SELECT {}", vec!["1"; 4_000].join(" + ")), "TM100"),
        (format!("SELECT {}", vec!["a"; 4_000].join(" OR ")), "TM100"),
        (format!("SELECT a{}", "::INT".repeat(3_000)), "TM100"),
        (format!("SELECT a{}", " IS NULL".repeat(3_000)), "TM100"),
        (
            format!("SELECT {}1{}", "f(".repeat(3_000), ")".repeat(3_000)),
            "TM100",
        ),
        (
            format!("SELECT {}1{}", "(SELECT ".repeat(2_000), ")".repeat(2_000)),
            "TM100",
        ),
        (
            format!("SELECT * FROM {}a{}", "(".repeat(3_000), ")".repeat(3_000)),
            "TM100",
        ),
        (
            format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(500)),
            "TM100",
        ),
        (
            format!("CREATE ALERT a ON v WHEN {}", vec!["a"; 4_000].join(" OR ")),
            "TM100",
        ),
        (
            format!("{}SELECT 1{}", "(".repeat(3_000), ")".repeat(3_000)),
            "TM100",
        ),
    ] {
        assert_eq!(error(&sql).code, code, "{}", &sql[..60]);
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
                if let Statement::Select(query) | Statement::CreateView(CreateView { query, .. }) = &statement.statement {
                    if let SetExpr::Select(select) = query.ast.body.as_ref() {
                        for from in &select.from {
                            if let Ok(Some(call)) = window_call(&from.relation, KINDS) {
                                call.resolve(&["size"]).ok();
                            }
                        }
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
