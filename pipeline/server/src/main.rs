//! The program `tidemill`: picks the allocator and hands over to [`tidemill::cli`].
//!
//! It never does anything else: what the program can do lives in the library, where tests reach it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::cli::main()
}
