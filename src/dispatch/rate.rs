//! How many calls of one function may begin in a second: a token bucket. Pure.
//!
//! Kept as one moment, the time at which the bucket will be full again (the *generic cell rate algorithm*): a call may
//! begin when that moment is no further away than the bucket is deep, and puts it off by the time that one token takes.
//! So there is nothing to refill, and when the next token comes is known beforehand: whoever waits sleeps until then.
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
}

impl Rate {
    /// A full bucket for this many calls in a second, more than none.
    pub fn new(per_second: f64, now: Duration) -> Self {
        // Held to what makes sense, whatever a database says: a call a day, a million a second.
        let rate = if per_second.is_finite() { per_second.clamp(1.0 / 86_400.0, 1e6) } else { 1e6 };
        let every = Duration::from_secs_f64(1.0 / rate);
        let slack = Duration::from_millis(100).saturating_sub(every);
        Self { per_second, every, slack, full_at: now }
    }

    /// How many calls in a second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Whether a call may begin now; if not, when the next may.
    pub fn ready(&self, now: Duration) -> Result<(), Duration> {
        let next = self.full_at.saturating_sub(self.slack);
        if next <= now { Ok(()) } else { Err(next) }
    }

    /// Takes a token; if there is none, says when the next comes.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.ready(now)?;
        self.full_at = self.full_at.max(now) + self.every;
        Ok(())
    }

    /// Puts a token back that was not used.
    pub fn give_back(&mut self) {
        self.full_at = self.full_at.saturating_sub(self.every);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slow_rates_are_a_steady_beat() {
        let mut rate = Rate::new(0.5, Duration::ZERO);
        assert_eq!(rate.take(Duration::ZERO), Ok(()));
        assert_eq!(rate.take(Duration::ZERO), Err(Duration::from_secs(2)));
        assert_eq!(rate.take(Duration::from_secs(2)), Ok(()));
        let long_after = Duration::from_hours(1);
        assert_eq!(rate.take(long_after), Ok(()));
        assert!(rate.take(long_after).is_err(), "quiet times are not saved up");
    }

    #[test]
    fn what_was_not_used_is_there_again() {
        let mut rate = Rate::new(10.0, Duration::ZERO);
        assert!(rate.take(Duration::ZERO).is_ok() && rate.take(Duration::ZERO).is_err());
        rate.give_back();
        assert!(rate.take(Duration::ZERO).is_ok());
    }

    #[test]
    fn absurd_rates_are_held_to_sensible_ones() {
        for absurd in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            assert!(Rate::new(absurd, Duration::ZERO).take(Duration::ZERO).is_ok(), "{absurd}");
        }
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_its_share(
            per_second in 0.5f64..5_000.0,
            pauses in proptest::collection::vec(0u64..200_000, 1..30),
            greed in 1usize..12,
        ) {
            let mut rate = Rate::new(per_second, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, Vec::new());
            for pause in pauses {
                now += Duration::from_micros(pause);
                for _ in 0..greed {
                    match rate.take(now) {
                        Ok(()) => taken.push(now),
                        Err(next) => {
                            prop_assert!(next > now);
                            break;
                        }
                    }
                }
            }
            let depth = (per_second / 10.0).max(1.0);
            for (at, from) in taken.iter().enumerate() {
                for (calls, to) in taken[at..].iter().enumerate() {
                    let stretch = to.saturating_sub(*from);
                    let most = per_second * stretch.as_secs_f64() + depth + 1.0;
                    let calls = f64::from(u32::try_from(calls + 1).unwrap());
                    prop_assert!(calls <= most + 1e-6, "{calls} calls in {stretch:?}");
                }
            }
        }

        #[test]
        fn who_waits_as_told_gets_the_whole_rate(per_second in 0.5f64..5_000.0) {
            let mut rate = Rate::new(per_second, Duration::ZERO);
            let (mut now, mut calls) = (Duration::ZERO, 0u32);
            while calls < 1_000 {
                match rate.take(now) {
                    Ok(()) => calls += 1,
                    Err(next) => now = next,
                }
            }
            prop_assert!(now.as_secs_f64() <= 1_000.0 / per_second + 0.001);
        }
    }
}
