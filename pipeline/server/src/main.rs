//! The program `tidemill`: hands over to [`tidemill::cli`].
//!
//! It never does anything else: what the program can do lives in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::cli::main()
}
