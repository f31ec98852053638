//! What becomes of a delivery after an attempt. Pure: (delivery, outcome, policy, now, entropy) → verdict.
//!
//! * Success settles the delivery. Accepted (asynchronous) is success, too, unless the binding asks for the result: then it
//!   is waited for, and what comes of that, a report or none in time, is settled as any outcome.
//! * Throttling and platform faults wait and cost the function no attempt; the function's own faults do. Each budget
//!   has its own backoff: a function's fault waits by the function's faults, and not by an outage that went before.
//! * A permanent answer gives the delivery up at once.
//! * A broken binding is put off, uncharged, until an inspection has looked at the platform's rule. When that inspection
//!   found everything well, and an attempt begun after it, with the same revision of the binding, gets the same answer
//!   again, the answer is believed: permanent.
//! * An interrupted attempt costs nothing and is due at once.
//!
//! **Age.** An event is given up at its binding's maximum age, whatever the fault. A wait that would end beyond that
//! moment is cut so that a last attempt falls just before it. (`now` does not jump: `domain::steady`.)

use std::time::Duration;

use crate::domain::{
    binding::BindingSpec,
    clock::Timestamp,
    delivery::{DeadReason, Delivery},
    outcome::{Class, Outcome},
};

/// What is to be done with the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Settled: the function (or its platform) has it.
    Delivered,
    /// The platform has accepted it, and its result is waited for.
    Await {
        /// For how long.
        until: Timestamp,
    },
    /// To be tried again.
    RetryAt {
        /// When.
        due: Timestamp,
        /// Attempts that were the function's fault, now.
        attempts: u32,
        /// All attempts without success, now.
        tries: u32,
    },
    /// Settled: it becomes a dead letter.
    GivenUp(DeadReason),
}

/// What the decision rests on besides delivery, outcome and spec.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// Now.
    pub now: Timestamp,
    /// A random number.
    pub entropy: u64,
    /// The attempt began after an inspection that found the binding, in this revision, in step.
    pub inspected: bool,
}

/// Decides.
pub fn settle(
    delivery: &Delivery,
    outcome: &Outcome,
    spec: &BindingSpec,
    circumstances: Circumstances,
) -> Verdict {
    let charged = match outcome.class {
        Class::Ok => return Verdict::Delivered,
        Class::Accepted => {
            let awaited = spec.await_result().filter(|_| delivery.letter.is_none());
            return awaited
                .map_or(Verdict::Delivered, |wait| Verdict::Await { until: circumstances.now.plus(wait) });
        }
        Class::Permanent => return Verdict::GivenUp(DeadReason::Permanent),
        Class::BindingBroken if circumstances.inspected => return Verdict::GivenUp(DeadReason::Permanent),
        Class::Interrupted => {
            return Verdict::RetryAt {
                due: circumstances.now,
                attempts: delivery.attempts,
                tries: delivery.tries,
            };
        }
        Class::FunctionFault => 1,
        Class::Throttled | Class::PlatformFault | Class::BindingBroken => 0,
    };
    let attempts = delivery.attempts.saturating_add(charged);
    let tries = delivery.tries.saturating_add(1);
    if attempts >= spec.retry.max_attempts {
        return Verdict::GivenUp(DeadReason::AttemptsExhausted);
    }
    let now = circumstances.now;
    let failures = if charged > 0 { attempts } else { tries };
    let due = spec.retry.next(now, failures, circumstances.entropy, outcome.retry_after);
    let last_chance = last_chance(delivery, spec);
    if last_chance <= now {
        return Verdict::GivenUp(DeadReason::TooOld);
    }
    Verdict::RetryAt { due: due.min(last_chance), attempts, tries }
}

/// Whether a delivery is older than its binding allows, to be asked before an attempt.
pub fn is_too_old(delivery: &Delivery, spec: &BindingSpec, now: Timestamp) -> bool {
    now.since(delivery.accepted_at) >= spec.max_event_age()
}

/// The latest moment at which an attempt still makes sense: a tenth of the age, at most a second, before the end.
fn last_chance(delivery: &Delivery, spec: &BindingSpec) -> Timestamp {
    let age = spec.max_event_age();
    delivery.accepted_at.plus(age.saturating_sub((age / 10).min(Duration::from_secs(1))))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{
        event::{Event, StorageName},
        event_name::EventName,
        ids::{BindingId, EventId},
    };

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    pub(super) fn spec() -> BindingSpec {
        serde_json::from_str(
            r#"{"storage":"default","bucket":"photos","events":["s3:ObjectCreated:*"],"platform":"local",
                "function":"thumb","max_event_age_s":100,
                "retry":{"max_attempts":3,"first_wait_ms":1000,"max_wait_ms":10000}}"#,
        )
        .unwrap()
    }

    pub(super) fn delivery(attempts: u32, tries: u32, age: u64) -> Delivery {
        let event = Event {
            id: EventId::from_bytes([1; 16]),
            storage: StorageName::new("default"),
            bucket: "photos".into(),
            key: "in/a.jpg".into(),
            name: EventName::new("s3:ObjectCreated:Put"),
            time: NOW,
            size: None,
            etag: None,
            content_type: None,
            version_id: None,
            sequencer: None,
            principal: String::new(),
            user_metadata: std::collections::BTreeMap::default(),
            record: serde_json::value::RawValue::from_string("{}".into()).unwrap(),
        };
        let accepted = Timestamp::from_micros(NOW.as_micros() - i64::try_from(age).unwrap() * 1_000_000);
        let function = spec().function.to_ref();
        let mut delivery = Delivery::new(Arc::new(event), BindingId::from_bytes([2; 16]), function, accepted);
        (delivery.attempts, delivery.tries) = (attempts, tries);
        delivery
    }

    fn decide(delivery: &Delivery, class: Class, change: impl FnOnce(&mut Circumstances)) -> Verdict {
        let mut circumstances = Circumstances { now: NOW, entropy: u64::MAX, inspected: false };
        change(&mut circumstances);
        settle(delivery, &Outcome::new(class, None, ""), &spec(), circumstances)
    }

    #[test]
    fn only_the_functions_own_faults_use_up_attempts() {
        for class in [Class::Throttled, Class::PlatformFault, Class::BindingBroken] {
            let verdict = decide(&delivery(2, 50, 0), class, |_| ());
            assert!(matches!(verdict, Verdict::RetryAt { attempts: 2, tries: 51, .. }), "{class:?}");
        }
        assert_eq!(
            decide(&delivery(2, 2, 0), Class::FunctionFault, |_| ()),
            Verdict::GivenUp(DeadReason::AttemptsExhausted)
        );
    }

    #[test]
    fn a_functions_first_fault_after_an_outage_waits_no_longer_than_any_first_fault() {
        let wait = |class, tries| match decide(&delivery(0, tries, 0), class, |_| ()) {
            Verdict::RetryAt { due, .. } => due.since(NOW).as_millis(),
            verdict => panic!("{verdict:?}"),
        };
        assert_eq!(wait(Class::FunctionFault, 40), 999);
        assert_eq!(wait(Class::PlatformFault, 40), 9_999);
    }

    #[test]
    fn accepted_is_delivered_unless_the_result_is_asked_for() {
        let (mut spec, mut delivery) = (spec(), delivery(0, 0, 0));
        let circumstances = Circumstances { now: NOW, entropy: 0, inspected: false };
        let accepted = Outcome::new(Class::Accepted, Some(202), "");
        let decide =
            |delivery: &Delivery, spec: &BindingSpec| settle(delivery, &accepted, spec, circumstances);
        spec.mode = crate::domain::spec::Mode::Async;
        assert_eq!(decide(&delivery, &spec), Verdict::Delivered);
        spec.await_result_s = Some(7);
        assert_eq!(decide(&delivery, &spec), Verdict::Await { until: NOW.plus(Duration::from_secs(7)) });
        let ran_at_once = Outcome::new(Class::Ok, Some(200), "");
        assert_eq!(settle(&delivery, &ran_at_once, &spec, circumstances), Verdict::Delivered);
        delivery.letter = Some(delivery.id);
        assert_eq!(decide(&delivery, &spec), Verdict::Delivered, "a handler is called and waited for");
    }

    #[test]
    fn interruption_costs_nothing() {
        let verdict = decide(&delivery(1, 4, 99), Class::Interrupted, |_| ());
        assert_eq!(verdict, Verdict::RetryAt { due: NOW, attempts: 1, tries: 4 });
    }

    #[test]
    fn a_broken_binding_is_believed_only_after_an_inspection() {
        assert!(matches!(decide(&delivery(0, 0, 0), Class::BindingBroken, |_| ()), Verdict::RetryAt { .. }));
        let verdict = decide(&delivery(0, 0, 0), Class::BindingBroken, |c| c.inspected = true);
        assert_eq!(verdict, Verdict::GivenUp(DeadReason::Permanent));
    }

    #[test]
    fn age_ends_every_wait() {
        let old = delivery(0, 7, 100);
        assert_eq!(decide(&old, Class::PlatformFault, |_| ()), Verdict::GivenUp(DeadReason::TooOld));
        assert!(is_too_old(&old, &spec(), NOW));
    }

    #[test]
    fn the_last_wait_ends_just_before_the_end() {
        let Verdict::RetryAt { due, .. } = decide(&delivery(0, 7, 95), Class::PlatformFault, |_| ()) else {
            panic!("given up too early")
        };
        assert_eq!(due, NOW.plus(Duration::from_secs(4)));
    }

    /// How long it is put off, answered so with this `Retry-After`: a new delivery, or one of this age.
    fn put_off(class: Class, (age, max_age): (u64, u64), retry_after: u64, entropy: u64) -> Option<Duration> {
        let spec = BindingSpec { max_event_age_s: max_age, ..spec() };
        let outcome = Outcome::new(class, None, "").retry_after(Some(Duration::from_secs(retry_after)));
        let circumstances = Circumstances { now: NOW, entropy, inspected: false };
        match settle(&delivery(0, 50, age), &outcome, &spec, circumstances) {
            Verdict::RetryAt { due, attempts, tries: 51 } => {
                assert_eq!(attempts, u32::from(class == Class::FunctionFault), "{class:?}");
                Some(due.since(NOW))
            }
            verdict => {
                assert_eq!(verdict, Verdict::GivenUp(DeadReason::TooOld), "{class:?}");
                None
            }
        }
    }

    pub(super) const MONTH: u64 = 2_592_000;

    #[test]
    fn what_the_platform_asks_for_is_waited_for_and_never_less_than_the_backoff() {
        for class in [Class::Throttled, Class::PlatformFault, Class::FunctionFault] {
            let wait = |retry_after, entropy| put_off(class, (0, MONTH), retry_after, entropy);
            assert_eq!(wait(40, u64::MAX), Some(Duration::from_secs(40)), "{class:?}");
            assert_eq!(wait(40, 0), Some(Duration::from_secs(40)), "{class:?}");
        }
        let backoff = put_off(Class::Throttled, (0, MONTH), 5, u64::MAX).unwrap();
        assert_eq!(backoff.as_millis(), 9_999);
        assert_eq!(put_off(Class::PlatformFault, (0, MONTH), 5, 0), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_the_platform_asks_for_is_held_to_its_bound() {
        for class in [Class::Throttled, Class::PlatformFault] {
            // An hour is the least bound of any policy.
            assert_eq!(put_off(class, (0, MONTH), 1_000_000, u64::MAX), Some(Duration::from_hours(1)));
        }
    }

    #[test]
    fn however_long_the_platform_asks_for_a_last_attempt_falls_before_the_maximum_age() {
        for class in [Class::Throttled, Class::PlatformFault] {
            let wait = |age| put_off(class, (age, 100), 3_600, 0);
            assert_eq!([0, 95].map(wait), [99, 4].map(|wait| Some(Duration::from_secs(wait))));
            assert_eq!([99, 100, 101].map(wait), [None; 3]);
        }
    }
}
