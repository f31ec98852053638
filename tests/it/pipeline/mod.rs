//! From an upload to a function and back, on real parts.

mod away;
mod crash;
mod fates;
mod firing;
mod loops;
mod twin;
mod world;

use away::without_mysql_events_fire_and_retry_and_bindings_wait;
use crash::{
    kill_9_loses_nothing_that_a_queue_dir_holds, kill_9_loses_nothing_that_comes_by_mqtt,
    kill_9_loses_nothing_that_was_answered_without_a_queue_dir,
};
use fates::{
    a_binding_begun_on_the_platform_becomes_active_and_is_taken_back,
    a_failing_function_retries_dies_is_mended_and_replayed, a_platform_that_is_away_costs_no_attempt,
    secrets_are_in_no_log,
};

use loops::{
    a_function_that_feeds_itself_is_told_of_and_every_event_fires, what_a_binding_ignores_does_not_fire_it,
    what_a_storage_ignores_fires_nothing,
};
use twin::{
    each_object_fires_once_though_two_targets_bring_it, twin_targets_lose_nothing_while_the_daemon_is_away,
};

use crate::harness::suite::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests! {
        [Minio, Mosquitto] kill_9_loses_nothing_that_comes_by_mqtt within 180;
        [Minio] kill_9_loses_nothing_that_a_queue_dir_holds within 180;
        [Minio] kill_9_loses_nothing_that_was_answered_without_a_queue_dir within 180;
        [Minio, MySql] without_mysql_events_fire_and_retry_and_bindings_wait within 180;
        [Minio] a_failing_function_retries_dies_is_mended_and_replayed;
        [Minio] a_platform_that_is_away_costs_no_attempt;
        [Minio] a_binding_begun_on_the_platform_becomes_active_and_is_taken_back;
        [Minio] secrets_are_in_no_log;
        [Minio] each_object_fires_once_though_two_targets_bring_it;
        [Minio] twin_targets_lose_nothing_while_the_daemon_is_away within 180;
        [Minio] what_a_binding_ignores_does_not_fire_it;
        [Minio] what_a_storage_ignores_fires_nothing;
        [Minio] a_function_that_feeds_itself_is_told_of_and_every_event_fires;
    };
    tests.extend(firing::matrix());
    tests
}
