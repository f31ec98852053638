//! How many happen in a second: counted by seconds over the last minute. Pure.

use std::time::Duration;

/// Seconds that are looked back on.
const SECONDS: usize = 60;

/// A count per second.
#[derive(Debug, Clone)]
pub struct Meter {
    counts: [u32; SECONDS],
    /// The second that was counted last.
    last: u64,
    /// The second from which on it counts.
    first: Option<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { counts: [0; SECONDS], last: 0, first: None }
    }
}

impl Meter {
    /// One more.
    pub fn add(&mut self, now: Duration) {
        self.turn(now);
        if let Some(count) = self.counts.get_mut(slot(now.as_secs())) {
            *count = count.saturating_add(1);
        }
    }

    /// How many in a second, over the last minute or for as long as it counts.
    pub fn per_second(&mut self, now: Duration) -> f64 {
        self.turn(now);
        let Some(first) = self.first else { return 0.0 };
        let seconds = (now.as_secs() - first + 1).min(SECONDS as u64);
        let total: u32 = self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        f64::from(total) / f64::from(u32::try_from(seconds).unwrap_or(1))
    }

    /// Forgets the seconds that have passed since the last look.
    fn turn(&mut self, now: Duration) {
        let now = now.as_secs();
        self.first.get_or_insert(now);
        for second in (self.last + 1).max(now.saturating_sub(SECONDS as u64 - 1))..=now {
            if let Some(count) = self.counts.get_mut(slot(second)) {
                *count = 0;
            }
        }
        self.last = self.last.max(now);
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % SECONDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_of_the_last_minute_only() {
        let mut meter = Meter::default();
        let at = Duration::from_secs;
        assert!(meter.per_second(at(1_000)).abs() < 1e-9);
        for second in 1_000..1_010 {
            (0..30).for_each(|_| meter.add(at(second)));
        }
        assert!((meter.per_second(at(1_009)) - 30.0).abs() < 1e-9, "for as long as it counts");
        assert!((meter.per_second(at(1_019)) - 15.0).abs() < 1e-9);
        assert!((meter.per_second(at(1_064)) - 2.5).abs() < 1e-9, "half of it is forgotten");
        assert!(meter.per_second(at(9_000)).abs() < 1e-9);
    }
}
