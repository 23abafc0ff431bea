//! The answer of a run, small enough to compare: a wrong answer makes a measurement worthless.

use serde::{Deserialize, Serialize};

use datafusion::common::HashMap;

use crate::orders::Order;

/// One minute in milliseconds: the window of benchmark a.
pub const WINDOW_MS: i64 = 60_000;

/// The value of one column in one result row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// Text.
    Text(&'a str),
    /// An integer, an instant in milliseconds, or a decimal without its point.
    Number(i128),
}

/// The rows of a result, independent of their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Result rows.
    pub groups: u64,
    /// Orders counted, where rows are counts and sums per product.
    pub orders: u64,
    /// Sum of quantity × price in cents, there.
    pub cents: u64,
    /// Sum over all rows of a hash of the row.
    pub hash: u64,
}

impl Digest {
    /// Adds the rows of another result.
    pub fn merge(&mut self, other: Self) {
        self.groups += other.groups;
        self.orders += other.orders;
        self.cents += other.cents;
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// Adds one row of any columns; `query` tells apart the rows of several queries.
    pub fn row(&mut self, query: u64, cells: &[Cell<'_>]) {
        let mut hash = query ^ 0x9e37_79b9_7f4a_7c15;
        let mut mix = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^= hash >> 29;
        };
        for cell in cells {
            match cell {
                Cell::Null => mix(1),
                Cell::Number(number) => {
                    mix(2);
                    mix(*number as u64);
                    mix((*number >> 64) as u64);
                }
                Cell::Text(text) => {
                    mix(3 + text.len() as u64);
                    for part in text.as_bytes().chunks(8) {
                        let mut word = [0; 8];
                        word[..part.len()].copy_from_slice(part);
                        mix(u64::from_le_bytes(word));
                    }
                }
            }
        }
        self.groups += 1;
        self.hash = self.hash.wrapping_add(hash);
    }

    /// Adds one row of a count and a sum per window and product.
    pub fn add(&mut self, window_start_ms: i64, product: &str, orders: u64, cents: u64) {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let numbers = [window_start_ms.cast_unsigned(), orders, cents];
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        for byte in bytes.chain(product.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.groups += 1;
        self.orders += orders;
        self.cents += cents;
        self.hash = self.hash.wrapping_add(hash);
    }
}

/// The simplest correct grouping: one hash map over (window, product).
#[derive(Debug, Default)]
pub struct Groups {
    windows: HashMap<i64, HashMap<String, (u64, u64)>>,
}

impl Groups {
    /// Counts one order.
    pub fn add(&mut self, ordered_at_ms: i64, product: &str, cents: u64) {
        let window = self.windows.entry(ordered_at_ms.div_euclid(WINDOW_MS)).or_default();
        let (orders, sum) = match window.get_mut(product) {
            Some(group) => group,
            None => window.entry(product.to_string()).or_default(),
        };
        *orders += 1;
        *sum += cents;
    }

    /// Counts one order of the generator.
    pub fn add_order(&mut self, order: &Order) {
        self.add(order.ordered_at_ms, &format!("p-{:05}", order.product), order.cents());
    }

    /// The answer.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (window, products) in &self.windows {
            for (product, (orders, cents)) in products {
                digest.add(window * WINDOW_MS, product, *orders, *cents);
            }
        }
        digest
    }
}
