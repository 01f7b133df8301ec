//! The `cugrad` program: everything is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cugrad::cli::main()
}
