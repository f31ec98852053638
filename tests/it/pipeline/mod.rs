//! From an upload to a function and back, on real parts.

mod away;
mod crash;
mod damage;
mod fates;
mod firing;
mod hostile;
mod pace;
mod several;
mod world;

use away::without_mysql_events_fire_and_retry_and_bindings_wait;
use crash::{
    kill_9_loses_nothing_that_a_queue_dir_holds, kill_9_loses_nothing_that_comes_by_mqtt,
    kill_9_loses_nothing_that_was_answered_without_a_queue_dir,
};
use damage::{
    a_call_refused_though_the_rule_is_in_step_is_permanent_after_an_inspection,
    a_platform_that_forgot_everything_is_given_its_rules_again,
    a_rule_deleted_on_the_platform_is_found_by_the_next_call_and_mended,
    bucket_rules_that_somebody_overwrote_are_put_back_beside_theirs,
    unbinding_makes_dead_letters_of_what_is_parked_or_forgets_it_when_asked,
};
use fates::{
    a_binding_begun_on_the_platform_becomes_active_and_is_taken_back,
    a_failing_function_retries_dies_is_mended_and_replayed, a_platform_that_is_away_costs_no_attempt,
    secrets_are_in_no_log,
};

use hostile::{
    functions_of_hostile_platforms_are_classified_and_delay_no_others,
    hostile_platforms_keep_their_own_bindings_pending_and_no_others,
};
use pace::the_reconciler_rests_when_idle_and_takes_a_hundred_bindings_together;

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
        [Minio] a_rule_deleted_on_the_platform_is_found_by_the_next_call_and_mended;
        [Minio] a_platform_that_forgot_everything_is_given_its_rules_again;
        [Minio] bucket_rules_that_somebody_overwrote_are_put_back_beside_theirs;
        [Minio] a_call_refused_though_the_rule_is_in_step_is_permanent_after_an_inspection;
        [Minio] unbinding_makes_dead_letters_of_what_is_parked_or_forgets_it_when_asked;
        [Minio] hostile_platforms_keep_their_own_bindings_pending_and_no_others within 180;
        [Minio] functions_of_hostile_platforms_are_classified_and_delay_no_others within 180;
        [Minio] the_reconciler_rests_when_idle_and_takes_a_hundred_bindings_together within 180;
    };
    tests.extend(firing::matrix());
    tests.extend(several::tests());
    tests
}
