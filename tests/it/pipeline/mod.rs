//! From an upload to a function and back, on real parts.

mod away;
mod bad_input;
mod bad_requests;
mod checks;
mod clock;
mod commands;
mod crash;
mod damage;
mod depth;
mod disk;
mod disk_bounds;
mod disk_faults;
mod disk_file;
mod disk_move;
mod fates;
mod firing;
mod hostile;
mod letters;
mod life;
mod life_faults;
mod loops;
mod neighbours;
mod pace;
mod relapses;
mod results;
mod several;
mod torture;
mod twin;
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
use loops::{
    a_function_that_feeds_itself_is_told_of_and_every_event_fires, what_a_binding_ignores_does_not_fire_it,
    what_a_storage_ignores_fires_nothing,
};
use neighbours::{
    a_flood_of_a_function_that_hangs_delays_nobody_and_is_drained,
    neighbours_that_hang_are_down_or_refuse_delay_nobody_and_lose_nothing,
};
use pace::the_reconciler_rests_when_idle_and_takes_a_hundred_bindings_together;
use twin::{
    a_binding_gets_both_legs_when_it_asks_for_them, a_second_copy_is_acknowledged_without_a_write,
    each_object_fires_once_though_two_targets_bring_it, twin_targets_lose_nothing_while_the_daemon_is_away,
};

use crate::harness::suite::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests! {
        [Minio, Mosquitto] kill_9_loses_nothing_that_comes_by_mqtt within 400;
        [Minio] kill_9_loses_nothing_that_a_queue_dir_holds within 400;
        [Minio] kill_9_loses_nothing_that_was_answered_without_a_queue_dir within 400;
        [Minio, MySql] without_mysql_events_fire_and_retry_and_bindings_wait within 180;
        [Minio] a_failing_function_retries_dies_is_mended_and_replayed;
        [Minio] a_platform_that_is_away_costs_no_attempt;
        [Minio] a_binding_begun_on_the_platform_becomes_active_and_is_taken_back;
        [Minio] secrets_are_in_no_log;
        [Minio] each_object_fires_once_though_two_targets_bring_it;
        [Minio] a_binding_gets_both_legs_when_it_asks_for_them;
        [Minio] a_second_copy_is_acknowledged_without_a_write;
        [Minio] twin_targets_lose_nothing_while_the_daemon_is_away within 180;
        [Minio] what_a_binding_ignores_does_not_fire_it;
        [Minio] what_a_storage_ignores_fires_nothing;
        [Minio] a_function_that_feeds_itself_is_told_of_and_every_event_fires;
        [Minio] a_rule_deleted_on_the_platform_is_found_by_the_next_call_and_mended;
        [Minio] a_platform_that_forgot_everything_is_given_its_rules_again;
        [Minio] bucket_rules_that_somebody_overwrote_are_put_back_beside_theirs;
        [Minio] a_call_refused_though_the_rule_is_in_step_is_permanent_after_an_inspection;
        [Minio] unbinding_makes_dead_letters_of_what_is_parked_or_forgets_it_when_asked;
        [Minio] hostile_platforms_keep_their_own_bindings_pending_and_no_others within 180;
        [Minio] functions_of_hostile_platforms_are_classified_and_delay_no_others within 180;
        [Minio] a_flood_of_a_function_that_hangs_delays_nobody_and_is_drained within 400;
        [Minio] neighbours_that_hang_are_down_or_refuse_delay_nobody_and_lose_nothing within 400;
        [Minio] the_reconciler_rests_when_idle_and_takes_a_hundred_bindings_together within 180;
    };
    tests.extend(refusals());
    tests.extend(letters::tests());
    tests.extend(results::tests());
    tests.extend(firing::matrix());
    tests.extend(several::tests());
    tests.extend(disk::tests());
    tests.extend(disk_file::tests());
    tests.extend(disk_bounds::tests());
    tests.extend(disk_move::tests());
    tests.extend(clock::tests());
    tests.extend(depth::tests());
    tests.extend(relapses::tests());
    tests.extend(life::tests());
    tests.extend(torture::tests());
    tests
}

/// Bad input, bad requests, and what is said of them.
fn refusals() -> Vec<Test> {
    use bad_input::{
        a_duplicate_event_fires_once_and_after_a_restart_under_the_same_id,
        every_odd_key_reaches_the_function_byte_for_byte,
        unknown_event_names_are_answered_shown_and_fire_nothing,
        what_cannot_be_processed_by_mqtt_is_acknowledged_and_kept,
        what_cannot_be_processed_is_acknowledged_and_kept,
    };
    use bad_requests::{
        a_binding_waits_for_its_bucket_and_its_platform_and_says_so,
        a_function_that_does_not_exist_is_rejected_with_the_reason,
        callers_see_and_change_only_what_is_theirs, hostile_requests_get_a_clear_no_and_harm_nobody,
        the_same_binding_is_one_and_other_settings_are_a_conflict,
    };
    use checks::{
        a_daemon_whose_sources_are_closed_says_why,
        a_rule_that_is_refused_after_a_restart_is_told_by_everything_that_is_asked,
        check_connects_to_the_broker_as_the_source_would, check_holds_the_targets_against_those_of_minio,
        every_metric_that_is_used_has_its_help_and_type,
    };
    use commands::{
        a_broken_config_is_refused_with_everything_that_is_wrong, commands_tell_people_and_programs_the_same,
        what_needs_the_daemon_stopped_or_running_says_so,
    };
    tests! {
        [Minio] what_cannot_be_processed_is_acknowledged_and_kept;
        [Minio, Mosquitto] what_cannot_be_processed_by_mqtt_is_acknowledged_and_kept;
        [Minio] unknown_event_names_are_answered_shown_and_fire_nothing;
        [Minio] a_duplicate_event_fires_once_and_after_a_restart_under_the_same_id;
        [Minio] every_odd_key_reaches_the_function_byte_for_byte within 150;
        [Minio] a_binding_waits_for_its_bucket_and_its_platform_and_says_so within 150;
        [Minio] a_function_that_does_not_exist_is_rejected_with_the_reason;
        [Minio] callers_see_and_change_only_what_is_theirs;
        [Minio] the_same_binding_is_one_and_other_settings_are_a_conflict;
        [Minio] hostile_requests_get_a_clear_no_and_harm_nobody;
        [Minio] commands_tell_people_and_programs_the_same;
        [Minio] what_needs_the_daemon_stopped_or_running_says_so;
        [] a_broken_config_is_refused_with_everything_that_is_wrong;
        [Minio] check_holds_the_targets_against_those_of_minio;
        [Minio] a_rule_that_is_refused_after_a_restart_is_told_by_everything_that_is_asked within 150;
        [Mosquitto] check_connects_to_the_broker_as_the_source_would;
        [Minio] every_metric_that_is_used_has_its_help_and_type;
        [] a_daemon_whose_sources_are_closed_says_why;
    }
}
