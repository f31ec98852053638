//! The one integration binary: its own `main`, so that servers are shared between tests and stopped at the end.
//!
//! A module with tests offers `tests()`, and is listed here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is tests, which the lints see only where the standard runner is used"
)]

mod bucket;
mod handshake;
mod harness;
mod relations;
mod rules_driver;
mod servers;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = servers::hold_a_server_if_asked() {
        return code;
    }
    let modules =
        [servers::tests(), relations::tests(), bucket::tests(), rules_driver::tests(), handshake::tests()];
    harness::suite::run(modules.into_iter().flatten().collect())
}
