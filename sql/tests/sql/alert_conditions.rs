//! What a condition may be, and what each impossible one says.

use tidemill_contract::Error;
use tidemill_sql::alert::AlertProgram;

use crate::alert::{emission, program, schema, spec, tumble};

fn refused(clauses: &str) -> Error {
    AlertProgram::new(&spec(clauses), &schema(), 7, tumble()).expect_err(clauses)
}

#[test]
fn conditions_are_any_expression_over_the_row() {
    for condition in [
        "sales.revenue < 100 AND orders BETWEEN 0 AND 5",
        "\"revenue\" IS NOT NULL",
        "coalesce(revenue, 0) / nullif(orders, 0) < 3.5",
        "product LIKE 'c%' OR product IN ('tea', 'cup')",
        "CASE WHEN orders > 0 THEN revenue < 1 ELSE false END",
        "window_end > TIMESTAMP '1970-01-01 00:00:30'",
        "upper(product) = 'CUP'",
        "true",
    ] {
        let mut alert = program(condition);
        let events = alert.on_emission(&emission(1, &[("cup", Some(50))])).unwrap();
        assert_eq!(events.len(), 1, "{condition}");
        assert_eq!(events[0].data["condition"], condition);
    }
    let chain = vec!["revenue < 100"; 100].join(" OR ");
    assert_eq!(program(&chain).on_emission(&emission(1, &[("a", Some(1))])).unwrap().len(), 1);
}

#[test]
fn impossible_conditions_are_refused() {
    for (clauses, code, part) in [
        ("revenu < 100", "TM124", "revenu"),
        ("revenue", "TM124", "not true or false"),
        ("1", "TM124", "not true or false"),
        ("product < 100 AND nosuch(1)", "TM124", "nosuch"),
        ("sum(revenue) < 100", "TM124", "an aggregate"),
        ("row_number() OVER () = 1", "TM124", "an aggregate"),
        ("now() > window_end", "TM124", "the clock"),
        ("current_date > window_end", "TM124", "the clock"),
        ("random() < 0.5", "TM124", "a random function"),
        ("revenue < (SELECT 1)", "TM124", ""),
        ("EXISTS (SELECT * FROM orders)", "TM124", ""),
        ("product IN (SELECT p FROM q)", "TM124", ""),
        ("product = orders AND product", "TM124", ""),
        ("revenue < 100 BY prodct", "TM125", "did you mean product"),
        ("revenue < 100 BY other", "TM125", "window_end, product"),
    ] {
        let error = refused(clauses);
        assert_eq!(error.code, code, "{clauses}: {error}");
        assert!(error.to_string().contains(part), "{clauses}: {error}");
        assert!(error.span.is_some() && error.help.is_some(), "{clauses}: {error:?}");
    }
    let sql = "CREATE ALERT low ON sales WHEN revenu < 100";
    let span = refused("revenu < 100").span.unwrap();
    assert_eq!(&sql[span.start..span.end], "revenu");
}
