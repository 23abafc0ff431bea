//! The fault tools: a store and a network that misbehave on demand, repeatably by seed.
//!
//! They bend answers only; what is under them is the real store and the real broker.

mod disk;
mod proxy;
mod store;

pub(crate) use disk::{Disk, Random, STRACE};
pub(crate) use proxy::{Network, Proxy};
pub(crate) use store::{Fault, FaultStore, Op, Timed};
