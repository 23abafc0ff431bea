//! The load: orders as JSON, 276 bytes, 12 fields, always the same for the same seed.
//!
//! Event time runs at a fixed rate with a disorder below two seconds. Prices are whole cents, so
//! that every program's sums can be compared exactly.

use std::io::Write as _;

/// Bytes of one order.
pub const ORDER_BYTES: usize = 276;
/// Distinct products.
pub const PRODUCTS: u64 = 10_000;
/// Orders per minute of event time.
pub const ORDERS_PER_MINUTE: u64 = 66_667;
/// Event time of the first order: 2026-11-21 00:00 UTC.
pub const EPOCH_MS: i64 = 1_795_219_200_000;
/// Orders are up to this much behind their turn.
const DISORDER_MS: u64 = 2_000;
/// The one seed of all runs.
const SEED: u64 = 0x7469_6465_6d69_6c6c;

const CATEGORIES: [&str; 6] = ["kitchen", "garden", "office", "toys", "lighting", "textiles"];
const COUNTRIES: [&str; 6] = ["GB", "DE", "FR", "NL", "IE", "ES"];
const CHANNELS: [&str; 3] = ["web", "app", "phone"];
const STATUSES: [&str; 3] = ["paid", "pending", "shipped"];

/// What an oracle needs of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Product number.
    pub product: u64,
    /// Pieces.
    pub quantity: u32,
    /// Price of one piece in cents.
    pub price_cents: u32,
    /// Event time, milliseconds since the epoch.
    pub ordered_at_ms: i64,
}

/// An endless, repeatable stream of orders.
#[derive(Debug)]
pub struct Orders {
    random: u64,
    number: u64,
}

impl Default for Orders {
    fn default() -> Self {
        Self { random: SEED, number: 0 }
    }
}

impl Orders {
    /// Writes the next order into `json` (cleared first) and returns what it says.
    ///
    /// # Errors
    /// None in practice: writing into memory does not fail.
    pub fn next(&mut self, json: &mut Vec<u8>) -> std::io::Result<Order> {
        let turn_ms = i64::try_from(self.number * 60_000 / ORDERS_PER_MINUTE).unwrap_or(i64::MAX);
        let behind_ms = i64::try_from(self.below(DISORDER_MS)).unwrap_or(0);
        let order = Order {
            product: self.below(PRODUCTS),
            quantity: small(1 + self.below(9)),
            price_cents: small(1 + self.below(99_999)),
            ordered_at_ms: EPOCH_MS + DISORDER_MS.cast_signed() + turn_ms - behind_ms,
        };
        let customer = self.below(1_000_000);
        let (category, country) = (self.pick(&CATEGORIES), self.pick(&COUNTRIES));
        let (channel, status) = (self.pick(&CHANNELS), self.pick(&STATUSES));
        json.clear();
        write!(
            json,
            "{{\"order_id\":\"o-{:012}\",\"customer_id\":\"c-{customer:07}\",\
             \"product_id\":\"p-{:05}\",\"category\":\"{category}\",\"quantity\":{},\
             \"unit_price\":{}.{:02},\"currency\":\"GBP\",\"country\":\"{country}\",\
             \"channel\":\"{channel}\",\"ordered_at\":{},\"status\":\"{status}\",\"note\":\"",
            self.number,
            order.product,
            order.quantity,
            order.price_cents / 100,
            order.price_cents % 100,
            order.ordered_at_ms,
        )?;
        json.resize(ORDER_BYTES - 2, b'.');
        json.extend_from_slice(b"\"}");
        self.number += 1;
        Ok(order)
    }

    /// A number below `limit` (SplitMix64; the bias of the remainder does not matter here).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from.get(index).copied().unwrap_or_default()
    }
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
