//! What the benchmarks share: the load, the programs to compare, the measuring.
//!
//! Every program runs in a process of its own (the benchmark executable started again with a role
//! in its environment), so that CPU time is that of the program alone, broker and generator left
//! out. Nothing here runs in the product.

pub mod beside;
pub mod broker;
pub mod cases;
pub mod digest;
pub mod driver;
pub mod engine;
pub mod floor;
pub mod latency;
pub mod load;
pub mod measure;
pub mod orders;
pub mod product;
pub mod receive;
pub mod report;
pub mod role;
pub mod throughput;

pub use digest::Digest;
pub use measure::Measured;
