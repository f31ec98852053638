//! When to try again: exponential backoff with full jitter, as a pure value.
//!
//! A retry is (attempts so far, entropy, hint) → moment. It never sleeps and knows no clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// How a binding's deliveries are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts that failed by the function's own fault before giving up; at least 1.
    pub max_attempts: u32,
    /// Upper bound of the first wait, in milliseconds; doubled for each attempt.
    pub first_wait_ms: u64,
    /// Upper bound of any wait, in milliseconds.
    pub max_wait_ms: u64,
}

impl Default for RetryPolicy {
    /// 10 attempts over about four minutes on average (eight and a half at most): longer than a deployment takes, soon
    /// enough to be told of a bug while its cause is remembered (docs/adr/0062).
    fn default() -> Self {
        Self { max_attempts: 10, first_wait_ms: 1_000, max_wait_ms: 300_000 }
    }
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("retry: {0}")]
pub struct InvalidRetry(&'static str);

impl RetryPolicy {
    /// Most attempts a policy may ask for.
    pub const MAX_ATTEMPTS: u32 = 1_000;
    /// Longest wait a policy may ask for: a day.
    pub const MAX_WAIT_MS: u64 = 86_400_000;

    /// Checks the limits.
    pub fn validate(&self) -> Result<(), InvalidRetry> {
        if !(1..=Self::MAX_ATTEMPTS).contains(&self.max_attempts) {
            return Err(InvalidRetry("max_attempts must be between 1 and 1000"));
        }
        if self.first_wait_ms == 0 || self.max_wait_ms > Self::MAX_WAIT_MS {
            return Err(InvalidRetry(
                "first_wait_ms must be at least 1 and max_wait_ms at most 86400000 (a day)",
            ));
        }
        if self.first_wait_ms > self.max_wait_ms {
            return Err(InvalidRetry("first_wait_ms must not be greater than max_wait_ms"));
        }
        Ok(())
    }

    /// What a hint may ask for under any policy.
    pub const LEAST_LONGEST: Duration = Duration::from_hours(1);

    /// The longest that anything can wait under a policy with this `max_wait_ms`, which is what a hint is held to.
    pub fn longest(max_wait_ms: u64) -> Duration {
        let asked = max_wait_ms.saturating_mul(10).min(Self::MAX_WAIT_MS);
        Duration::from_millis(asked).max(Self::LEAST_LONGEST)
    }

    /// When to try again after `tries` attempts that did not succeed (at least 1).
    ///
    /// The wait is uniform between nothing and the exponential bound (full jitter, so that deliveries that failed
    /// together do not come back together). `hint` is what the platform asked for by `Retry-After`; the wait is never
    /// shorter than it, and the hint itself is held to ten times `max_wait_ms`, at least an hour and at most a day.
    pub fn next(&self, now: Timestamp, tries: u32, entropy: u64, hint: Option<Duration>) -> Timestamp {
        let doublings = tries.saturating_sub(1).min(63);
        let bound = self.first_wait_ms.saturating_mul(1 << doublings).min(self.max_wait_ms);
        let bound_us = bound.saturating_mul(1_000);
        let jittered = u64::try_from((u128::from(entropy) * u128::from(bound_us)) >> 64).unwrap_or(bound_us);
        let asked = hint.unwrap_or_default().min(Self::longest(self.max_wait_ms));
        now.plus(Duration::from_micros(jittered).max(asked))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    #[test]
    fn bound_doubles_and_is_capped() {
        let policy = RetryPolicy { max_attempts: 9, first_wait_ms: 100, max_wait_ms: 1_000 };
        let longest = |tries| policy.next(NOW, tries, u64::MAX, None).since(NOW).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 64, u32::MAX].map(longest), [99, 199, 399, 799, 999, 999, 999]);
        assert_eq!(policy.next(NOW, 5, 0, None), NOW);
    }

    #[test]
    fn the_default_lasts_longer_than_a_deployment_and_ends_within_minutes() {
        let policy = RetryPolicy::default();
        let waits = |entropy| {
            let wait = |tries| policy.next(NOW, tries, entropy, None).since(NOW);
            (1..policy.max_attempts).map(wait).sum::<Duration>().as_secs()
        };
        assert_eq!((waits(0), waits(u64::MAX / 2), waits(u64::MAX)), (0, 255, 510));
    }

    #[test]
    fn hint_is_honoured_within_bounds() {
        let policy = RetryPolicy::default();
        let wait = |hint| policy.next(NOW, 1, 0, Some(Duration::from_secs(hint))).since(NOW).as_secs();
        assert_eq!(wait(7), 7);
        assert_eq!(wait(1_000_000), 3_600);
    }

    proptest! {
        #[test]
        fn wait_is_between_now_and_the_cap(tries in 1u32.., entropy: u64, first in 1u64..100_000, extra in 0u64..1_000_000) {
            let policy = RetryPolicy { max_attempts: 3, first_wait_ms: first, max_wait_ms: first + extra };
            let wait = policy.next(NOW, tries, entropy, None).since(NOW);
            prop_assert!(wait <= Duration::from_millis(first + extra));
        }
    }
}
