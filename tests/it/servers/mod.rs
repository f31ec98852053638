//! Tests of the harness itself: each server starts, does something real, comes back with its data, and leaves nothing.

mod databases;
mod leftovers;
mod minio;
mod mosquitto;
mod proxy;
mod receiver;
mod runner;

use std::time::Duration;

use crate::harness::suite::Test;

pub(crate) use leftovers::hold_a_server_if_asked;

/// How long a single step may take.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    let modules = [
        databases::tests(),
        leftovers::tests(),
        minio::tests(),
        mosquitto::tests(),
        proxy::tests(),
        receiver::tests(),
        runner::tests(),
    ];
    modules.into_iter().flatten().collect()
}
