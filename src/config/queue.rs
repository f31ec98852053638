//! `[queue]`: what this daemon may keep on its own disk.

use serde::Deserialize;

/// The bounds of `queue.db`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Bytes that the file may take. Beyond it nothing more is taken in.
    pub max_bytes: u64,
    /// The part of it that one function may fill; beyond it its new deliveries become dead letters (*overflow*).
    pub function_share: f64,
    /// Bytes of it that only dead letters may use.
    pub dead_letter_reserve: u64,
    /// Most attempts that are kept with a delivery; the oldest go.
    pub max_attempts_kept: u32,
    /// Most items kept in quarantine; the oldest go.
    pub quarantine_items: u64,
    /// Most bytes kept in quarantine; the oldest go.
    pub quarantine_bytes: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_bytes: 2 << 30,
            function_share: 0.25,
            dead_letter_reserve: 256 << 20,
            max_attempts_kept: 20,
            quarantine_items: 10_000,
            quarantine_bytes: 64 << 20,
        }
    }
}
