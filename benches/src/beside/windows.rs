//! The windows both systems are asked for, and the answer to each, worked out without an engine.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::Digest;
use crate::orders::{Orders, PRODUCTS};

/// Windows of event time over the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Windows {
    /// One minute each, end to end.
    Tumble,
    /// One minute each, one every ten seconds.
    Hop,
}

impl Windows {
    /// The windows of that name.
    ///
    /// # Errors
    /// If there are none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "tumble" => Ok(Self::Tumble),
            "hop" => Ok(Self::Hop),
            other => bail!("no windows named {other}; there are tumble and hop"),
        }
    }

    /// How they are written in SQL; both systems read the same text.
    #[must_use]
    pub fn function(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(TABLE orders, DESCRIPTOR(ordered), INTERVAL '1' MINUTE)",
            Self::Hop => {
                "HOP(TABLE orders, DESCRIPTOR(ordered), INTERVAL '10' SECOND, INTERVAL '1' MINUTE)"
            }
        }
    }

    /// Milliseconds from one window to the next, and how many of those steps a window is long.
    fn steps(self) -> (i64, i64) {
        match self {
            Self::Tumble => (60_000, 1),
            Self::Hop => (10_000, 6),
        }
    }
}

/// Orders and cents per product.
type Slice = Vec<(u64, u64)>;

/// What a correct program says about the first `orders` orders.
///
/// # Errors
/// None in practice.
pub fn answer(orders: u64, windows: Windows) -> Result<Digest> {
    let (step_ms, length) = windows.steps();
    let products = usize::try_from(PRODUCTS)?;
    let mut slices = BTreeMap::<i64, Slice>::new();
    let (mut stream, mut json) = (Orders::default(), Vec::new());
    for _ in 0..orders {
        let order = stream.next(&mut json)?;
        let slice = slices
            .entry(order.ordered_at_ms.div_euclid(step_ms))
            .or_insert_with(|| vec![(0, 0); products]);
        let sums = slice.get_mut(usize::try_from(order.product)?).context("no such product")?;
        sums.0 += 1;
        sums.1 += u64::from(order.quantity) * u64::from(order.price_cents);
    }
    let names: Vec<String> = (0..PRODUCTS).map(|product| format!("p-{product:05}")).collect();
    let mut digest = Digest::default();
    let (Some(first), Some(last)) = (slices.keys().next(), slices.keys().last()) else {
        return Ok(digest);
    };
    // The first windows begin before the first order.
    for start in *first - (length - 1)..=*last {
        let mut window = vec![(0, 0); products];
        for (_, slice) in slices.range(start..start + length) {
            for (sums, (orders, cents)) in window.iter_mut().zip(slice) {
                sums.0 += orders;
                sums.1 += cents;
            }
        }
        for (name, (orders, cents)) in names.iter().zip(window) {
            if orders > 0 {
                digest.add(start * step_ms, name, orders, cents);
            }
        }
    }
    Ok(digest)
}
