//! How many calls of one function may run at once: additive increase, multiplicative decrease. Pure.
//!
//! The binding's limit is what its author hopes for; what the function can take at the moment, its answers tell. Told
//! that it is too much (throttled, or 503), the concurrency is halved; each success adds its share of one, so that a
//! round of successes adds one. Below the last halving's result it doubles in a round instead (slow start): that much
//! went well before. So it swings around what the function takes, never above the limit, never below one.
//!
//! *Additive increase, multiplicative decrease* and not a gradient of latencies: functions' times differ by their inputs
//! by orders of magnitude, so a latency says little, and a refusal says all; and operators know it from TCP.
//!
//! **One halving for one moment.** Calls that were begun before the last halving tell of the concurrency before it; that
//! they are refused, too, is no news.
//!
//! **After an outage** (the breaker opened) it begins at one, so that a function that comes back is not met by all that
//! waits at once.

use std::time::Duration;

/// One function's concurrency.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: u32,
    now: u32,
    /// Below it, a success adds one.
    threshold: u32,
    /// Successes since the last step.
    credit: u32,
    /// When it was halved last.
    halved_at: Option<Duration>,
}

impl Concurrency {
    /// Full concurrency: until it is told otherwise, the limit is believed.
    pub fn new(limit: u32) -> Self {
        let limit = limit.max(1);
        Self { limit, now: limit, threshold: limit, credit: 0, halved_at: None }
    }

    /// How many calls may run at once now.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// How many at most.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Changes the limit. What had not shrunk goes with it.
    pub fn set_limit(&mut self, limit: u32) {
        let limit = limit.max(1);
        if self.now == self.limit {
            self.now = limit;
        }
        self.limit = limit;
        self.now = self.now.min(limit);
    }

    /// A call went well.
    pub fn succeeded(&mut self) {
        if self.now >= self.limit {
            return;
        }
        self.credit += 1;
        if self.now < self.threshold || self.credit >= self.now {
            self.now += 1;
            self.credit = 0;
        }
    }

    /// A call that began then was too much. Whether even one at a time is: then shrinking cannot help.
    pub fn overloaded(&mut self, began: Duration, now: Duration) -> bool {
        let is_news = self.halved_at.is_none_or(|halved_at| began > halved_at);
        if self.now == 1 {
            return is_news;
        }
        if is_news {
            self.now /= 2;
            self.threshold = self.now;
            self.credit = 0;
            self.halved_at = Some(now);
        }
        false
    }

    /// The function was away: begins at one.
    pub fn restart(&mut self, now: Duration) {
        self.threshold = (self.now / 2).max(1);
        (self.now, self.credit, self.halved_at) = (1, 0, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn calls_refused_together_halve_it_once() {
        let mut concurrency = Concurrency::new(16);
        for _ in 0..12 {
            assert!(!concurrency.overloaded(ms(0), ms(1)));
        }
        assert_eq!(concurrency.now(), 8);
        concurrency.overloaded(ms(2), ms(3));
        assert_eq!(concurrency.now(), 4);
    }

    #[test]
    fn it_grows_back_by_one_in_a_round_and_not_beyond_the_limit() {
        let mut concurrency = Concurrency::new(6);
        concurrency.overloaded(ms(1), ms(2));
        let mut rounds = Vec::new();
        while concurrency.now() < 6 {
            let before = concurrency.now();
            (0..before).for_each(|_| concurrency.succeeded());
            rounds.push(concurrency.now() - before);
        }
        assert_eq!(rounds, [1, 1, 1]);
        (0..100).for_each(|_| concurrency.succeeded());
        assert_eq!(concurrency.now(), 6);
    }

    #[test]
    fn after_an_outage_it_doubles_up_to_half_of_what_it_was() {
        let mut concurrency = Concurrency::new(16);
        concurrency.restart(ms(1));
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(concurrency.now());
            (0..concurrency.now()).for_each(|_| concurrency.succeeded());
        }
        assert_eq!(seen, [1, 2, 4, 8, 9]);
    }

    #[test]
    fn only_when_one_at_a_time_is_too_much_it_says_so() {
        let mut concurrency = Concurrency::new(2);
        assert!(!concurrency.overloaded(ms(1), ms(2)));
        assert!(!concurrency.overloaded(ms(1), ms(3)), "begun while there were two");
        assert!(concurrency.overloaded(ms(4), ms(5)));
    }

    #[test]
    fn a_new_limit_is_in_force_at_once_and_does_not_undo_a_halving() {
        let mut concurrency = Concurrency::new(8);
        concurrency.set_limit(20);
        assert_eq!(concurrency.now(), 20);
        concurrency.overloaded(ms(1), ms(2));
        concurrency.set_limit(40);
        assert_eq!(concurrency.now(), 10);
        concurrency.set_limit(3);
        assert_eq!((concurrency.now(), concurrency.limit()), (3, 3));
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_limit_and_comes_back(limit in 1u32..60, steps in proptest::collection::vec(0u8..4, 0..400)) {
            let mut concurrency = Concurrency::new(limit);
            for (at, step) in steps.iter().enumerate() {
                let at = ms(at as u64);
                match step {
                    0 => drop(concurrency.overloaded(at, at)),
                    1 => concurrency.restart(at),
                    _ => concurrency.succeeded(),
                }
                prop_assert!((1..=limit).contains(&concurrency.now()));
            }
            (0..limit * limit).for_each(|_| concurrency.succeeded());
            prop_assert_eq!(concurrency.now(), limit);
        }
    }
}
