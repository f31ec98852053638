//! Log lines of what may happen to every event: one now and then for each kind, with how many it stands for.
//!
//! The kinds come from a closed set (an enum, or words of the code), so what is kept is bounded.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// When each kind was told last, and how often it was not told since.
#[derive(Debug)]
pub struct Seldom<K> {
    pause: Duration,
    told: Mutex<HashMap<K, (Duration, u64)>>,
}

impl<K: Eq + Hash> Seldom<K> {
    /// Each kind at most once in so long.
    pub fn once_in(pause: Duration) -> Self {
        Self { pause, told: Mutex::default() }
    }

    /// Whether this kind is to be told at this (monotonic) time: then, how often it was not told since the last time.
    pub fn is_due(&self, kind: K, now: Duration) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, untold)) = told.get_mut(&kind) else {
            told.insert(kind, (now, 0));
            return Some(0);
        };
        if now.saturating_sub(*last) < self.pause {
            *untold += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_in_its_pause_with_what_was_left_out() {
        let seldom = Seldom::once_in(Duration::from_mins(1));
        let second = Duration::from_secs;
        assert_eq!(seldom.is_due("full", second(0)), Some(0));
        assert_eq!(seldom.is_due("full", second(1)), None);
        assert_eq!(seldom.is_due("slow", second(1)), Some(0));
        assert_eq!(seldom.is_due("full", second(59)), None);
        assert_eq!(seldom.is_due("full", second(60)), Some(2));
        assert_eq!(seldom.is_due("full", second(120)), Some(0));
    }
}
