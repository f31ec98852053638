//! Daemons that say that they live, and the lock of a bucket.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{World, conformance};
use crate::harness::{suite::Test, wait::eventually};

pub(crate) fn tests() -> Vec<Test> {
    conformance! {
        heartbeats_tell_revision_address_and_silence;
        a_forgotten_node_is_gone_until_it_speaks_again;
        a_bucket_has_one_lock_at_a_time;
    }
}

async fn heartbeats_tell_revision_address_and_silence(world: World) -> Result<()> {
    let relations = world.open().await?;
    ensure!(relations.nodes().await?.is_empty());
    let head = relations.head().await?;
    relations.heartbeat("n2", 7, Some("http://127.0.0.1:1/")).await?;
    relations.heartbeat("n1", 6, None).await?;
    let nodes = relations.nodes().await?;
    let told: Vec<_> =
        nodes.iter().map(|node| (node.name.as_str(), node.revision, node.admin_url.as_deref())).collect();
    ensure!(told == [("n1", 6, None), ("n2", 7, Some("http://127.0.0.1:1/"))], "{told:?}");
    ensure!(nodes.iter().all(|node| node.silent_for < Duration::from_secs(30)), "{nodes:?}");
    world.execute("UPDATE node SET seen_at = seen_at - 60000000 WHERE name = 'n1'").await?;
    let silent = relations.nodes().await?[0].silent_for;
    ensure!((60..90).contains(&silent.as_secs()), "{silent:?}");
    // A database clock that was set back since.
    world.execute("UPDATE node SET seen_at = seen_at + 3600000000 WHERE name = 'n1'").await?;
    ensure!(relations.nodes().await?[0].silent_for == Duration::ZERO);
    relations.heartbeat("n1", 8, Some("http://n1/")).await?;
    let n1 = relations.nodes().await?.remove(0);
    ensure!(n1.revision == 8 && n1.admin_url.as_deref() == Some("http://n1/"), "{n1:?}");
    ensure!(relations.head().await? == head, "a heartbeat made a revision");
    Ok(())
}

async fn a_forgotten_node_is_gone_until_it_speaks_again(world: World) -> Result<()> {
    let relations = world.open().await?;
    relations.heartbeat("n1", 1, None).await?;
    ensure!(relations.forget_node("n1").await?);
    ensure!(!relations.forget_node("n1").await? && relations.nodes().await?.is_empty());
    relations.heartbeat("n1", 2, None).await?;
    ensure!(relations.nodes().await?.len() == 1);
    Ok(())
}

async fn a_bucket_has_one_lock_at_a_time(world: World) -> Result<()> {
    let relations = world.open().await?;
    let held = relations.lock_bucket("default", "photos").await?;
    ensure!(held.is_some());
    ensure!(relations.lock_bucket("default", "photos").await?.is_none(), "the lock was given twice");
    ensure!(relations.lock_bucket("default", "texts").await?.is_some());
    ensure!(relations.lock_bucket("defaultp", "hotos").await?.is_some());
    drop(held);
    // A server sees the connection's end a moment later.
    eventually("the lock is given up", Duration::from_secs(10), async || {
        let again = relations.lock_bucket("default", "photos").await?;
        ensure!(again.is_some());
        Ok(())
    })
    .await
}
