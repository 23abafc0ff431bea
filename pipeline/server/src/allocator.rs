//! The allocator of the program, and how soon it gives back what nobody uses.
//!
//! Why it must be told: left alone, mimalloc keeps freed pages for a second, and a process that
//! works in bursts (read, merge, write) then holds the sum of them; the memory budget was exceeded
//! by it. The unsafe code is one function of the C library, which takes two integers.
//! It never allocates anything itself.

#![allow(unsafe_code, reason = "an option of the C library; there is no safe way to set it")]

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, see `mimalloc.h`.
const PURGE_DELAY: c_int = 15;
/// Measured (F11, budget 512 MiB): 1000 gives 122 to 137 % of the budget, 50 106 %, 10 103 %, and
/// the demo costs the same within noise.
const PURGE_DELAY_MS: c_long = 20;

const PURGE_DELAY_KEPT_MS: c_long = 1000;

unsafe extern "C" {
    /// Sets an option unless the environment has set it.
    safe fn mi_option_set_default(option: c_int, value: c_long);
    safe fn mi_option_get(option: c_int) -> c_long;
}

/// How long freed memory is kept, in milliseconds.
pub fn purge_delay_ms() -> i64 {
    mi_option_get(PURGE_DELAY)
}

/// Freed memory goes back to the system after some milliseconds; `MIMALLOC_PURGE_DELAY` overrides.
pub fn give_back_soon() {
    mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS);
}

/// Freed memory is kept for a second: for a program that ends soon, and whose memory nobody has
/// bounded. Spares the demo three of four page faults, half a second of a core.
pub fn keep_freed() {
    mi_option_set_default(PURGE_DELAY, PURGE_DELAY_KEPT_MS);
}
