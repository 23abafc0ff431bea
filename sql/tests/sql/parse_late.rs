//! `LATE …`: what is read, where errors point, and what the catalog refuses.

#![allow(clippy::unwrap_used)] // also in helpers of tests

use tidemill_contract::Error;
use tidemill_sql::catalog::Catalog;
use tidemill_sql::parse::{Late, Statement, parse_script};

use crate::stream::SOURCE;

const SELECT: &str = "SELECT window_start, window_end, count(*) AS c FROM \
    TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end";

fn late(clauses: &str) -> Late {
    let sql = format!("CREATE MATERIALIZED VIEW v AS {SELECT} {clauses}");
    match parse_script(&sql).unwrap_or_else(|e| panic!("{e}: {clauses}")).remove(0).statement {
        Statement::CreateView(create) => {
            assert_eq!(create.query.text, SELECT, "{clauses}");
            assert_eq!(create.late.span.is_some(), create.late.late != Late::Keep);
            create.late.late
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_clause_is_read_with_and_without_emit() {
    for emit in ["", "EMIT ON WINDOW CLOSE "] {
        assert_eq!(late(emit), Late::Keep);
        assert_eq!(late(&format!("{emit}LATE DROP")), Late::Drop);
        assert_eq!(late(&format!("{emit}late to Too_Late")), Late::To("too_late".to_owned()));
        let hours = late(&format!("{emit}LATE REVISE FOR INTERVAL '2' HOUR"));
        assert_eq!(hours, Late::Revise(7_200_000_000));
    }
}

#[test]
fn a_name_is_no_clause() {
    for query in [
        "SELECT late.a FROM t late",
        "SELECT a AS late FROM t",
        "SELECT late FROM t late WHERE late.a > 1",
        "SELECT a FROM t late GROUP BY a",
        "SELECT a FROM t WHERE f(late) ORDER BY late DESC",
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW v AS {query}");
        let parsed = parse_script(&sql).unwrap_or_else(|e| panic!("{e}: {query}")).remove(0);
        let Statement::CreateView(create) = parsed.statement else { panic!("{query}") };
        assert_eq!((create.late.late, create.query.text.as_str()), (Late::Keep, query));
        parse_script(query).unwrap_or_else(|e| panic!("{e}: {query}"));
    }
}

/// Code and the text the error points at.
fn place(error: &Error, sql: &str) -> String {
    let span = error.span.map(|span| sql[span.start..span.end].to_owned());
    format!("{} {}", error.code, span.unwrap_or_default())
}

#[test]
fn mistakes_are_pointed_at() {
    for (clauses, expected) in [
        ("LATE REVISE", "TM101 REVISE"),
        ("LATE REVISE FOR", "TM101 FOR"),
        ("LATE REVISE INTERVAL '1' HOUR", "TM101 INTERVAL"),
        ("LATE REVISED FOR INTERVAL '1' HOUR", "TM101 REVISED"),
        ("LATE REVISE FOR 5", "TM121 5"),
        ("LATE REVISE FOR INTERVAL '1' MONTH", "TM127 INTERVAL '1' MONTH"),
        ("LATE REVISE FOR INTERVAL '0' SECOND", "TM127 INTERVAL '0' SECOND"),
        ("LATE TO", "TM101 TO"),
        ("LATE TO \"a.b\"", "TM104 \"a.b\""),
        ("LATE TO a.b", "TM109 a."),
        ("LATE DROP EMIT ON WINDOW CLOSE", "TM101 EMIT"),
        ("LATE DROP LATE DROP", "TM109 LATE"),
        ("LATE DROP 1", "TM101 1"),
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW v AS {SELECT} {clauses}");
        let error = parse_script(&sql).expect_err(clauses);
        assert_eq!(place(&error, &sql), expected, "{error}");
    }
    for sql in [
        format!("{SELECT} LATE DROP"),
        format!("CREATE SINK k WITH ('connector'='kafka') AS {SELECT} LATE DROP"),
        format!("INSERT INTO t {SELECT} LATE TO x"),
    ] {
        assert_eq!(place(&parse_script(&sql).expect_err(&sql), &sql), "TM109 LATE");
    }
}

/// Applies all; the error of the last statement.
fn refused(statements: &[&str]) -> String {
    let mut catalog = Catalog::new();
    let all: Vec<String> =
        std::iter::once(SOURCE).chain(statements.iter().copied()).map(str::to_owned).collect();
    for (index, sql) in all.iter().enumerate() {
        let applied = catalog.apply(&parse_script(sql).unwrap().remove(0));
        match applied {
            Ok(_) => assert!(index + 1 < all.len(), "taken: {sql}"),
            Err(error) => {
                assert_eq!(index + 1, all.len(), "{error}");
                return place(&error, sql);
            }
        }
    }
    String::new()
}

#[test]
fn the_catalog_refuses_what_cannot_be() {
    let view = |name: &str, clauses: &str| {
        format!("CREATE MATERIALIZED VIEW {name} AS {SELECT} {clauses}")
    };
    let hour = "LATE REVISE FOR INTERVAL '1' HOUR";
    let revised = view("v", hour);
    let to = view("v", "LATE TO x");
    let sink = "CREATE SINK k WITH ('connector'='kafka', 'topic'='x') AS SELECT id FROM s";
    for (statements, expected) in [
        (
            vec![format!("CREATE MATERIALIZED VIEW v AS SELECT id FROM s {hour}")],
            format!("TM230 {hour}"),
        ),
        (
            vec![format!(
                "CREATE MATERIALIZED VIEW v AS {} {hour}",
                SELECT.replace("SELECT window_start, window_end,", "SELECT window_end,")
            )],
            format!("TM231 {hour}"),
        ),
        (
            vec![format!(
                "CREATE MATERIALIZED VIEW v AS {} {hour}",
                SELECT.replace(
                    "TUMBLE(TABLE s, DESCRIPTOR(ts), ",
                    "HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '50' MILLISECOND, "
                )
            )],
            format!("TM231 {hour}"),
        ),
        (
            vec![revised.clone(), "CREATE MATERIALIZED VIEW w AS SELECT c FROM v".to_owned()],
            "TM304 ".to_owned(),
        ),
        (
            vec![
                revised,
                "CREATE SINK k FROM v WITH ('connector'='kafka', 'topic'='k')".to_owned(),
            ],
            "TM304 ".to_owned(),
        ),
        (vec![view("v", "LATE TO v")], "TM300 LATE TO v".to_owned()),
        (vec![view("v", "LATE TO s")], "TM300 LATE TO s".to_owned()),
        (vec![view("v", "LATE TO alerts")], "TM300 LATE TO alerts".to_owned()),
        (vec![to.clone(), view("w", "LATE TO x")], "TM300 LATE TO x".to_owned()),
        (vec![to.clone(), view("x", "")], "TM300 ".to_owned()),
        (vec![to.clone(), sink.to_owned()], "TM300 'topic'='x'".to_owned()),
        (vec![sink.to_owned(), to], "TM300 LATE TO x".to_owned()),
    ] {
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        assert_eq!(refused(&statements), expected, "{statements:?}");
    }
}
