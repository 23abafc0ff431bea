//! The load: orders as JSON, 276 bytes, 12 fields, always the same for the same seed and shape.
//!
//! Event time runs at a fixed rate with a disorder below two seconds. Prices are whole cents, so
//! that every program's sums can be compared exactly.

use std::io::Write as _;

/// Bytes of one order.
pub const ORDER_BYTES: usize = 276;
/// Distinct products.
pub const PRODUCTS: u64 = 10_000;
/// Orders per minute of event time, unless a benchmark needs another rate.
pub const ORDERS_PER_MINUTE: u64 = 66_667;
/// Event time of the first order: 2026-11-21 00:00 UTC.
pub const EPOCH_MS: i64 = 1_795_219_200_000;
/// Orders are up to this much behind their turn.
const DISORDER_MS: u64 = 2_000;
/// The one seed of all runs.
const SEED: u64 = 0x7469_6465_6d69_6c6c;
/// How far behind its turn a late order is: with windows of a minute no window is open for it.
const LATE_MS: i64 = 240_000;
/// Late orders begin after this many minutes of event time.
const LATE_AFTER_MINUTES: u64 = 5;
/// Of so many orders one is late or bad.
const ODD_ONE_OF: u64 = 83;

/// Categories of the shop.
pub const CATEGORIES: [&str; 6] = ["kitchen", "garden", "office", "toys", "lighting", "textiles"];
/// Countries it sells to.
pub const COUNTRIES: [&str; 6] = ["GB", "DE", "FR", "NL", "IE", "ES"];
/// Where orders come from.
pub const CHANNELS: [&str; 3] = ["web", "app", "phone"];
/// What became of them.
pub const STATUSES: [&str; 3] = ["paid", "pending", "shipped"];

/// What is unusual about a stream of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Nothing.
    None,
    /// Products follow Zipf's law with exponent 1.2.
    Skewed,
    /// About one in a hundred comes minutes after its windows closed.
    Late,
    /// About one in a hundred is broken, in four ways; see [`Flaw`].
    Bad,
}

/// What is wrong with one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// It comes minutes too late.
    Late,
    /// Its price is `null`: a good row without a price.
    NullPrice,
    /// Its JSON ends in the middle.
    Truncated,
    /// Its quantity is a word.
    WrongType,
    /// It has no event time.
    NoTime,
}

/// The form of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Orders per minute of event time.
    pub per_minute: u64,
    /// What is unusual.
    pub oddity: Oddity,
}

impl Default for Shape {
    fn default() -> Self {
        Self { per_minute: ORDERS_PER_MINUTE, oddity: Oddity::None }
    }
}

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
    /// Index in [`CATEGORIES`].
    pub category: usize,
    /// Index in [`COUNTRIES`].
    pub country: usize,
    /// Index in [`CHANNELS`].
    pub channel: usize,
    /// Index in [`STATUSES`].
    pub status: usize,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl Order {
    /// Quantity × price.
    pub fn cents(&self) -> u64 {
        u64::from(self.quantity) * u64::from(self.price_cents)
    }
}

/// An endless, repeatable stream of orders.
#[derive(Debug)]
pub struct Orders {
    shape: Shape,
    random: u64,
    number: u64,
    /// Running sums of the products' weights if they are not all the same.
    weights: Vec<u64>,
}

impl Default for Orders {
    fn default() -> Self {
        Self::new(Shape::default())
    }
}

impl Orders {
    /// The stream of this form from its beginning.
    pub fn new(shape: Shape) -> Self {
        let weights = if shape.oddity == Oddity::Skewed { zipf() } else { Vec::new() };
        Self { shape, random: SEED, number: 0, weights }
    }

    /// Writes the next order into `json` (cleared first) and returns what it says.
    ///
    /// # Errors
    /// None in practice: writing into memory does not fail.
    pub fn next(&mut self, json: &mut Vec<u8>) -> std::io::Result<Order> {
        let turn_ms = (self.number * 60_000 / self.shape.per_minute).cast_signed();
        let behind_ms = self.below(DISORDER_MS).cast_signed();
        let mut order = Order {
            product: self.product(),
            quantity: 1 + self.below(9) as u32,
            price_cents: 1 + self.below(99_999) as u32,
            ordered_at_ms: EPOCH_MS + DISORDER_MS.cast_signed() + turn_ms - behind_ms,
            category: 0,
            country: 0,
            channel: 0,
            status: 0,
            flaw: self.flaw(),
        };
        let customer = self.below(1_000_000);
        order.category = self.below(CATEGORIES.len() as u64) as usize;
        order.country = self.below(COUNTRIES.len() as u64) as usize;
        order.channel = self.below(CHANNELS.len() as u64) as usize;
        order.status = self.below(STATUSES.len() as u64) as usize;
        if order.flaw == Flaw::Late {
            order.ordered_at_ms -= LATE_MS;
        }
        write(json, self.number, customer, &order)?;
        self.number += 1;
        Ok(order)
    }

    fn product(&mut self) -> u64 {
        match self.weights.last().copied() {
            None => self.below(PRODUCTS),
            Some(all) => {
                let drawn = self.below(all);
                self.weights.partition_point(|sum| *sum <= drawn) as u64
            }
        }
    }

    fn flaw(&self) -> Flaw {
        let odd = self.number % ODD_ONE_OF == ODD_ONE_OF / 2;
        let begun = self.number >= LATE_AFTER_MINUTES * self.shape.per_minute;
        match self.shape.oddity {
            Oddity::Late if odd && begun => Flaw::Late,
            Oddity::Bad if odd => match self.number / ODD_ONE_OF % 4 {
                0 => Flaw::NullPrice,
                1 => Flaw::Truncated,
                2 => Flaw::WrongType,
                _ => Flaw::NoTime,
            },
            _ => Flaw::None,
        }
    }

    /// A number below `limit` (SplitMix64; the bias of the remainder does not matter here).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.random) % limit
    }
}

/// The mixing step of SplitMix64.
pub fn mixed(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn write(json: &mut Vec<u8>, number: u64, customer: u64, order: &Order) -> std::io::Result<()> {
    json.clear();
    write!(
        json,
        "{{\"order_id\":\"o-{number:012}\",\"customer_id\":\"c-{customer:07}\",\
         \"product_id\":\"p-{:05}\",\"category\":\"{}\",\"quantity\":",
        order.product, CATEGORIES[order.category],
    )?;
    match order.flaw {
        Flaw::WrongType => write!(json, "\"many\"")?,
        _ => write!(json, "{}", order.quantity)?,
    }
    match order.flaw {
        Flaw::NullPrice => write!(json, ",\"unit_price\":null")?,
        _ => {
            let (whole, part) = (order.price_cents / 100, order.price_cents % 100);
            write!(json, ",\"unit_price\":{whole}.{part:02}")?;
        }
    }
    write!(
        json,
        ",\"currency\":\"GBP\",\"country\":\"{}\",\"channel\":\"{}\",\"ordered_at\":",
        COUNTRIES[order.country], CHANNELS[order.channel],
    )?;
    match order.flaw {
        Flaw::NoTime => write!(json, "null")?,
        _ => write!(json, "{}", order.ordered_at_ms)?,
    }
    write!(json, ",\"status\":\"{}\",\"note\":\"", STATUSES[order.status])?;
    json.resize(ORDER_BYTES - 2, b'.');
    json.extend_from_slice(b"\"}");
    if order.flaw == Flaw::Truncated {
        json.truncate(ORDER_BYTES / 2);
    }
    Ok(())
}

/// Running sums of weights by Zipf's law with exponent 1.2 over all products.
fn zipf() -> Vec<u64> {
    let mut sum = 0;
    let weight = |rank: u64| (1e12 / (rank as f64).powf(1.2)) as u64;
    (1..=PRODUCTS)
        .map(|rank| {
            sum += weight(rank).max(1);
            sum
        })
        .collect()
}
