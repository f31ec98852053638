//! Whether ages can be trusted: a jump between wall clock and monotonic clock puts them in doubt for a while.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::clock::{Clock, Timestamp};

/// A difference that is a jump, not a drift between two looks.
const JUMP: Duration = Duration::from_secs(5);

/// For how long ages stay in doubt after a jump.
pub const DOUBT: Duration = Duration::from_mins(1);

/// Watches the two clocks.
#[derive(Debug)]
pub struct JumpGuard {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    wall: Timestamp,
    monotonic: Duration,
    doubt_until: Option<Duration>,
}

impl JumpGuard {
    /// A guard that trusts the clock as it is now.
    pub fn new(clock: &dyn Clock) -> Self {
        let seen = Seen { wall: clock.now(), monotonic: clock.monotonic(), doubt_until: None };
        Self { seen: Mutex::new(seen) }
    }

    /// Looks at the clocks; whether ages are in doubt now. To be asked at least every few seconds.
    pub fn in_doubt(&self, clock: &dyn Clock) -> bool {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = seen.wall.plus(monotonic.saturating_sub(seen.monotonic));
        let jumped = wall.since(expected).max(expected.since(wall));
        if jumped > JUMP {
            tracing::warn!(
                jump_s = jumped.as_secs(),
                "the wall clock jumped; nothing is given up by age for a minute"
            );
            seen.doubt_until = Some(monotonic + DOUBT);
        }
        (seen.wall, seen.monotonic) = (wall, monotonic);
        seen.doubt_until.is_some_and(|until| monotonic < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    #[test]
    fn a_jump_in_either_direction_is_doubted_for_a_minute() {
        for hour in [3_600_000_000, -3_600_000_000] {
            let start = Timestamp::from_micros(10_000_000_000);
            let clock = ManualClock::at(start);
            let guard = JumpGuard::new(&clock);
            clock.advance(Duration::from_secs(30));
            assert!(!guard.in_doubt(&clock), "time that passes is no jump");
            clock.jump(Timestamp::from_micros(start.as_micros() + hour));
            assert!(guard.in_doubt(&clock));
            clock.advance(DOUBT.saturating_sub(Duration::from_secs(1)));
            assert!(guard.in_doubt(&clock));
            clock.advance(Duration::from_secs(1));
            assert!(!guard.in_doubt(&clock));
        }
    }
}
