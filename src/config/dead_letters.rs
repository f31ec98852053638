//! `[dead_letters]`: how long what was given up is kept.

use std::time::Duration;

use serde::Deserialize;

/// The retention of dead letters. The queue's bounds in bytes hold beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The age at which a dead letter is dropped, in seconds; 0 keeps them whatever their age. It is announced a day
    /// ahead.
    pub retention_s: u64,
    /// The number beyond which the oldest are dropped; 0 keeps them whatever their number. It is announced from nine
    /// tenths on.
    pub max_count: u64,
    /// How long a letter must have been announced before it is dropped, in seconds; 1 to 86,400. It begins anew when the
    /// daemon starts.
    pub notice_s: u64,
}

impl DeadLettersConfig {
    /// The age, if there is a bound.
    pub fn retention(&self) -> Option<Duration> {
        (self.retention_s > 0).then(|| Duration::from_secs(self.retention_s))
    }

    /// The number, if there is a bound.
    pub fn most(&self) -> Option<u64> {
        (self.max_count > 0).then_some(self.max_count)
    }

    /// The notice as a duration.
    pub fn notice(&self) -> Duration {
        Duration::from_secs(self.notice_s)
    }
}

impl Default for DeadLettersConfig {
    /// 30 days, any number, an hour's notice.
    fn default() -> Self {
        Self { retention_s: 30 * 86_400, max_count: 0, notice_s: 3_600 }
    }
}
