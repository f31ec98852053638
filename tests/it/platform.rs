//! The reference platform from outside: real HTTP against a real process of the binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "platform_answers.rs"]
mod answers;
#[path = "platform_async.rs"]
mod asynchronous;
#[path = "platform_bind.rs"]
mod bind;
#[path = "platform_hostile.rs"]
mod hostile;
#[path = "platform_support.rs"]
mod support;
#[path = "platform_tour.rs"]
mod tour;

use std::pin::Pin;

/// One test, to be run by `block_on` of a runtime of its own.
pub(crate) type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((concat!("platform::", stringify!($name)), (|| Box::pin($module::$name())) as Test)),*]
    };
}

/// Every test of this module, by name.
pub(crate) fn all() -> Vec<(&'static str, Test)> {
    tests![
        tour::document_names_every_route_and_status_that_is_answered,
        answers::the_same_rule_again_is_success_and_other_contents_are_a_conflict,
        answers::an_unknown_field_is_named,
        answers::rule_and_digest_survive_kill_9,
        answers::signatures_agree_with_an_independent_library,
        answers::each_part_of_the_rule_is_checked_against_the_signed_body,
        answers::a_function_sees_its_event_in_all_three_payloads,
        answers::another_media_type_or_two_records_are_refused,
        asynchronous::result_comes_by_a_signed_callback_that_is_tried_again,
        asynchronous::accepted_invocations_survive_kill_9,
        asynchronous::a_report_that_was_not_taken_is_sent_after_a_restart,
        asynchronous::callback_mode_confirms_a_rule_by_a_signed_call,
        asynchronous::a_pending_rule_is_confirmed_after_kill_9,
        asynchronous::sigterm_lets_the_running_function_end,
        asynchronous::a_second_signal_cuts_off_what_runs,
        asynchronous::the_same_attempt_accepted_again_is_one_job,
        asynchronous::the_same_attempt_accepted_again_is_run_and_reported_once,
        asynchronous::a_report_that_is_refused_is_told_of_with_the_reason,
        asynchronous::a_report_is_given_up_by_name_seven_days_after_its_function_ended,
        asynchronous::a_callback_that_nobody_waits_for_is_not_repeated,
        asynchronous::a_rule_put_again_is_confirmed_at_its_new_address,
        asynchronous::a_second_platform_on_the_same_state_is_refused,
        hostile::path_traversal_reaches_no_file,
        hostile::a_flood_of_output_is_cut_off,
        hostile::a_function_that_ignores_sigterm_dies_with_its_children,
        hostile::what_a_function_leaves_running_is_killed,
        hostile::a_function_gets_no_environment_of_the_platform,
        hostile::a_function_that_cannot_be_started_is_not_the_functions_fault,
        hostile::secrets_are_in_no_answer_and_no_log,
        hostile::one_busy_function_does_not_hold_up_another,
        bind::bind_follows_the_binding_until_it_is_active,
        bind::bind_fails_when_the_binding_is_rejected_and_says_why,
        bind::unbind_waits_until_the_binding_is_gone,
        bind::the_example_config_is_whole_and_valid,
        bind::check_names_everything_that_is_wrong_at_once,
    ]
}
