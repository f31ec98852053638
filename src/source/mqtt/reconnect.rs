//! When to connect again, as a pure value: exponential with full jitter, and long when another client has our id.
//!
//! A broker that is away, or a way to it that breaks, is tried again within seconds for as long as it lasts: events wait
//! for it, and an attempt costs next to nothing. So is one that gave us what we could not make safe or take in: behind
//! that wait the events of functions that are well (docs/adr/0080). A broker that answers and wants none of us is left
//! alone for longer. Three short connections in a row may be a second client of our id or a bad network; the pause is
//! between the two. Where none was to be had at all, no other client is to blame.

use std::time::Duration;

use crate::domain::{clock::Timestamp, retry::RetryPolicy};

/// A connection that stood so long begins the pauses anew.
pub(super) const STABLE: Duration = Duration::from_mins(1);

/// Short-lived connections in a row that look like another client of our id, where the broker does not tell.
const SUSPICIOUS: u32 = 3;

/// The least pause after a takeover that the broker told of; up to twice as much.
const TAKEOVER_WAIT: Duration = Duration::from_secs(30);

/// The same after one that is only inferred.
const SUSPICION_WAIT: Duration = Duration::from_secs(5);

/// The longest pause while the broker cannot be reached, or we are held back.
const AWAY_WAIT_MS: u64 = 3_000;

const POLICY: RetryPolicy = RetryPolicy { max_attempts: 1, first_wait_ms: 500, max_wait_ms: 30_000 };

/// Why a connection ended, as far as it matters for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The broker said that another client took the session.
    TakenOver,
    /// The broker, or the network, closed without a reason.
    Closed,
    /// There was no connection to be had, or it broke.
    Lost,
    /// It gave us what we could not make safe, or take in.
    HeldBack,
    /// Anything else.
    Other,
}

/// How long to wait, and whether another client of our id is the likely reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) wait: Duration,
    pub(super) taken_over: bool,
}

/// Remembers what the last connections came to.
#[derive(Debug, Default)]
pub(super) struct Reconnect {
    tries: u32,
    short_lives: u32,
}

impl Reconnect {
    /// The pause after a connection that ended of `cause` and had stood so long since it was accepted (none: it
    /// never was).
    pub(super) fn after(&mut self, cause: Cause, stood: Option<Duration>, entropy: u64) -> Pause {
        if stood.is_some_and(|stood| stood >= STABLE) {
            *self = Self::default();
        } else if stood.is_some() && cause == Cause::Closed {
            self.short_lives += 1;
        }
        self.tries = self.tries.saturating_add(1);
        let none_to_be_had = cause == Cause::Lost && stood.is_none();
        let taken_over = cause == Cause::TakenOver || self.short_lives >= SUSPICIOUS && !none_to_be_had;
        let start = Timestamp::default();
        let jittered = |policy: RetryPolicy, tries| policy.next(start, tries, entropy, None).since(start);
        let once_to_twice = |least: Duration| {
            let least_ms = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
            least + jittered(RetryPolicy { first_wait_ms: least_ms, max_wait_ms: least_ms, ..POLICY }, 1)
        };
        let wait = match cause {
            Cause::TakenOver => once_to_twice(TAKEOVER_WAIT),
            _ if taken_over => once_to_twice(SUSPICION_WAIT),
            Cause::Closed | Cause::Lost | Cause::HeldBack => {
                jittered(RetryPolicy { max_wait_ms: AWAY_WAIT_MS, ..POLICY }, self.tries)
            }
            Cause::Other => jittered(POLICY, self.tries),
        };
        Pause { wait, taken_over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_secs(2));

    #[test]
    fn pauses_grow_to_half_a_minute_and_begin_anew_after_a_stable_one() {
        let mut reconnect = Reconnect::default();
        let mut wait = |stood| reconnect.after(Cause::Other, stood, u64::MAX).wait.as_millis();
        assert_eq!([(); 8].map(|()| wait(None)), [499, 999, 1_999, 3_999, 7_999, 15_999, 29_999, 29_999]);
        assert_eq!(wait(Some(STABLE)), 499);
        assert_eq!(wait(SHORT), 999);
        assert_eq!(reconnect.after(Cause::Other, None, 0).wait, Duration::ZERO);
    }

    #[test]
    fn broker_that_is_away_or_full_disk_is_tried_again_within_seconds_however_long_it_was() {
        for cause in [Cause::Lost, Cause::Closed, Cause::HeldBack] {
            let mut reconnect = Reconnect::default();
            let mut wait = || reconnect.after(cause, None, u64::MAX).wait.as_millis();
            assert_eq!([(); 6].map(|()| wait()), [499, 999, 1_999, 2_999, 2_999, 2_999]);
        }
    }

    #[test]
    fn suspicion_waits_long_enough_for_an_alarm_and_no_longer() {
        let mut reconnect = Reconnect::default();
        let waits = [(); 4].map(|()| reconnect.after(Cause::Closed, SHORT, 0).wait);
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, SUSPICION_WAIT, SUSPICION_WAIT]);
        let most = reconnect.after(Cause::Closed, SHORT, u64::MAX).wait;
        assert!(most > Duration::from_secs(9) && most < Duration::from_secs(10), "{most:?}");
    }

    #[test]
    fn takeover_is_told_and_waits_at_least_half_a_minute() {
        let mut reconnect = Reconnect::default();
        let pause = reconnect.after(Cause::TakenOver, Some(STABLE), 0);
        assert_eq!(pause, Pause { wait: TAKEOVER_WAIT, taken_over: true });
        let most = reconnect.after(Cause::TakenOver, SHORT, u64::MAX).wait;
        assert!(most > Duration::from_secs(59) && most < Duration::from_mins(1), "{most:?}");
    }

    #[test]
    fn third_connection_closed_in_a_row_is_taken_for_a_takeover() {
        let mut reconnect = Reconnect::default();
        let mut told = |cause, stood| reconnect.after(cause, stood, 0).taken_over;
        assert!(!told(Cause::Closed, SHORT));
        assert!(!told(Cause::Other, None), "a broker that is down is no takeover");
        assert!(!told(Cause::Closed, SHORT));
        assert!(told(Cause::Closed, SHORT));
        assert!(told(Cause::Closed, SHORT), "it lasts until a connection stands");
        assert!(!told(Cause::Lost, None), "nobody took what was not to be had");
        assert!(told(Cause::Closed, SHORT));
        assert!(!told(Cause::Closed, Some(STABLE)));
        assert!(!told(Cause::Closed, SHORT));
    }

    #[test]
    fn broker_that_refuses_or_is_away_is_never_a_takeover() {
        let mut reconnect = Reconnect::default();
        assert!((0..100).all(|_| !reconnect.after(Cause::Closed, None, 0).taken_over));
    }
}
