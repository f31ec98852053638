//! `[dispatch]`: how much runs at once, and how it ends.

use serde::Deserialize;

/// The bounds of dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DispatchConfig {
    /// Most calls of one function at once, whatever its bindings ask for by `concurrency`.
    pub max_concurrency: u32,
    /// How long running attempts may go on when the daemon is stopped, in seconds. Those that are cut off cost no
    /// attempt. Keep it below the unit's `TimeoutStopSec`.
    pub drain_s: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self { max_concurrency: 512, drain_s: 20 }
    }
}
