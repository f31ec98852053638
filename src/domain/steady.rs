//! Time that does not jump: the wall clock, less what it jumped by.
//!
//! A wall clock is set: by NTP after a boot, by an administrator, by a virtual machine's host. Whoever compares its
//! moments takes that for time that has passed: waits end early or last for hours, and what is young dies of age. So
//! everything here that waits, ages or is stamped goes by a [`SteadyClock`]: it runs with the wall clock while that
//! agrees with the monotonic one, and does not follow it over a jump (more than [`JUMP`] at once). What the wall clock
//! is ahead by then is the **skew**. Only what is compared with somebody else's clock (signatures, a date in an answer)
//! asks for [`Clock::wall`].
//!
//! **The skew ends.** A wait is kept in the queue as a moment of steady time, so the skew is kept beside it and outlives a
//! restart (`queue::timekeeper`). But moments are shown to people, too, so steady time catches up with the wall clock: it
//! runs faster or slower by one part in [`SLEW`], which is within the jitter of any wait.
//!
//! **What cannot be seen** is a jump while the process is not there: it is taken for time that passed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::clock::{Clock, Timestamp};

/// A difference between the clocks that is a jump, not a drift between two looks.
pub const JUMP: Duration = Duration::from_secs(5);

/// Steady time catches up by one second in so many.
const SLEW: i64 = 20;

/// How often it catches up.
const STEP: Duration = Duration::from_secs(1);

/// A clock whose moments follow each other as time passes.
///
/// Each question takes a lock that nobody holds for longer than it takes to read two clocks: the answer rests on both,
/// and on what was answered before.
#[derive(Debug)]
pub struct SteadyClock {
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    wall: Timestamp,
    monotonic: Duration,
    /// Microseconds that the wall clock is ahead of steady time.
    skew: i64,
    slewed: Duration,
    /// Jumps that nobody has been told of.
    untold: i64,
}

impl SteadyClock {
    /// Steady time over `clock`, which is `skew` microseconds ahead of it now.
    pub fn new(clock: Arc<dyn Clock>, skew: i64) -> Self {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        Self { clock, seen: Mutex::new(Seen { wall, monotonic, skew, slewed: monotonic, untold: 0 }) }
    }

    /// Microseconds that the wall clock is ahead; negative when it is behind.
    pub fn skew(&self) -> i64 {
        self.look().1
    }

    /// The jumps since this was asked last, in microseconds; none when there was none.
    pub fn take_jump(&self) -> Option<i64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut seen.untold)).filter(|jump| *jump != 0)
    }

    /// Steady time now, and the skew.
    fn look(&self) -> (Timestamp, i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, monotonic) = (self.clock.now(), self.clock.monotonic());
        let passed = micros(monotonic.saturating_sub(seen.monotonic));
        let jump = wall.as_micros().saturating_sub(seen.wall.as_micros()).saturating_sub(passed);
        if jump.unsigned_abs() > micros(JUMP).unsigned_abs() {
            seen.skew = seen.skew.saturating_add(jump);
            seen.untold = seen.untold.saturating_add(jump);
        }
        let since = monotonic.saturating_sub(seen.slewed);
        if since >= STEP {
            let most = micros(since) / SLEW;
            seen.skew -= seen.skew.clamp(-most, most);
            seen.slewed = monotonic;
        }
        (seen.wall, seen.monotonic) = (wall, monotonic);
        (Timestamp::from_micros(wall.as_micros().saturating_sub(seen.skew)), seen.skew)
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.look().0
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::ManualClock;

    const START: Timestamp = Timestamp::from_micros(1_763_740_000_000_000);
    const HOUR: i64 = 3_600_000_000;

    fn jump(clock: &ManualClock, by: i64) {
        clock.jump(Timestamp::from_micros(clock.now().as_micros() + by));
    }

    #[test]
    fn a_jump_changes_nothing_but_the_skew_and_one_back_undoes_it() {
        for hour in [HOUR, -HOUR] {
            let clock = Arc::new(ManualClock::at(START));
            let steady = SteadyClock::new(clock.clone(), 0);
            clock.advance(Duration::from_secs(30));
            assert_eq!(
                (steady.now(), steady.take_jump()),
                (clock.now(), None),
                "time that passes is no jump"
            );
            let before = steady.now();
            jump(&clock, hour);
            assert_eq!((steady.now(), steady.wall()), (before, clock.now()));
            assert_eq!((steady.skew(), steady.take_jump(), steady.take_jump()), (hour, Some(hour), None));
            jump(&clock, -hour);
            assert_eq!((steady.now(), steady.skew()), (before, 0));
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_followed() {
        let clock = Arc::new(ManualClock::at(START));
        let steady = SteadyClock::new(clock.clone(), 0);
        for _ in 0..100 {
            clock.advance(Duration::from_secs(1));
            jump(&clock, 500);
            assert_eq!(steady.now(), clock.now());
        }
    }

    #[test]
    fn steady_time_catches_up_by_a_twentieth_and_no_faster() {
        for skew in [HOUR, -HOUR] {
            let clock = Arc::new(ManualClock::at(START));
            let steady = SteadyClock::new(clock.clone(), skew);
            clock.advance(Duration::from_mins(100));
            assert_eq!(steady.skew().abs(), HOUR - HOUR / 12);
            clock.advance(Duration::from_hours(19));
            assert_eq!((steady.skew(), steady.now()), (0, clock.now()));
        }
    }

    proptest! {
        /// Whatever the wall clock does, steady time never goes back by more than a drift, and keeps pace with time.
        #[test]
        fn steady_time_keeps_pace(steps in proptest::collection::vec((0u64..100_000, -20i64..20), 1..200)) {
            let clock = Arc::new(ManualClock::at(START));
            let steady = SteadyClock::new(clock.clone(), 0);
            let mut before = steady.now();
            for (ms, hours) in steps {
                clock.advance(Duration::from_millis(ms));
                jump(&clock, hours * HOUR);
                let now = steady.now();
                let (passed, ms) = (now.as_micros() - before.as_micros(), i64::try_from(ms).unwrap());
                // What it did not catch up by before it may catch up by now.
                prop_assert!((passed - ms * 1_000).abs() <= (ms + 1_000) * 1_000 / SLEW, "{passed} in {ms} ms");
                before = now;
            }
        }
    }
}
