//! When each binding is looked at next. Pure values; in memory only, since after a restart everything is due.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    binding::{Binding, State},
    ids::BindingId,
};

/// Bounds of the wait after a failure; doubled from the first to the last.
const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Bounds of the wait while something else must happen first.
const WAITING: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How a binding was left by the last look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// In step, or rejected.
    Settled,
    /// Nothing is wrong, and something is still to come.
    Waiting,
    /// A step failed.
    Failed,
    /// It fell again and again, and is mended at this (monotonic) time.
    Resting(Duration),
    /// It changed while it was looked at.
    Changed,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Duration,
    tries: u32,
    left: Left,
    /// The state it was left in: another one is another matter, with tries of its own.
    state: State,
    revision: u64,
}

/// The times of all bindings; monotonic.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeMap<BindingId, Entry>);

impl Schedule {
    /// Whether the binding is due: by its time, because it is new here, or because it was changed by somebody else.
    pub(super) fn is_due(&self, binding: &Binding, now: Duration) -> bool {
        self.0.get(&binding.id).is_none_or(|entry| entry.due <= now || entry.revision != binding.revision)
    }

    /// Notes how it was left and decides when it is due again; `revision` as the next look will find it.
    pub(super) fn note(&mut self, binding: &Binding, left: Left, now: Duration, pace: Pace) {
        let before =
            self.0.get(&binding.id).filter(|entry| entry.left == left && entry.state == binding.state);
        let tries = before.map_or(0, |entry| entry.tries.saturating_add(1));
        let wait = match left {
            Left::Changed => Duration::ZERO,
            Left::Waiting => doubled(WAITING, tries, pace.entropy),
            Left::Failed => doubled(FAILED, tries, pace.entropy),
            Left::Resting(until) => until.saturating_sub(now),
            Left::Settled => around(pace.inspect_every, pace.entropy),
        };
        let entry = Entry {
            due: now.saturating_add(wait),
            tries,
            left,
            state: binding.state,
            revision: binding.revision,
        };
        self.0.insert(binding.id, entry);
    }

    /// Notes that a look at the binding is under way: it is not due until [`Self::note`] says how it was left.
    pub(super) fn set_aside(&mut self, id: BindingId) {
        if let Some(entry) = self.0.get_mut(&id) {
            entry.due = Duration::MAX;
        }
    }

    /// Forgets what is not among these.
    pub(super) fn keep(&mut self, bindings: &[Binding]) {
        if self.0.len() > bindings.len() {
            let known: std::collections::BTreeSet<_> = bindings.iter().map(|binding| binding.id).collect();
            self.0.retain(|id, _| known.contains(id));
        }
    }

    /// How long until something is due, at most `longest`.
    pub(super) fn wait(&self, now: Duration, longest: Duration) -> Duration {
        let earliest = self.0.values().map(|entry| entry.due.saturating_sub(now)).min();
        earliest.unwrap_or(longest).min(longest)
    }
}

/// What else decides a wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) inspect_every: Duration,
    pub(super) entropy: u64,
}

/// Exponential between the bounds, the upper half of it at random.
pub(super) fn doubled((first, last): (Duration, Duration), tries: u32, entropy: u64) -> Duration {
    let bound = first.saturating_mul(1 << tries.min(16)).min(last);
    bound / 2 + part(bound / 2, entropy)
}

/// Give or take a fifth.
pub(super) fn around(middle: Duration, entropy: u64) -> Duration {
    middle * 4 / 5 + part(middle * 2 / 5, entropy)
}

fn part(whole: Duration, entropy: u64) -> Duration {
    let micros = (u128::from(entropy) * whole.as_micros()) >> 64;
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_each_time_up_to_a_minute() {
        let longest = |tries| doubled(FAILED, tries, u64::MAX).as_millis().div_ceil(1_000);
        assert_eq!([0, 1, 2, 5, 6, 40].map(longest), [1, 2, 4, 32, 60, 60]);
        assert_eq!(doubled(FAILED, 0, 0), Duration::from_millis(500));
    }

    #[test]
    fn inspections_are_spread_around_their_interval() {
        let every = Duration::from_secs(100);
        assert_eq!(around(every, 0), Duration::from_secs(80));
        assert_eq!(around(every, u64::MAX).as_secs(), 119);
    }
}
