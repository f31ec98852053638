//! `[queue]`: what this daemon may keep on its own disk.

use serde::Deserialize;

/// The bounds of `queue.db`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Bytes that the file may take. Beyond it nothing more is taken in; a part of it is kept for dead letters.
    pub max_bytes: u64,
    /// The part of it that one function may fill; beyond it its new deliveries become dead letters (*overflow*).
    pub function_share: f64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { max_bytes: 4 << 30, function_share: 0.25 }
    }
}
