//! `[bindings]`: how closely bindings are watched.

use std::time::Duration;

use serde::Deserialize;

/// The pace of the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingsConfig {
    /// How often a binding that is in step is inspected on its platform and in its bucket, in seconds, give or take a
    /// fifth; 1 to 86,400. So long can damage stay unseen that no failing call gives away.
    pub inspect_every_s: u64,
}

impl BindingsConfig {
    /// The same as a duration.
    pub fn inspect_every(&self) -> Duration {
        Duration::from_secs(self.inspect_every_s)
    }
}

impl Default for BindingsConfig {
    fn default() -> Self {
        Self { inspect_every_s: 300 }
    }
}
