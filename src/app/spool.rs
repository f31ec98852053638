//! What is done to the queue's file while the daemon does not run.

use std::io::{BufRead, Write};

use super::foundation::queue_options;
pub use crate::queue::{Exported, Imported, Verified};
use crate::{config::Config, queue::OfflineQueue};

/// Looks the queue's file over.
pub async fn verify_queue(config: &Config) -> anyhow::Result<Verified> {
    let queue = OfflineQueue::read(&config.node.state_dir, &queue_options(config, false)).await?;
    Ok(queue.verify().await?)
}

/// Writes everything that the queue holds.
pub async fn export_queue(config: &Config, out: impl Write) -> anyhow::Result<Exported> {
    let queue = OfflineQueue::read(&config.node.state_dir, &queue_options(config, false)).await?;
    Ok(queue.export(out).await?)
}

/// Takes over what an export holds; all of it or nothing.
pub async fn import_queue(config: &Config, from: impl BufRead) -> anyhow::Result<Imported> {
    let options = queue_options(config, config.relations.migrate_at_start);
    let queue = OfflineQueue::write(&config.node.state_dir, &options).await?;
    Ok(queue.import(from).await?)
}
