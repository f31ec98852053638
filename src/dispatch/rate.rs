//! How many calls of one function may begin in a second: a token bucket. Pure.
//!
//! Kept as one moment, the time at which the bucket will be full again (the *generic cell rate algorithm*): a call may
//! begin when that moment is no further away than the bucket is deep, and puts it off by the time that one token takes.
//! So there is nothing to refill, and when the next token comes is known beforehand: whoever waits sleeps until then.
//!
//! **A token is spent when the call begins**, not when leave is given: between the two lie reads and writes of the queue,
//! seconds on a slow disk, and then calls whose tokens were long paid for would begin together. Until then a token is kept
//! aside, and no more are kept aside than may begin at once: so whoever has one may begin at any moment, and one that
//! was not used costs nothing.
//!
//! **The bucket holds a tenth of a second's calls**, at least one. In any time t at most `rate · t` plus that many calls
//! begin. A deeper bucket would let a flood through whenever it was quiet before, which is what a limit is to prevent.

use std::time::Duration;

/// One function's rate.
#[derive(Debug, Clone)]
pub struct Rate {
    per_second: f64,
    /// What one token takes.
    every: Duration,
    /// How far ahead of a steady pace calls may be.
    slack: Duration,
    full_at: Duration,
    /// Tokens that are kept aside.
    aside: u32,
}

impl Rate {
    /// A full bucket for this many calls in a second, more than none.
    pub fn new(per_second: f64, now: Duration) -> Self {
        // Held to what makes sense, whatever a database says: a call a day, a million a second.
        let rate = if per_second.is_finite() { per_second.clamp(1.0 / 86_400.0, 1e6) } else { 1e6 };
        let every = Duration::from_secs_f64(1.0 / rate);
        let slack = Duration::from_millis(100).saturating_sub(every);
        Self { per_second, every, slack, full_at: now, aside: 0 }
    }

    /// How many calls in a second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// The same with another number of calls in a second: a full bucket, less what is kept aside.
    pub fn changed_to(&self, per_second: f64, now: Duration) -> Self {
        Self { aside: self.aside, ..Self::new(per_second, now) }
    }

    /// Whether there is a token now; if not, when there is one if those kept aside are spent now.
    pub fn ready(&self, now: Duration) -> Result<(), Duration> {
        let spent = self.every.saturating_mul(self.aside);
        let next = self.full_at.max(now).saturating_add(spent).saturating_sub(self.slack);
        if next <= now { Ok(()) } else { Err(next) }
    }

    /// Keeps a token aside; if there is none, says when the next comes.
    pub fn keep(&mut self, now: Duration) -> Result<(), Duration> {
        self.ready(now)?;
        self.aside = self.aside.saturating_add(1);
        Ok(())
    }

    /// Spends a token that was kept aside: a call begins.
    pub fn spend(&mut self, now: Duration) {
        self.give_back();
        self.full_at = self.full_at.max(now).saturating_add(self.every);
    }

    /// Keeps a token aside no longer: there is no call.
    pub fn give_back(&mut self) {
        self.aside = self.aside.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A call that begins as soon as it has leave.
    fn call(rate: &mut Rate, now: Duration) -> Result<(), Duration> {
        rate.keep(now)?;
        rate.spend(now);
        Ok(())
    }

    #[test]
    fn slow_rates_are_a_steady_beat() {
        let mut rate = Rate::new(0.5, Duration::ZERO);
        assert_eq!(call(&mut rate, Duration::ZERO), Ok(()));
        assert_eq!(call(&mut rate, Duration::ZERO), Err(Duration::from_secs(2)));
        assert_eq!(call(&mut rate, Duration::from_secs(2)), Ok(()));
        let long_after = Duration::from_hours(1);
        assert_eq!(call(&mut rate, long_after), Ok(()));
        assert!(call(&mut rate, long_after).is_err(), "quiet times are not saved up");
    }

    #[test]
    fn what_was_not_used_is_there_again() {
        let mut rate = Rate::new(10.0, Duration::ZERO);
        assert!(rate.keep(Duration::ZERO).is_ok() && rate.keep(Duration::ZERO).is_err());
        rate.give_back();
        assert!(rate.keep(Duration::ZERO).is_ok());
    }

    #[test]
    fn leave_that_was_given_long_ago_lets_no_two_calls_begin_together() {
        let mut rate = Rate::new(2.0, Duration::ZERO);
        let late = Duration::from_secs(9);
        assert!(rate.keep(Duration::ZERO).is_ok());
        assert_eq!(rate.keep(late), Err(late + Duration::from_millis(500)), "one may begin at any moment");
        rate.spend(late);
        assert_eq!(rate.keep(late), Err(late + Duration::from_millis(500)));
    }

    #[test]
    fn a_changed_rate_knows_what_is_kept_aside() {
        let mut rate = Rate::new(2.0, Duration::ZERO);
        assert!(rate.keep(Duration::ZERO).is_ok());
        assert!(rate.changed_to(1.0, Duration::ZERO).keep(Duration::ZERO).is_err());
    }

    #[test]
    fn absurd_rates_are_held_to_sensible_ones() {
        for absurd in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            assert!(Rate::new(absurd, Duration::ZERO).keep(Duration::ZERO).is_ok(), "{absurd}");
        }
    }

    /// What becomes of a token at a moment: kept aside, spent, given back.
    #[derive(Debug, Clone, Copy)]
    enum Deed {
        Keep,
        Spend,
        GiveBack,
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_its_share(
            per_second in 0.5f64..5_000.0,
            pauses in proptest::collection::vec(0u64..200_000, 1..30),
            deeds in proptest::collection::vec(
                prop_oneof![3 => Just(Deed::Keep), 2 => Just(Deed::Spend), 1 => Just(Deed::GiveBack)], 1..300),
        ) {
            let mut rate = Rate::new(per_second, Duration::ZERO);
            let (mut now, mut begun, mut aside) = (Duration::ZERO, Vec::new(), 0u32);
            let in_turn = deeds.len().div_ceil(pauses.len());
            for (deeds, pause) in deeds.chunks(in_turn).zip(pauses) {
                now += Duration::from_micros(pause);
                for deed in deeds {
                    match deed {
                        Deed::Keep => match rate.keep(now) {
                            Ok(()) => aside += 1,
                            Err(next) => prop_assert!(next > now),
                        },
                        Deed::Spend if aside > 0 => {
                            aside -= 1;
                            rate.spend(now);
                            begun.push(now);
                        }
                        Deed::GiveBack if aside > 0 => {
                            aside -= 1;
                            rate.give_back();
                        }
                        Deed::Spend | Deed::GiveBack => (),
                    }
                }
            }
            let depth = (per_second / 10.0).max(1.0);
            for (at, from) in begun.iter().enumerate() {
                for (calls, to) in begun[at..].iter().enumerate() {
                    let stretch = to.saturating_sub(*from);
                    let most = per_second * stretch.as_secs_f64() + depth;
                    let calls = f64::from(u32::try_from(calls + 1).unwrap());
                    prop_assert!(calls <= most + 1e-3, "{calls} calls in {stretch:?}");
                }
            }
        }

        #[test]
        fn who_waits_as_told_gets_the_whole_rate(per_second in 0.5f64..5_000.0) {
            let mut rate = Rate::new(per_second, Duration::ZERO);
            let (mut now, mut calls) = (Duration::ZERO, 0u32);
            while calls < 1_000 {
                match call(&mut rate, now) {
                    Ok(()) => calls += 1,
                    Err(next) => now = next,
                }
            }
            prop_assert!(now.as_secs_f64() <= 1_000.0 / per_second + 0.001);
        }
    }
}
