//! A lane by itself, with a clock of the test's.

use super::*;
use crate::{
    dispatch::breaker::Turn,
    domain::{
        clock::ManualClock,
        outcome::{Class, Outcome},
    },
};

const NOW: Duration = Duration::from_secs(9);

fn lane(limit: u32) -> Arc<Lane> {
    let function = FunctionRef { platform: "local".into(), name: "thumb".into() };
    Lane::new(function, limit, Arc::new(Agenda::default()))
}

fn clock() -> ManualClock {
    let clock = ManualClock::at(Timestamp::from_micros(0));
    clock.advance(NOW);
    clock
}

impl Lane {
    fn free(&self) -> usize {
        self.places.available_permits()
    }

    fn limit(&self, concurrency: u32) {
        self.set_limits(
            FunctionLimits { concurrency, rate: None, longest_wait: Duration::from_hours(1) },
            NOW,
        );
    }

    fn listed(&self) -> bool {
        let listed = !self.agenda.take().is_empty();
        self.unlist();
        listed
    }
}

/// An attempt that took this long and came to this.
fn attempt(lane: &Arc<Lane>, took: Duration, class: Class) -> Option<Turn> {
    let mut permit = lane.try_permit(NOW).expect("a permit");
    permit.begin(NOW);
    permit.end(&Outcome::new(class, None, "as told"), (NOW, NOW + took), || 0)
}

#[test]
fn what_the_last_calls_came_to_is_told() {
    let (lane, clock) = (lane(3), clock());
    let last = || lane.flow(clock.now(), clock.monotonic()).last;
    assert_eq!(last(), None);
    for (class, failed) in [
        (Class::FunctionFault, 1),
        (Class::Throttled, 2),
        (Class::Interrupted, 2),
        (Class::Permanent, 3),
        (Class::Ok, 0),
        (Class::FunctionFault, 1),
    ] {
        attempt(&lane, Duration::ZERO, class);
        let last = last().expect("it was called");
        assert_eq!((last.failed, last.ended), (failed, clock.now()), "{class:?}");
        assert!(last.class == class || class == Class::Interrupted);
    }
}

#[test]
fn limit_lowered_while_permits_are_out_holds_as_they_come_back() {
    let lane = lane(3);
    let permits: Vec<_> = (0..3).map(|_| lane.try_permit(NOW).unwrap()).collect();
    lane.limit(1);
    drop(permits);
    assert_eq!(lane.free(), 1);
    lane.limit(4);
    assert_eq!(lane.free(), 4);
}

#[test]
fn limit_raised_before_the_surplus_came_back_adds_up() {
    let lane = lane(4);
    let permits: Vec<_> = (0..4).map(|_| lane.try_permit(NOW).unwrap()).collect();
    lane.limit(1);
    lane.limit(2);
    drop(permits);
    assert_eq!(lane.free(), 2);
}

#[test]
fn a_slow_function_gets_its_events_by_the_queue() {
    let (lane, clock) = (lane(1), clock());
    let wait = Duration::from_millis(25);
    attempt(&lane, Duration::from_secs(1), Class::Ok);
    assert_eq!(lane.parks_at_once(wait, &clock), None, "one attempt is no median");
    attempt(&lane, Duration::from_secs(1), Class::Ok);
    attempt(&lane, Duration::from_millis(1), Class::Ok);
    assert_eq!(lane.parks_at_once(wait, &clock), Some(ParkedBecause::Behind));
    for _ in 0..PACE_WINDOW {
        attempt(&lane, Duration::from_millis(1), Class::Ok);
    }
    assert_eq!(lane.parks_at_once(wait, &clock), None, "it became fast again");
}

#[test]
fn a_function_that_is_away_gets_a_probe_and_no_first_attempts() {
    let (lane, clock) = (lane(4), clock());
    let turns: Vec<_> =
        (0..5).filter_map(|_| attempt(&lane, Duration::from_millis(200), Class::PlatformFault)).collect();
    let [Turn::Opened { wait, first: true }] = turns[..] else { panic!("{turns:?}") };
    let until = NOW + Duration::from_millis(200) + wait;
    assert_eq!(lane.parks_at_once(Duration::from_secs(9), &clock), Some(ParkedBecause::BreakerOpen));
    assert_eq!(lane.try_permit(NOW).unwrap_err(), Refused::Until(until));
    let mut probe = lane.try_permit(until).unwrap();
    assert_eq!(lane.try_permit(until).unwrap_err(), Refused::Busy);
    probe.begin(NOW);
    let turn = probe.end(&Outcome::new(Class::Ok, None, ""), (until, until), || 0);
    drop(probe);
    assert_eq!(
        (turn, lane.free()),
        (Some(Turn::Closed), 2),
        "it starts slowly: one, and one for the success"
    );
    assert_eq!(lane.parks_at_once(Duration::from_secs(9), &clock), None);
}

#[test]
fn a_permit_that_is_not_used_gives_token_and_probe_back() {
    let lane = lane(4);
    lane.set_limits(
        FunctionLimits { concurrency: 4, rate: Some(10.0), longest_wait: Duration::from_hours(1) },
        NOW,
    );
    drop(lane.try_permit(NOW).unwrap());
    let mut used = lane.try_permit(NOW).unwrap();
    assert_eq!(lane.try_permit(NOW).unwrap_err(), Refused::Until(NOW + Duration::from_millis(100)));
    used.begin(NOW);
    drop(used);
    assert!(lane.try_permit(NOW).is_err(), "what began has used its token up");

    let kept = FunctionState {
        function: lane.function.clone(),
        open_until: Timestamp::from_micros(0),
        opened: 2,
        reason: "away".into(),
    };
    lane.restore(kept, Timestamp::from_micros(1), NOW);
    let later = NOW + Duration::from_secs(1);
    drop(lane.try_permit(later).unwrap());
    assert!(lane.try_permit(later).is_ok(), "the next may be the probe");
}

#[test]
fn a_token_that_comes_back_is_there_for_who_waits_for_the_next() {
    let lane = lane(2);
    let a_day = 1.0 / 86_400.0;
    lane.set_limits(
        FunctionLimits { concurrency: 2, rate: Some(a_day), longest_wait: Duration::from_hours(1) },
        NOW,
    );
    let permit = lane.try_permit(NOW).unwrap();
    let Err(Refused::Until(tomorrow)) = lane.try_permit(NOW) else { panic!("one a day") };
    lane.blocked(tomorrow, NOW);
    assert!(!lane.listed());
    drop(permit);
    assert!(lane.listed() && lane.take_due(Timestamp::from_micros(0), NOW));
    // It came back between the refusal and what the pump says of it.
    lane.unlist();
    lane.blocked(tomorrow, NOW);
    assert!(lane.listed() && lane.take_due(Timestamp::from_micros(0), NOW));
}

#[test]
fn refused_calls_shrink_the_concurrency_and_successes_restore_it() {
    let lane = lane(8);
    let all: Vec<_> = (0..8).map(|_| lane.try_permit(NOW).unwrap()).collect();
    for mut permit in all {
        permit.begin(NOW);
        permit.end(&Outcome::new(Class::Throttled, Some(429), ""), (NOW, NOW), || 0);
    }
    assert_eq!(lane.free(), 4);
    for _ in 0..100 {
        attempt(&lane, Duration::ZERO, Class::Ok);
    }
    assert_eq!(lane.free(), 8);
}

#[test]
fn whoever_is_behind_is_listed_when_a_place_comes_back_but_not_before_its_time() {
    let lane = lane(1);
    let permit = lane.try_permit(NOW).unwrap();
    lane.looked(true, None);
    assert!(!lane.listed());
    drop(permit);
    assert!(lane.listed());
    lane.set_limits(
        FunctionLimits { concurrency: 1, rate: Some(1.0), longest_wait: Duration::from_hours(1) },
        NOW,
    );
    let mut permit = lane.try_permit(NOW).unwrap();
    permit.begin(NOW);
    lane.blocked(NOW + Duration::from_secs(1), NOW);
    drop(permit);
    assert!(!lane.listed(), "there is no permit before then, whoever comes back");
    let (now, second) = (Timestamp::from_micros(0), Duration::from_secs(1));
    assert!(!lane.take_due(now, NOW));
    assert_eq!(lane.set_alarm(now, NOW, second), Some(NOW + second));
    assert_eq!(lane.set_alarm(now, NOW, second), None, "one alarm is enough");
    assert!(lane.take_due(now, NOW + second));
}

#[test]
fn what_is_parked_during_a_look_is_not_forgotten() {
    let lane = lane(1);
    let (early, later) = (Timestamp::from_micros(5), Timestamp::from_micros(900));
    lane.note_parked(early);
    assert!(lane.take_due(early, NOW));
    lane.note_parked(early);
    lane.looked(false, Some(later));
    assert!(lane.take_due(early, NOW));
}

#[test]
fn due_deliveries_go_before_new_events() {
    let lane = lane(1);
    let now = Timestamp::from_micros(10);
    assert!(!lane.take_due(now, NOW));
    lane.note_parked(Timestamp::from_micros(5));
    assert!(lane.take_due(now, NOW));
    lane.looked(true, Some(Timestamp::from_micros(5)));
    assert!(lane.parks_at_once(Duration::from_secs(1), &clock()).is_some());
    assert!(lane.take_due(now, NOW));
    lane.looked(false, None);
    assert!(lane.parks_at_once(Duration::from_secs(1), &clock()).is_none() && !lane.take_due(now, NOW));
}

#[test]
fn of_calls_that_were_accepted_the_last_result_is_shown() {
    let lane = lane(2);
    let last = || lane.flow(Timestamp::from_micros(0), NOW).last.map(|last| (last.class, last.failed));
    attempt(&lane, Duration::ZERO, Class::Accepted);
    assert_eq!(last(), Some((Class::Accepted, 0)));
    for failed in 1..3 {
        lane.reported(Class::FunctionFault, NOW);
        attempt(&lane, Duration::ZERO, Class::Accepted);
        assert_eq!(last(), Some((Class::FunctionFault, failed)));
    }
    lane.reported(Class::Ok, NOW);
    assert_eq!(last(), Some((Class::Ok, 0)));
    attempt(&lane, Duration::ZERO, Class::Throttled);
    assert_eq!(last(), Some((Class::Throttled, 1)), "what is newer and no acceptance");
}
