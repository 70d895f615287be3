//! The `snapcask` command: parse, run, exit code; nothing else.
#![deny(missing_docs)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
