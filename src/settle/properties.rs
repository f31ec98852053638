//! Whatever comes of a delivery's attempts, in whatever order: it ends, in time and for the right reason.

use proptest::prelude::*;

use super::{
    tests::{MONTH, delivery, spec},
    *,
};
use crate::domain::{retry::RetryPolicy, spec::Mode};

/// One attempt as the world has it.
#[derive(Debug, Clone)]
struct Turn {
    class: Class,
    retry_after: Option<u64>,
    entropy: u64,
    inspected: bool,
    /// How long it took, and how late it was begun, in thousandths of the maximum age.
    took: u32,
    late: u32,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    use Class::{
        Accepted, BindingBroken, FunctionFault, Interrupted, Ok, Permanent, PlatformFault, Throttled,
    };
    let class = prop_oneof![
        1 => Just(Ok), 1 => Just(Permanent), 2 => Just(Accepted), 2 => Just(Interrupted),
        4 => Just(BindingBroken), 6 => Just(FunctionFault), 12 => Just(Throttled), 12 => Just(PlatformFault),
    ];
    let entropy = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let turn = (class, proptest::option::of(0..200_000_u64), entropy, 0..8_u8, 1..20_u32, 0..3_u32);
    let turn = turn.prop_map(|(class, retry_after, entropy, inspected, took, late)| Turn {
        class,
        retry_after,
        entropy,
        inspected: inspected == 0,
        took,
        late,
    });
    proptest::collection::vec(turn, 1..12)
}

fn policies() -> impl Strategy<Value = BindingSpec> {
    let numbers =
        (1..60_u32, 1..100_000_u64, 0..3_000_000_u64, 1..MONTH, proptest::option::of(1..604_800_u64));
    numbers.prop_map(|(max_attempts, first_wait_ms, more, max_event_age_s, awaits)| {
        let mode = if awaits.is_some() { Mode::Async } else { spec().mode };
        let await_result_s = awaits.map(|wait| wait.min(max_event_age_s));
        let retry = RetryPolicy { max_attempts, first_wait_ms, max_wait_ms: first_wait_ms + more };
        BindingSpec { mode, await_result_s, retry, max_event_age_s, ..spec() }
    })
}

/// How a delivery ended, of what, and when.
#[derive(Debug)]
struct End {
    verdict: Verdict,
    class: Class,
    inspected: bool,
    at: Timestamp,
}

/// Settles what these turns bring, over and over, until the delivery has ended; holds each step against the policy.
fn live(delivery: &mut Delivery, spec: &BindingSpec, turns: &[Turn]) -> Result<End, TestCaseError> {
    let thousandth = spec.max_event_age() / 1_000;
    let (mut now, mut awaited) = (delivery.accepted_at, false);
    for turn in turns.iter().cycle() {
        if !awaited && is_too_old(delivery, spec, now) {
            let verdict = Verdict::GivenUp(DeadReason::TooOld);
            return Ok(End { verdict, class: Class::Throttled, inspected: false, at: now });
        }
        // What was waited for is a result, or that none came: the function's fault, as dispatch says.
        let class = match turn.class {
            Class::Ok => Class::Ok,
            _ if awaited => Class::FunctionFault,
            class => class,
        };
        now = if awaited { now } else { now.plus(thousandth * turn.took) };
        let retry_after = turn.retry_after.map(Duration::from_secs);
        let outcome = Outcome::new(class, None, "").retry_after(retry_after);
        let inspected = turn.inspected;
        let verdict =
            settle(delivery, &outcome, spec, Circumstances { now, entropy: turn.entropy, inspected });
        awaited = false;
        match verdict {
            Verdict::RetryAt { due, attempts, tries } => {
                let (charged, tried) = (class == Class::FunctionFault, class != Class::Interrupted);
                prop_assert_eq!(attempts, delivery.attempts + u32::from(charged), "{:?}", turn);
                prop_assert_eq!(tries, delivery.tries + u32::from(tried), "{:?}", turn);
                prop_assert!(attempts < spec.retry.max_attempts, "{:?}", turn);
                if tried {
                    let most = RetryPolicy::longest(spec.retry.max_wait_ms);
                    let asked = retry_after.unwrap_or_default().min(most);
                    let backoff = Duration::from_millis(spec.retry.max_wait_ms);
                    prop_assert!(now <= due && due <= now.plus(asked.max(backoff)), "{:?} {:?}", turn, due);
                    prop_assert!(due >= now.plus(asked) || is_last_chance(delivery, spec, due), "{:?}", turn);
                    prop_assert!(!is_too_old(delivery, spec, due), "{:?}", turn);
                } else {
                    prop_assert_eq!(due, now);
                }
                (delivery.attempts, delivery.tries) = (attempts, tries);
                now = due.plus(thousandth * turn.late);
            }
            Verdict::Await { until } => {
                prop_assert_eq!(class, Class::Accepted);
                prop_assert_eq!(Some(until.since(now)), spec.await_result());
                (now, awaited) = (until, true);
            }
            verdict => return Ok(End { verdict, class, inspected, at: now }),
        }
    }
    unreachable!("turns come round")
}

/// Whether an attempt at this moment is the last that its age allows, or would be too late.
fn is_last_chance(delivery: &Delivery, spec: &BindingSpec, at: Timestamp) -> bool {
    let age = spec.max_event_age();
    at.since(delivery.accepted_at) + (age / 10).min(Duration::from_secs(1)) >= age
}

proptest! {
    /// Delivered, or dead for the right reason, by the time that follows from its policy; held it is by its binding's
    /// state, which dispatch looks at. Each turn takes a thousandth of the maximum age at least, so this ends.
    #[test]
    fn every_delivery_ends(spec in policies(), turns in turns()) {
        let mut delivery = delivery(0, 0, 0);
        let End { verdict, class, inspected, at } = live(&mut delivery, &spec, &turns)?;
        let longest_turn = spec.max_event_age() / 1_000 * 22;
        let waits = spec.await_result().unwrap_or_default();
        prop_assert!(at.since(delivery.accepted_at) <= spec.max_event_age() + longest_turn + waits);
        match verdict {
            Verdict::Delivered => {
                prop_assert!(class == Class::Ok || class == Class::Accepted && spec.await_result().is_none());
            }
            Verdict::GivenUp(DeadReason::Permanent) => {
                prop_assert!(class == Class::Permanent || class == Class::BindingBroken && inspected);
            }
            Verdict::GivenUp(DeadReason::AttemptsExhausted) => {
                prop_assert_eq!((class, delivery.attempts + 1), (Class::FunctionFault, spec.retry.max_attempts));
            }
            Verdict::GivenUp(DeadReason::TooOld) => prop_assert!(is_last_chance(&delivery, &spec, at)),
            verdict => prop_assert!(false, "{:?}", verdict),
        }
    }
}
