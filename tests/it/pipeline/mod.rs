//! From an upload to a function and back, on real parts.

mod away;
mod crash;
mod firing;
mod world;

use away::*;
use crash::*;

use crate::harness::suite::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests! {
        [Minio, Mosquitto] kill_9_loses_nothing_that_comes_by_mqtt within 180;
        [Minio] kill_9_loses_nothing_that_a_queue_dir_holds within 180;
        [Minio] kill_9_loses_nothing_that_was_answered_without_a_queue_dir within 180;
        [Minio, MySql] without_mysql_events_fire_and_retry_and_bindings_wait within 180;
    };
    tests.extend(firing::matrix());
    tests
}
