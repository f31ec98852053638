//! The daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    triggerd::cli::main()
}
