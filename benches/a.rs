//! Benchmark a: `cargo bench --bench a`; what it does is in `src/cases/a.rs`, how in `src/driver.rs`.
//!
//! `TIDEMILL_BENCH_EVENTS` (2,000,000), `TIDEMILL_BENCH_ROUNDS` (7), `TIDEMILL_BENCH_BROKERS` (not
//! set: the embedded broker).

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    tidemill_benches::driver::main(tidemill_benches::cases::A)
}
