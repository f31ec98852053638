//! What is done to the queue's file while the daemon does not run.

use std::io::{BufRead, Write};

use anyhow::Context;
use serde::Serialize;

use super::foundation::{open_local, queue_options};
pub use crate::queue::{Exported, Imported, Verified};
use crate::{
    config::Config,
    domain::ids::BindingId,
    queue::{OfflineQueue, lock_state_dir},
    relations::Relations,
};

/// What was imported, and whether this host can do something with it.
#[derive(Debug, Serialize)]
pub struct Moved {
    /// What was read.
    #[serde(flatten)]
    pub imported: Imported,
    /// Bindings that have deliveries parked here and are not known here. Only where bindings are kept in a file of this host:
    /// a shared database knows those of every host.
    pub unknown_bindings: Vec<Unknown>,
    /// Why nobody can tell which are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bindings_unread: Option<String>,
}

/// A binding that is not known here.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Unknown {
    /// Which.
    pub binding: BindingId,
    /// Its deliveries.
    pub parked: u64,
}

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
pub async fn import_queue(config: &Config, from: impl BufRead) -> anyhow::Result<Moved> {
    let options = queue_options(config, config.relations.migrate_at_start);
    let queue = OfflineQueue::write(&config.node.state_dir, &options).await?;
    let imported = queue.import(from).await?;
    let (unknown_bindings, bindings_unread) = match unknown(config, &imported.parked).await {
        Ok(unknown) => (unknown, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Ok(Moved { imported, unknown_bindings, bindings_unread })
}

async fn unknown(config: &Config, parked: &[(BindingId, u64)]) -> anyhow::Result<Vec<Unknown>> {
    let mut unknown: Vec<_> = parked.iter().map(|&(binding, parked)| Unknown { binding, parked }).collect();
    let state_dir = &config.node.state_dir;
    if config.relations.url.is_some() {
        unknown.clear();
    } else if !unknown.is_empty() && state_dir.join("relations.db").exists() {
        let _lock = lock_state_dir(state_dir)?;
        let relations = open_local(state_dir, false, config.relations.migrate_at_start).await?;
        let mut stranger = Vec::new();
        for one in unknown {
            if relations.binding(one.binding).await.context("relations.db")?.is_none() {
                stranger.push(one);
            }
        }
        relations.close().await;
        unknown = stranger;
    }
    Ok(unknown)
}
