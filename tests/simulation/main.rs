//! Deterministic simulation: the real intake, dispatch, settle and reconciler code under a mock clock and seeded faults.
//!
//! `make simulate SEEDS=10000` runs so many seeds, each on one thread with a runtime whose time is paused; `SEED=n`
//! replays one and prints what happened. Everything outside of the core is simulated: sources, the queue with its disk,
//! relations and mirror, platforms, the wall clock, the end of the process. Read `world` for time and crashes, `scenario`
//! for what a seed means, `books` and `balance` for what must hold, `life` for how the parts are joined.
//!
//! **A seed replays exactly.** Nothing in the core may depend on anything but its inputs: `scan` holds its sources
//! against that, and some seeds of each run are run twice and their traces compared. **The simulated queue is the real
//! one's double**: `agree` runs both side by side. **The simulation finds what it is there for**: `make mutations` puts
//! bugs into a copy of the sources, one by one, and runs it until it finds them (`mutations`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "all of it is a test, which the lints see only where the standard runner is used"
)]

mod agree;
mod balance;
mod bindings;
mod books;
mod chance;
mod disk;
mod estate;
mod handshake;
mod letters;
mod life;
mod mutations;
mod operator;
mod platform;
mod queue;
mod regressions;
mod results;
mod run;
mod scan;
mod scenario;
mod source;
mod world;

use std::{fmt, process::ExitCode};

/// What simulated panics carry, so that they are told from real ones.
#[derive(Debug)]
pub(crate) struct Simulated;

/// Prints a line.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    println!("{line}");
}

fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Simulated>() {
            usual(info);
        }
    }));
    run::main()
}
