//! How often each binding fell to `degraded` soon after it was mended, and how long it rests before it is mended again.
//!
//! A turn of it (degraded: its parked deliveries are held; mended: they are released) costs as many rows as are parked. A
//! platform that forgets its rules would keep every daemon at that for as long as it likes. So the first mend comes at
//! once, and each further one after a rest that doubles; a binding that stays well for [`WELL`] begins anew. While it rests
//! nobody asks its platform for anything; its bucket is looked at and mended all the same, since events are lost otherwise.
//!
//! In memory only: after a restart the next mend comes at once. Each daemon counts for itself what it did and what it saw
//! others do, so that with several of them, each is the first once. Bounded by the bindings there are: what is well again
//! for good, or gone, is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::schedule::doubled;
use crate::domain::{
    binding::{Binding, State},
    clock::{Clock, Timestamp},
    ids::BindingId,
};

/// Bounds of the rest before a binding is mended that fell again; doubled from the first to the last.
const REST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

/// What stays mended for so long did not relapse when it falls.
const WELL: Duration = Duration::from_mins(10);

/// Times are monotonic.
#[derive(Debug, Clone, Copy)]
struct Course {
    /// How often it fell, never well for long in between.
    falls: u32,
    fell_at: Duration,
    /// It is not mended before.
    rests_until: Duration,
    /// Since when it is seen to be mended; none while it is not.
    well_since: Option<Duration>,
}

/// The courses of all bindings that fell lately.
#[derive(Debug, Default)]
pub(super) struct Relapses(Mutex<BTreeMap<BindingId, Course>>);

/// Why and how long a binding rests; to be read by a person behind what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    falls: u32,
    until: Timestamp,
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { falls, until } = self;
        write!(
            f,
            "found damaged {falls} times in a row, each time soon after it was mended, so it rests and is mended at {until} \
             (or now, when it is bound again)"
        )
    }
}

impl Relapses {
    /// Notes that a binding falls, unless that is known; how it rests, if it relapsed.
    pub(super) fn fell(&self, id: BindingId, clock: &dyn Clock, entropy: u64) -> Option<Rest> {
        let now = clock.monotonic();
        let mut courses = self.lock();
        let before = courses.get(&id).copied();
        let course = match before {
            Some(course) if course.well_since.is_none() => course,
            before => {
                let soon = |since: Duration| now.saturating_sub(since) < WELL;
                let lately = before.filter(|course| course.well_since.is_some_and(soon));
                let falls = lately.map_or(1, |course| course.falls.saturating_add(1));
                let rest = falls.checked_sub(2).map_or(Duration::ZERO, |n| doubled(REST, n, entropy));
                let rests_until = now.saturating_add(rest);
                Course { falls, fell_at: now, rests_until, well_since: None }
            }
        };
        courses.insert(id, course);
        let left = course.rests_until.saturating_sub(now);
        (!left.is_zero()).then(|| Rest { falls: course.falls, until: clock.now().plus(left) })
    }

    /// Notes in which state a binding is found; until when it rests (monotonic).
    pub(super) fn saw(
        &self,
        id: BindingId,
        state: State,
        clock: &dyn Clock,
        entropy: u64,
    ) -> Option<Duration> {
        match state {
            State::Degraded => {
                // Perhaps another daemon found it.
                self.fell(id, clock, entropy);
            }
            State::Armed | State::Active => {
                if let Some(course) = self.lock().get_mut(&id) {
                    course.well_since.get_or_insert(clock.monotonic());
                }
            }
            State::Pending | State::Rejected | State::Paused | State::Unbinding => (),
        }
        self.rests(id, state, clock.monotonic())
    }

    /// Until when a degraded binding rests (monotonic), if it does.
    pub(super) fn rests(&self, id: BindingId, state: State, now: Duration) -> Option<Duration> {
        let until = self.lock().get(&id)?.rests_until;
        (state == State::Degraded && now < until).then_some(until)
    }

    /// Somebody wants it mended now. A platform may ask for that, too; so not sooner than after the shortest rest.
    pub(super) fn hasten(&self, id: BindingId) {
        if let Some(course) = self.lock().get_mut(&id) {
            course.rests_until = course.rests_until.min(course.fell_at.saturating_add(REST.0));
        }
    }

    /// Forgets what is not among these, or well for long.
    pub(super) fn keep(&self, bindings: &[Binding], now: Duration) {
        let mut courses = self.lock();
        if courses.is_empty() {
            return;
        }
        let known: BTreeSet<_> = bindings.iter().map(|binding| binding.id).collect();
        let recovered =
            |course: &Course| course.well_since.is_some_and(|since| now.saturating_sub(since) >= WELL);
        courses.retain(|id, course| known.contains(id) && !recovered(course));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BindingId, Course>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    const ID: BindingId = BindingId::from_bytes([1; 16]);

    fn clock() -> ManualClock {
        ManualClock::at(Timestamp::from_micros(1_763_740_000_000_000))
    }

    /// It falls, and is mended when it has rested; how long that was.
    fn turn(relapses: &Relapses, clock: &ManualClock) -> Duration {
        relapses.fell(ID, clock, u64::MAX);
        let now = clock.monotonic();
        let rest = relapses
            .saw(ID, State::Degraded, clock, 0)
            .map_or(Duration::ZERO, |until| until.saturating_sub(now));
        clock.advance(rest);
        assert_eq!(relapses.rests(ID, State::Degraded, clock.monotonic()), None);
        assert_eq!(relapses.saw(ID, State::Armed, clock, 0), None);
        clock.advance(Duration::from_secs(1));
        rest
    }

    #[test]
    fn the_first_mend_is_at_once_and_each_rest_after_it_is_longer_up_to_five_minutes() {
        let (relapses, clock) = (Relapses::default(), clock());
        let rests: Vec<_> = (0..12).map(|_| turn(&relapses, &clock).as_millis().div_ceil(1_000)).collect();
        assert_eq!(rests, [0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn what_stayed_well_for_long_begins_anew_and_is_forgotten() {
        let (relapses, clock) = (Relapses::default(), clock());
        for _ in 0..4 {
            turn(&relapses, &clock);
        }
        clock.advance(WELL);
        assert_eq!(turn(&relapses, &clock), Duration::ZERO);
        assert!(!turn(&relapses, &clock).is_zero());
        relapses.keep(&[], clock.monotonic());
        assert!(relapses.lock().is_empty());
    }

    #[test]
    fn a_fall_that_is_known_counts_once_and_tells_until_when_it_rests() {
        let (relapses, clock) = (Relapses::default(), clock());
        turn(&relapses, &clock);
        let rest = relapses.fell(ID, &clock, u64::MAX).unwrap();
        assert_eq!((rest.falls, rest.until.since(clock.now()).as_millis().div_ceil(1_000)), (2, 2));
        assert_eq!(relapses.fell(ID, &clock, 0), Some(rest));
        assert!(rest.to_string().contains("2 times in a row"), "{rest}");
    }

    #[test]
    fn whoever_wants_it_mended_now_waits_for_the_shortest_rest_at_most() {
        let (relapses, clock) = (Relapses::default(), clock());
        for _ in 0..8 {
            turn(&relapses, &clock);
        }
        relapses.fell(ID, &clock, 0);
        relapses.hasten(ID);
        assert_eq!(relapses.rests(ID, State::Degraded, clock.monotonic()), Some(clock.monotonic() + REST.0));
        clock.advance(REST.0);
        assert_eq!(relapses.rests(ID, State::Degraded, clock.monotonic()), None);
        assert!(turn(&relapses, &clock).is_zero(), "it is in the same turn");
        assert!(turn(&relapses, &clock) > Duration::from_mins(2), "asking does not begin anew");
    }
}
