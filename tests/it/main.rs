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
mod fixtures;
mod handshake;
mod harness;
mod layering;
mod pipeline;
mod platform;
mod relations;
mod rules_driver;
mod servers;
mod sources;
mod sources_mqtt;
mod sources_sender;
mod sources_subscriber;
mod sources_webhook;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = servers::hold_a_server_if_asked() {
        return code;
    }
    let tests = [
        layering::tests(),
        servers::tests(),
        fixtures::tests(),
        platform_tests(),
        relations::tests(),
        bucket::tests(),
        rules_driver::tests(),
        handshake::tests(),
        sources_webhook::tests(),
        sources_mqtt::tests(),
        pipeline::tests(),
    ];
    harness::suite::run(tests.into_iter().flatten().collect())
}

fn platform_tests() -> Vec<harness::suite::Test> {
    let tests = platform::all().into_iter();
    tests
        .map(|(name, test)| {
            harness::suite::Test::new(name, &[], move |_| async move {
                test().await;
                Ok(())
            })
        })
        .collect()
}
