//! All benchmarks of `src/cases` but a: `cargo bench --bench all -- b`, several names or none for all.
//!
//! `TIDEMILL_BENCH_EVENTS`, `TIDEMILL_BENCH_KEYS`, `TIDEMILL_BENCH_ROUNDS` and
//! `TIDEMILL_BENCH_BROKERS` as in `RESULTS.md`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    tidemill_benches::driver::main(tidemill_benches::cases::ALL)
}
