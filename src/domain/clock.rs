//! Time as a value: microseconds since the Unix epoch, and a clock that is passed in.
//!
//! No other module may ask the system what time it is (a lint holds it), so tests and simulations set the time.

use std::{
    fmt,
    str::FromStr,
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment: microseconds since 1970-01-01T00:00:00Z. Shown as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch, as databases keep it.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment and `duration` later; stops at the end of representable time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How much later than `earlier` this is; zero when it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is beyond a calendar (a damaged row says so) is shown as its edge: one row's time fails no whole list.
        let edge = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        write!(f, "{:.6}", jiff::Timestamp::from_microsecond(self.0).unwrap_or(edge))
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|time| Self(time.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The moment by which everything is stamped, waits and ages. In the daemon it does not jump (`steady`).
    fn now(&self) -> Timestamp;

    /// The wall clock, to be compared with the clocks of others. It may jump.
    fn wall(&self) -> Timestamp {
        self.now()
    }

    /// Time since some fixed moment of this process. It never jumps.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[expect(clippy::disallowed_methods, reason = "the one place where the system's clock is read")]
    #[expect(clippy::new_without_default, reason = "making one reads the clock, which a default should not")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the system's clock is read")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        Instant::now().duration_since(self.start)
    }
}

/// A clock that stands still until it is moved; for tests.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, Duration::ZERO)) }
    }

    /// Lets `duration` pass, on both clocks.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.lock();
        state.0 = state.0.plus(duration);
        state.1 += duration;
    }

    /// Sets the wall clock alone, as an administrator or NTP would.
    pub fn jump(&self, now: Timestamp) {
        self.lock().0 = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, Duration)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_reads_what_it_shows() {
        let time = Timestamp::from_micros(1_763_740_000_123_456);
        assert_eq!(time.to_string(), "2025-11-21T15:46:40.123456Z");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn time_beyond_the_calendar_is_shown_as_its_edge() {
        for (micros, edge) in [(i64::MAX, "9999-12-30T"), (i64::MIN, "-009999-01-02T")] {
            let text = Timestamp::from_micros(micros).to_string();
            assert!(text.starts_with(edge), "{text}");
            text.parse::<Timestamp>().unwrap();
        }
    }

    #[test]
    fn time_between_is_never_negative() {
        let early = Timestamp::from_micros(5);
        let late = early.plus(Duration::from_micros(7));
        assert_eq!(late.since(early), Duration::from_micros(7));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn manual_clock_jumps_without_monotonic_time_passing() {
        let clock = ManualClock::at(Timestamp::from_micros(0));
        clock.advance(Duration::from_secs(1));
        clock.jump(Timestamp::from_micros(3_600_000_000));
        assert_eq!(clock.monotonic(), Duration::from_secs(1));
        assert_eq!(clock.now().as_seconds(), 3_600);
    }
}
