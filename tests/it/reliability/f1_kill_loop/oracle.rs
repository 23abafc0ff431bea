//! What the tables must hold, said twice: by a plain DataFusion session over the events as they
//! were made, and by DuckDB over the input files as they lie there.
//!
//! Both read the tables the way anybody would, as Delta tables of Parquet files, and compare them
//! as multisets of rows. The SQL is written for this test in terms of whole milliseconds; it has
//! no window function of ours in it. `late` holds what the topic of late rows says.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::datasource::MemTable;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store;

use super::events::Events;

/// One table and its truth.
pub(super) struct Check {
    pub(super) view: &'static str,
    /// Columns compared, with the type both sides are cast to.
    columns: &'static [(&'static str, &'static str)],
    /// The truth over `good` and `late`; `{close}` is where the closing rows begin.
    truth: &'static str,
    /// The table's columns in the same terms; `{ms:x}` is a timestamp in milliseconds.
    found: &'static str,
}

const COUNT: &str = "BIGINT";
const MONEY: &str = "DECIMAL(38, 2)";

pub(super) const CHECKS: &[Check] = &[
    Check {
        view: "kept",
        columns: &[("id", COUNT), ("shop", "VARCHAR"), ("amount", MONEY), ("t", COUNT)],
        truth: "SELECT id, shop, amount, t FROM good",
        found: "SELECT id, shop, amount, {ms:ts} AS t FROM kept",
    },
    Check {
        view: "per_shop",
        columns: &[
            ("w", COUNT),
            ("shop", "VARCHAR"),
            ("n", COUNT),
            ("total", MONEY),
            ("lo", MONEY),
            ("hi", MONEY),
            ("c", COUNT),
            ("q", COUNT),
        ],
        truth: "SELECT t - t % 10000 AS w, shop, count(*) AS n, sum(amount) AS total,
                min(amount) AS lo, max(amount) AS hi, count(DISTINCT customer) AS c,
                sum(quantity) AS q
                FROM good WHERE t < {close}
                AND id NOT IN (SELECT id FROM late WHERE query = 'per_shop')
                GROUP BY t - t % 10000, shop",
        found: "SELECT {ms:window_start} AS w, shop, n, total, lo, hi, c, q FROM per_shop",
    },
    Check {
        view: "slides",
        columns: &[("w", COUNT), ("shop", "VARCHAR"), ("n", COUNT), ("total", MONEY)],
        truth: "SELECT t - t % 5000 - 5000 * k AS w, shop, count(*) AS n, sum(amount) AS total
                FROM good CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5)) AS slide(k)
                WHERE t < {close} AND quantity > 5
                AND id NOT IN (SELECT id FROM late WHERE query = 'slides')
                GROUP BY t - t % 5000 - 5000 * k, shop",
        found: "SELECT {ms:window_start} AS w, shop, n, total FROM slides",
    },
    Check {
        view: "growth",
        columns: &[
            ("w", COUNT),
            ("e", COUNT),
            ("customer", COUNT),
            ("n", COUNT),
            ("total", MONEY),
            ("hi", MONEY),
        ],
        truth: "SELECT t - t % 120000 AS w, t - t % 120000 + 20000 * k AS e, customer,
                count(*) AS n, sum(amount) AS total, max(amount) AS hi
                FROM good CROSS JOIN (VALUES (1), (2), (3), (4), (5), (6)) AS step(k)
                WHERE t < {close} AND t - t % 120000 + 20000 * k > t
                AND id NOT IN (SELECT id FROM late WHERE query = 'growth')
                GROUP BY t - t % 120000, t - t % 120000 + 20000 * k, customer",
        found: "SELECT {ms:window_start} AS w, {ms:window_end} AS e, customer, n, total, hi
                FROM growth",
    },
    Check {
        view: "per_minute",
        columns: &[("w", COUNT), ("n", COUNT), ("total", MONEY), ("hi", MONEY), ("shops", COUNT)],
        truth: "SELECT w - w % 60000 AS w, sum(n) AS n, sum(total) AS total, max(hi) AS hi,
                count(*) AS shops
                FROM (SELECT t - t % 10000 AS w, shop, count(*) AS n, sum(amount) AS total,
                      max(amount) AS hi FROM good WHERE t < {close}
                      AND id NOT IN (SELECT id FROM late WHERE query = 'per_shop')
                      GROUP BY t - t % 10000, shop) AS small
                GROUP BY w - w % 60000",
        found: "SELECT {ms:window_start} AS w, n, total, hi, shops FROM per_minute",
    },
];

impl Check {
    fn truth(&self, events: Events) -> String {
        self.truth.replace("{close}", &events.closing_ms().to_string())
    }

    /// Counts the rows that are not as often on one side as on the other.
    fn difference(&self, events: Events, millis: impl Fn(&str) -> String) -> String {
        let mut found = self.found.to_owned();
        while let Some((before, rest)) = found.split_once("{ms:") {
            let (column, after) = rest.split_once('}').unwrap();
            found = format!("{before}{}{after}", millis(column));
        }
        let (mut cast, mut names) = (String::new(), String::new());
        for (name, kind) in self.columns {
            write!(cast, "CAST({name} AS {kind}) AS {name}, ").unwrap();
            write!(names, "{name}, ").unwrap();
        }
        let names = names.trim_end_matches(", ");
        format!(
            "SELECT count(*) AS n FROM (SELECT {names}, sum(side) AS s FROM
               (SELECT {cast} 1 AS side FROM ({}) AS truth
                UNION ALL SELECT {cast} -1 AS side FROM ({found}) AS found) AS both_sides
             GROUP BY {names}) AS counted WHERE s <> 0",
            self.truth(events)
        )
    }

    fn size(&self, events: Events) -> String {
        format!("SELECT count(*) AS n FROM ({}) AS truth", self.truth(events))
    }
}

/// A late row: the query and the event's number.
pub(super) type Late = (String, i64);

/// DataFusion, with the events as they were made.
pub(super) async fn session(bucket: &Path, events: Events, late: &[Late]) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    register(&context, "good", events.batches());
    let columns: [(&str, ArrayRef); 2] = [
        ("query", Arc::new(StringArray::from_iter_values(late.iter().map(|late| &late.0)))),
        ("id", Arc::new(Int64Array::from_iter_values(late.iter().map(|late| late.1)))),
    ];
    register(&context, "late", vec![RecordBatch::try_from_iter(columns).unwrap()]);
    let url = format!("file://{}", bucket.display());
    let store = store::open(&url, &std::collections::BTreeMap::new()).unwrap();
    for check in CHECKS {
        let files = Box::pin(delta::files(&store, check.view)).await.unwrap();
        assert!(!files.is_empty(), "table '{}' has no file", check.view);
        let paths: Vec<String> =
            files.iter().map(|file| bucket.join(file).display().to_string()).collect();
        let table = context.read_parquet(paths, ParquetReadOptions::default()).await.unwrap();
        context.register_table(check.view, table.into_view()).unwrap();
    }
    context
}

fn register(context: &SessionContext, name: &str, batches: Vec<RecordBatch>) {
    let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
    context.register_table(name, Arc::new(table)).unwrap();
}

/// Compares every table with the truth; gives how many rows were compared.
pub(super) async fn assert_equal(context: &SessionContext, events: Events) -> i64 {
    let mut rows = 0;
    for check in CHECKS {
        let millis = |column: &str| format!("CAST({column} AS BIGINT) / 1000");
        let size = number(context, &check.size(events)).await;
        assert!(size > 0, "the truth of '{}' is empty", check.view);
        let differing = number(context, &check.difference(events, millis)).await;
        assert_eq!(differing, 0, "DataFusion: rows of '{}' that differ, of {size}", check.view);
        rows += size;
    }
    rows
}

async fn number(context: &SessionContext, sql: &str) -> i64 {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
}

/// Reads the tables with deltalake, the input with DuckDB, and prints `view size differing` lines.
const DUCK: &str = r#"
import json, os, sys
import deltalake, duckdb

task = json.load(open(sys.argv[1]))
con = duckdb.connect()
con.execute("SET threads = 2")
con.execute("SET enable_progress_bar = false")
con.execute("SET preserve_insertion_order = false")
con.execute(f"""
  CREATE TABLE good AS
  SELECT try_cast(line->>'$.id' AS BIGINT) AS id, line->>'$.shop' AS shop,
         try_cast(line->>'$.customer' AS INTEGER) AS customer,
         try_cast(line->>'$.amount' AS DECIMAL(12, 2)) AS amount,
         try_cast(line->>'$.quantity' AS INTEGER) AS quantity,
         try_cast(line->>'$.at' AS BIGINT) AS t
  FROM read_csv('{task["input"]}/*.jsonl', columns = {{'line': 'VARCHAR'}}, header = false,
                delim = '\x01', quote = '', escape = '', auto_detect = false)
  WHERE json_valid(line)""")
con.execute("DELETE FROM good WHERE id IS NULL OR amount IS NULL OR t > 250000000000000")
con.execute(f"""CREATE TABLE late AS SELECT * FROM
  read_csv('{task["late"]}', columns = {{'query': 'VARCHAR', 'id': 'BIGINT'}}, header = false)""")
for check in task["checks"]:
    table = deltalake.DeltaTable(f"{task['bucket']}/tables/{check['view']}")
    con.register(check["view"], table.to_pyarrow_dataset())
    size = con.execute(check["size"]).fetchone()[0]
    differing = con.execute(check["difference"]).fetchone()[0]
    print(check["view"], size, differing)
sys.stdout.flush()
# The packages' thread pools sometimes abort when an interpreter ends in the usual way.
os._exit(0)
"#;

/// Compares every table with what DuckDB makes of the input files; gives the number of rows
/// compared, `None` if there is no Python with the packages.
pub(super) fn assert_equal_in_duckdb(
    folder: &Path,
    bucket: &Path,
    input: &Path,
    events: Events,
    late: &[Late],
) -> Option<i64> {
    let python = crate::lake::python()?;
    let lines: Vec<String> = late.iter().map(|(query, id)| format!("{query},{id}\n")).collect();
    std::fs::write(folder.join("late.csv"), lines.concat()).unwrap();
    let millis = |column: &str| format!("epoch_ms({column})");
    let checks: Vec<serde_json::Value> = CHECKS
        .iter()
        .map(|check| {
            serde_json::json!({ "view": check.view, "size": check.size(events),
                                "difference": check.difference(events, millis) })
        })
        .collect();
    let task = serde_json::json!({ "bucket": bucket, "input": input, "checks": checks,
                                   "late": folder.join("late.csv") });
    std::fs::write(folder.join("task.json"), task.to_string()).unwrap();
    let output =
        Command::new(python).args(["-c", DUCK]).arg(folder.join("task.json")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut rows = 0;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.lines().count(), CHECKS.len(), "{text}\n{errors}");
    for line in text.lines() {
        let mut words = line.split(' ');
        let (view, size, differing) = (words.next(), words.next(), words.next());
        assert_eq!(differing, Some("0"), "DuckDB: rows of {view:?} that differ, of {size:?}");
        rows += size.unwrap().parse::<i64>().unwrap();
    }
    Some(rows)
}
