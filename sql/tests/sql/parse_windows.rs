//! Window calls in every spelling, and interval literals.

use datafusion::sql::sqlparser::ast::{SelectItem, SetExpr, TableFactor};
use tidemill_contract::Error;
use tidemill_sql::parse::{
    Interval, SelectQuery, Statement, WindowCall, parse_interval, window_call,
};

use crate::parse::{SECOND, one, view};

pub(crate) const KINDS: &[&str] = &["tumble", "hop", "cumulate"];

fn factor(query: &SelectQuery) -> TableFactor {
    match query.ast.body.as_ref() {
        SetExpr::Select(select) => select.from[0].relation.clone(),
        other => panic!("{other}"),
    }
}

fn call(from: &str) -> Result<Option<WindowCall>, Error> {
    let Statement::Select(query) = one(&format!("SELECT * FROM {from}")) else { panic!("{from}") };
    window_call(&factor(&query), KINDS)
}

fn interval(text: &str) -> Result<Interval, Error> {
    let view = view(&format!("CREATE MATERIALIZED VIEW v AS SELECT {text}"));
    let SetExpr::Select(select) = view.query.ast.body.as_ref() else { panic!("{text}") };
    match &select.projection[0] {
        SelectItem::UnnamedExpr(expr) => parse_interval(expr),
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
fn windows_in_all_spellings() {
    let minute = micros(60 * SECOND);
    let flink = call("TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))");
    let flink = flink.unwrap().unwrap();
    assert_eq!((flink.kind.as_str(), flink.table.as_str()), ("tumble", "orders"));
    assert_eq!((flink.time_column.as_str(), flink.intervals.clone()), ("ts", vec![minute]));
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
        assert_eq!((found.table.as_str(), found.time_column.as_str()), ("orders", "ts"), "{same}");
        assert_eq!(found.resolve(&["size"]).unwrap(), [minute], "{same}");
    }
    let hop = call(
        "TABLE(HOP(TABLE a$dead, DESCRIPTOR(t), INTERVAL '5' MINUTES, INTERVAL '10' MINUTES, INTERVAL '-1' SECOND)) AS H",
    );
    let hop = hop.unwrap().unwrap();
    assert_eq!((hop.table.as_str(), hop.alias.as_deref()), ("a$dead", Some("h")));
    assert_eq!(
        hop.resolve(&["slide", "size"]).unwrap(),
        [micros(300 * SECOND), micros(600 * SECOND), micros(-SECOND)]
    );
    let named = call(
        "CUMULATE(t, ts, SIZE => INTERVAL '1' DAY, STEP => INTERVAL '1' HOUR, OFFSET => INTERVAL '8' HOUR) c",
    );
    assert_eq!(
        named.unwrap().unwrap().resolve(&["step", "size"]).unwrap(),
        [micros(3_600 * SECOND), micros(86_400 * SECOND), micros(28_800 * SECOND)]
    );
    assert_eq!(call("orders").unwrap(), None);
    assert_eq!(call("generate_series(1, 2)").unwrap(), None);
    assert_eq!(call("(SELECT 1) x").unwrap(), None);
}

#[test]
fn wrong_windows_say_so() {
    for (from, parameters, message) in [
        ("TUMBLE(INTERVAL '1' DAY)", &["size"][..], "is not the name of a source"),
        ("TUMBLE((SELECT 1), ts, INTERVAL '1' DAY)", &["size"], "is not the name of a source"),
        ("TUMBLE(a.b, ts, INTERVAL '1' DAY)", &["size"], "is not the name of a source"),
        ("TUMBLE(orders)", &["size"], "no time column"),
        ("TUMBLE(orders, ts)", &["size"], "needs an interval 'size'"),
        ("TUMBLE(orders, ts, 5)", &["size"], "expected an interval literal"),
        ("TUMBLE(orders, ts + 1, INTERVAL '1' DAY)", &["size"], "is not a column name"),
        ("HOP(orders, ts, SLID => INTERVAL '1' DAY)", &["slide", "size"], "no argument 'slid'"),
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
        ("HOP(DATA => TABLE a, DATA => TABLE b)", &["slide", "size"], "twice"),
        ("TUMBLE(o, ts, SIZE => INTERVAL '1' DAY, INTERVAL '1' DAY)", &["size"], "come after"),
        (
            "TUMBLE(o, ts, INTERVAL '1' DAY, INTERVAL '1' DAY, INTERVAL '1' DAY)",
            &["size"],
            "too many",
        ),
    ] {
        let outcome = call(from).and_then(|call| call.unwrap().resolve(parameters).map(|_| ()));
        let error = outcome.expect_err(from);
        assert!(error.message.contains(message), "{from}: {error}");
        assert!(error.help.is_some() && error.span.is_some(), "{from}: {error:?}");
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
        ("INTERVAL '1 month 1 day'", Interval { months: 1, micros: 86_400 * SECOND }),
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
        assert_eq!(error.code, "TM121", "{text}: {error}");
        assert!(error.help.is_some(), "{text}");
    }
}
