//! Composition root: the only place that knows the concrete parts.

use crate::{check::Probe, config::Config};

/// Runs the daemon until it is told to stop.
#[expect(clippy::unused_async, reason = "assembling the parts awaits them")]
pub async fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the parts of the daemon are not assembled in this build")
}

/// Brings the schemas of relations and queue up to date.
#[expect(clippy::unused_async, reason = "assembling the parts awaits them")]
pub async fn migrate(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the parts of the daemon are not assembled in this build")
}

/// The probes of `triggerd check` for parts that are spoken to by drivers of ours.
pub fn probes(_config: &Config) -> Vec<Box<dyn Probe>> {
    Vec::new()
}
