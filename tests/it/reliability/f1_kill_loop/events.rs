//! The events of the kill loop: each a function of its number alone, so that every life writes the
//! same files and the truth needs no memory of what was written.
//!
//! Out of order by less than the declared delay, some broken, some of a time long closed. A late
//! row is so late that no window of any query can be open for it: it is late for all or for none,
//! whatever the reader's interleaving, and a batch query can leave it out whole.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray};

/// 2024-01-01T00:00:00Z, a whole multiple of every window's size.
pub(super) const START_MS: i64 = 1_704_067_200_000;
const SHOPS: [&str; 12] =
    ["ams", "ber", "cph", "dub", "gva", "hel", "lis", "mad", "osl", "par", "rom", "vie"];
const CUSTOMERS: u64 = 500;
/// Rows within so many milliseconds may change places.
const DISORDER_MS: u64 = 3_000;
const DAY_MS: i64 = 86_400_000;
/// Rows before the first late one: by then every partition has a watermark.
const FIRST_LATE: i64 = 20_000;
/// Rows that close every window: enough for each partition to get some.
pub(super) const CLOSING_ROWS: i64 = 64;

/// One good row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) shop: &'static str,
    pub(super) customer: i32,
    pub(super) cents: i64,
    pub(super) quantity: i32,
    pub(super) at: i64,
}

/// All events of a run: `ordinary` ones, then those that close the windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    pub(super) ordinary: i64,
}

impl Events {
    pub(super) fn all(self) -> i64 {
        self.ordinary + CLOSING_ROWS
    }

    /// Rows at or after this time lie in windows that never close.
    pub(super) fn closing_ms(self) -> i64 {
        START_MS + self.ordinary / 1000 * 1000 + DAY_MS
    }

    /// The row with this number, `None` if it is a broken one.
    pub(super) fn row(self, id: i64) -> Option<Row> {
        (!self.is_broken(id)).then(|| self.unbroken(id))
    }

    pub(super) fn is_broken(self, id: i64) -> bool {
        id < self.ordinary && id % 200 == 73
    }

    fn unbroken(self, id: i64) -> Row {
        let random = mixed(id.unsigned_abs());
        let small = |bits: u32, below: u64| ((random >> bits) & 0xFFFF) % below;
        let early = i64::try_from(small(0, DISORDER_MS)).unwrap();
        let at = if id >= self.ordinary {
            self.closing_ms() + id
        } else if id > FIRST_LATE && id % 500 == 250 {
            START_MS + id - 3 * DAY_MS
        } else {
            START_MS + id + i64::try_from(DISORDER_MS).unwrap() - early
        };
        Row {
            id,
            shop: SHOPS[usize::try_from(small(8, 12)).unwrap()],
            customer: i32::try_from(small(20, CUSTOMERS)).unwrap(),
            cents: i64::try_from(small(32, 60_000)).unwrap(),
            quantity: i32::try_from(1 + small(44, 20)).unwrap(),
            at,
        }
    }

    /// The line of this number, as it stands in the input.
    pub(super) fn line(self, id: i64) -> String {
        let Row { shop, customer, cents, quantity, at, .. } = self.unbroken(id);
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let whole = |id: &str, amount: &str, at: i64| {
            format!(
                "{{\"id\":{id},\"shop\":\"{shop}\",\"customer\":{customer},\"amount\":{amount},\
                 \"quantity\":{quantity},\"at\":{at}}}"
            )
        };
        let number = id.to_string();
        if self.is_broken(id) {
            match id / 200 % 4 {
                0 => format!("{{\"id\":{number},\"shop\":\"{shop}\","),
                1 => whole("null", &amount, at),
                2 => whole(&number, "\"much\"", at),
                // Year 9999: a clock that is wrong must not close everybody's windows.
                _ => whole(&number, &amount, 253_370_764_800_000),
            }
        } else {
            whole(&number, &amount, at)
        }
    }

    /// Writes the rows `[from, to)` as one file that appears whole.
    pub(super) fn write_file(self, folder: &Path, from: i64, to: i64) {
        let mut text = String::new();
        (from..to).for_each(|id| writeln!(text, "{}", self.line(id)).unwrap());
        let hidden = folder.join(".next");
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, folder.join(format!("{from:012}.jsonl"))).unwrap();
    }

    /// All good rows, for a batch engine.
    pub(super) fn batches(self) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        let mut from = 0;
        while from < self.all() {
            let to = (from + 65_536).min(self.all());
            let rows: Vec<Row> = (from..to).filter_map(|id| self.row(id)).collect();
            batches.push(batch(&rows));
            from = to;
        }
        batches
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let amounts = Decimal128Array::from_iter_values(rows.iter().map(|row| i128::from(row.cents)));
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.id)))),
        ("shop", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.shop)))),
        ("customer", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.customer)))),
        ("amount", Arc::new(amounts.with_precision_and_scale(12, 2).unwrap())),
        ("quantity", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.quantity)))),
        ("t", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.at)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Splitmix64: a number that looks like chance.
pub(super) fn mixed(number: u64) -> u64 {
    let mut value = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
