//! The only place of this program that asks what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970 by the host's clock, for signatures and their time window.
#[expect(clippy::disallowed_methods, reason = "this program's one reading of the wall clock")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A point on the clock that never jumps, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "this program's one reading of the steady clock")]
pub(crate) fn steady() -> Instant {
    Instant::now()
}
