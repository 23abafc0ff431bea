//! Integer sums widen and never wrap, in registered queries and across a restore.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use crate::oracle::canonical;
use crate::stream::{Delivery, catalog, random_rows, run};

#[test]
fn a_sum_beyond_64_bits_is_exact() {
    let view = "CREATE MATERIALIZED VIEW v AS SELECT window_start, sum(big) AS total, \
                sum(-big) AS below, count(*) AS c \
                FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end";
    // One hour of event time from a full hour on: one window.
    let rows = random_rows(7, 64, 1_323_388_800_000_000, 3_600_000_000);
    let index = rows.schema().index_of("big").expect("declared");
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[index] = Arc::new(Int64Array::from(vec![i64::MAX; rows.num_rows()]));
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("the same types");
    for restore_after in [1, 2, 3] {
        let delivery = Delivery { partitions: 3, seed: 11, restore_after };
        let output = run(&catalog(&[view.to_owned()]), &rows, &delivery);
        let total = i128::from(i64::MAX) * 64;
        let expected = format!("2011-12-09T00:00:00|{total}|{}|64", -total);
        assert_eq!(canonical(&output["v"]), [expected]);
    }
}
