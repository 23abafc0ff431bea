//! Statements: what parses to what, and what each mistake says.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::Expr;
use tidemill_contract::{Column, ColumnKind, Error, MetadataColumn, Severity};
use tidemill_sql::parse::{
    CreateAlert, CreateSink, CreateSource, CreateView, ObjectKind, RecoverPoint, ShowKind,
    Statement, parse_script,
};

pub(crate) const SECOND: i64 = 1_000_000;

pub(crate) fn one(sql: &str) -> Statement {
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

pub(crate) fn view(sql: &str) -> CreateView {
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

pub(crate) fn error(sql: &str) -> Error {
    match parse_script(sql) {
        Ok(_) => panic!("{} was accepted", sql.chars().take(80).collect::<String>()),
        Err(error) => error,
    }
}

fn column(data_type: &str) -> Column {
    source(&format!("CREATE SOURCE s (c {data_type}) WITH ('connector'='kafka')"))
        .spec
        .columns
        .remove(0)
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
    let Statement::CreateView(view) = &parsed[1].statement else { panic!() };
    assert!(view.query.text.ends_with("product_id"), "{}", view.query.text);
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
    let kinds: Vec<(&str, bool, &ColumnKind)> =
        spec.columns.iter().map(|c| (c.name.as_str(), c.nullable, &c.kind)).collect();
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
    assert_eq!((watermark.column.as_str(), watermark.delay), ("ts", 5 * SECOND));
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
            Ok(_) => assert_eq!(source(&sql).spec.watermark.unwrap().delay, delay, "{written}"),
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
        ("TIMESTAMP(6) WITHOUT TIME ZONE", Timestamp(Microsecond, None)),
        ("TIMESTAMP(9)", Timestamp(Nanosecond, None)),
        ("TIMESTAMP_LTZ(3)", Timestamp(Millisecond, utc())),
        ("TIMESTAMPTZ", Timestamp(Microsecond, utc())),
        ("TIMESTAMP WITH TIME ZONE", Timestamp(Microsecond, utc())),
        ("TIMESTAMP(3) WITH LOCAL TIME ZONE", Timestamp(Millisecond, utc())),
    ] {
        assert_eq!(column(name).data_type, expected, "{name}");
    }
}

#[test]
fn nested_types() {
    let list = |of: DataType| DataType::List(Field::new_list_field(of, true).into());
    let row = |fields: Vec<Field>| DataType::Struct(fields.into());
    assert_eq!(column("ARRAY<INT>").data_type, list(DataType::Int32));
    assert_eq!(column("TEXT[][] NOT NULL").data_type, list(list(DataType::Utf8)));
    assert_eq!(column("INT ARRAY").data_type, list(DataType::Int32));
    assert_eq!(
        column("ROW<a INT NOT NULL, \"B\" ARRAY<ROW<c STRING>>> NOT NULL"),
        Column {
            name: "c".to_owned(),
            data_type: row(vec![
                Field::new("a", DataType::Int32, false),
                Field::new("B", list(row(vec![Field::new("c", DataType::Utf8, true)])), true),
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
    for wrong in
        ["ARRAY<INT", "ARRAY<INT>>", "MAP<STRING>", "ROW<a>", "ROW<a INT, a INT>", "INT[3]"]
    {
        error(&format!("CREATE SOURCE s (c {wrong}) WITH ('connector'='x')"));
    }
    let deep = format!("{}INT{}", "ARRAY<".repeat(40), ">".repeat(40));
    assert_eq!(error(&format!("CREATE SOURCE s (c {deep}) WITH (a='x')")).code, "TM103");
    let deep = format!("INT{}", "[]".repeat(40));
    assert_eq!(error(&format!("CREATE SOURCE s (c {deep}) WITH (a='x')")).code, "TM103");
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
    assert_eq!((spec.name.as_str(), spec.view.as_str(), spec.for_windows), ("a", "v", 3));
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
    assert!(error("CREATE SINK s AS SELECT 1").message.contains("no options"));
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
        ("SHOW LOSSES", ShowKind::Losses),
        ("SHOW TABLES", ShowKind::All),
    ] {
        assert!(matches!(one(sql), Statement::Show(kind) if kind == expected), "{sql}");
    }
    for (sql, kind, if_exists) in [
        ("DROP SOURCE x", ObjectKind::Source, false),
        ("DROP TABLE IF EXISTS x", ObjectKind::Source, true),
        ("DROP VIEW x", ObjectKind::View, false),
        ("DROP MATERIALIZED VIEW IF EXISTS x", ObjectKind::View, true),
        ("DROP ALERT x", ObjectKind::Alert, false),
        ("DROP SINK x RESTRICT", ObjectKind::Sink, false),
    ] {
        let Statement::Drop(drop) = one(sql) else { panic!("{sql}") };
        assert_eq!((drop.kind, drop.name.as_str(), drop.if_exists), (kind, "x", if_exists));
    }
    for (sql, from) in [
        ("RECOVER SOURCE x FROM EARLIEST", RecoverPoint::Earliest),
        ("recover table x from latest;", RecoverPoint::Latest),
    ] {
        let Statement::Recover(recover) = one(sql) else { panic!("{sql}") };
        assert_eq!((recover.source.as_str(), recover.from), ("x", from));
    }
    for wrong in [
        "RECOVER",
        "RECOVER x FROM EARLIEST",
        "RECOVER SOURCE x",
        "RECOVER SOURCE x FROM",
        "RECOVER SOURCE x FROM 17",
        "RECOVER SOURCE x FROM LATEST OFFSET",
        "EXPLAIN RECOVER SOURCE x FROM LATEST",
    ] {
        error(wrong);
    }
    assert!(matches!(one("PAUSE v"), Statement::Pause(name) if name == "v"));
    assert!(matches!(one("resume \"V\""), Statement::Resume(name) if name == "V"));
    assert!(
        matches!(one("DESCRIBE orders$dead"), Statement::Describe(name) if name == "orders$dead")
    );
    assert!(matches!(one("desc v"), Statement::Describe(_)));
    assert!(matches!(one("VALUES (1)"), Statement::Select(_)));
    assert!(matches!(one("(SELECT 1) UNION ALL (SELECT 2) LIMIT 1"), Statement::Select(_)));
    assert!(matches!(one("WITH x AS (SELECT 1) SELECT * FROM x"), Statement::Select(_)));
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
fn dead_rows_are_shown_and_replayed() {
    let shown = |sql: &str| match one(sql) {
        Statement::ShowDead(show) => (show.source, show.limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown("SHOW DEAD"), (None, None));
    assert_eq!(shown("show dead from Orders limit 5"), (Some("orders".to_owned()), Some(5)));
    let sql = "REPLAY DEAD FROM orders WHERE class = 'type' AND \"offset\" > 5 \
               WITH replace(raw_text, ',}', '}') LIMIT 10 FORCE";
    let Statement::ReplayDead(replay) = one(sql) else { panic!("no REPLAY") };
    assert_eq!((replay.source.as_str(), replay.limit, replay.force), ("orders", Some(10), true));
    let condition = replay.condition.expect("WHERE");
    assert_eq!(
        condition.ast.to_string(),
        "SELECT n FROM dead WHERE class = 'type' AND \"offset\" > 5"
    );
    let transform = replay.transform.expect("WITH");
    assert_eq!(transform.ast.to_string(), "SELECT n, replace(raw_text, ',}', '}') FROM dead");
    assert_eq!(&sql[transform.offset..][..transform.text.len()], transform.text);
    let Statement::ReplayDead(plain) = one("REPLAY DEAD FROM orders") else { panic!("no REPLAY") };
    assert!(plain.condition.is_none() && plain.transform.is_none() && !plain.force);
    assert!(matches!(one("EXPLAIN REPLAY DEAD FROM orders"), Statement::Explain(_)));
    for wrong in [
        "REPLAY",
        "REPLAY DEAD",
        "REPLAY DEAD FROM orders WITH",
        "REPLAY DEAD FROM orders WITH raw_text WHERE class = 'x'",
        "REPLAY DEAD FROM orders FORCE LIMIT 1",
        "REPLAY DEAD FROM a, b",
        "REPLAY DEAD FROM orders LIMIT -1",
        "SHOW DEAD FROM",
        "SHOW DEAD orders",
    ] {
        assert_eq!(error(wrong).code, "TM101", "{wrong}");
    }
    assert_eq!(error("REPLAY DEAD FROM o WHERE id IN (SELECT 1)").code, "TM109");
}
