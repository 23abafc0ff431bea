//! The benchmarks, one file each (a family of small ones shares one).

mod a;
mod gates;
mod hop;
mod in_memory;
mod keys;
mod sharing;
mod sharing_sql;

use crate::driver::Case;

/// Benchmark a alone: the executable `a`.
pub const A: &[&dyn Case] = &[&a::A];

/// All others: the executable `all`.
pub const ALL: &[&dyn Case] = &[
    &in_memory::InMemory,
    &hop::Hops,
    &sharing::SAME_KEYS,
    &sharing::FILTERS,
    &sharing::KEYS,
    &keys::Keys,
    &gates::SKEW,
    &gates::LATE,
    &gates::BAD,
    &gates::PARTITIONS,
];
