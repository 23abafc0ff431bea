//! The answer of a run, small enough to compare: a wrong answer makes a measurement worthless.

use serde::{Deserialize, Serialize};

use datafusion::common::HashMap;

/// One minute in milliseconds: the window of benchmark a.
pub const WINDOW_MS: i64 = 60_000;

/// Count and sum per window and product, independent of order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Result rows: windows × products.
    pub groups: u64,
    /// Orders counted.
    pub orders: u64,
    /// Sum of quantity × price in cents.
    pub cents: u64,
    /// Sum over all rows of a hash of (window, product, count, sum).
    pub hash: u64,
}

impl Digest {
    /// Adds one result row.
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
