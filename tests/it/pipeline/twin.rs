//! Two targets of one bucket: a fast one that loses what it cannot hand over, and a safe one that comes later.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use reqwest::Method;
use serde_json::json;

use super::world::{Plan, SOON, Way, World, ids_by_key, noting};
use crate::harness::{
    ports::free_port,
    suite::Ctx,
    wait::{eventually, wait_for},
};

const OBJECTS: usize = 300;

/// Uploads that are made while the daemon is away.
const AWAY: usize = 200;

pub(crate) async fn each_object_fires_once_though_two_targets_bring_it(ctx: Ctx) -> Result<()> {
    let mut world = start(&ctx).await?;
    for number in 0..OBJECTS {
        world.minio.put_object("photos", &key(number), "x", &[]).await?;
    }
    world.platform.wait_for_calls("thumb", OBJECTS).await?;
    // Both legs have brought everything: as many repeats as objects, and nothing left in the safe one's queue.
    eventually("each event came twice", SOON, async || {
        let (_, text) = world.daemon.call(Method::GET, "/metrics", None).await?;
        let text = text.as_str().context("no text")?;
        let repeats = count(text, "triggerd_event_repeats_total");
        ensure!(repeats >= OBJECTS, "{repeats} repeats");
        Ok(())
    })
    .await?;
    wait_until_handed_over(&world).await?;
    // First and second copies are told apart for each target, by the source that it sends to.
    let copies = async |name, source| world.daemon.metric(name, &[&format!("source=\"{source}\"")]).await;
    for source in ["fast", "main"] {
        let first = copies("triggerd_events_total", source).await?;
        let second = copies("triggerd_event_repeats_total", source).await?;
        ensure!(
            first + second >= f64::from(u32::try_from(OBJECTS)?),
            "{source}: {first} first and {second} second copies"
        );
        ensure!(source != "fast" || first > second, "the fast leg was first {first} times of {OBJECTS}");
    }
    world.daemon.stop().await?;
    let calls = world.platform.calls("thumb")?;
    ensure!(calls.len() == OBJECTS, "{} calls for {OBJECTS} objects", calls.len());
    ensure!(ids_by_key(&calls)?.len() == OBJECTS);
    Ok(())
}

pub(crate) async fn a_binding_gets_both_legs_when_it_asks_for_them(ctx: Ctx) -> Result<()> {
    let mut world = start(&ctx).await?;
    world.bind("papers", "thumb", &json!({})).await?;
    let targets = async |bucket: &str| -> Result<BTreeSet<String>> {
        let rules = world.minio.get_notification_configuration(bucket).await?;
        Ok(rules.queue_configurations().iter().map(|rule| rule.queue_arn().to_owned()).collect())
    };
    let (safe, fast) = (world.minio.webhook_arn("TRIGGERD"), world.minio.webhook_arn("FAST"));
    ensure!(targets("papers").await? == BTreeSet::from([safe.clone()]));
    ensure!(targets("photos").await? == BTreeSet::from([safe, fast]));
    world.minio.put_object("papers", "in/1.pdf", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.stop().await
}

pub(crate) async fn twin_targets_lose_nothing_while_the_daemon_is_away(ctx: Ctx) -> Result<()> {
    let mut world = start(&ctx).await?;
    let (done, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let uploads = {
        let (s3, done, over) = (world.minio.s3().clone(), Arc::clone(&done), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let key = key(done.load(Ordering::SeqCst));
                let request = s3.put_object().bucket("photos").key(key).body(ByteStream::from_static(b"x"));
                request.send().await?;
                done.fetch_add(1, Ordering::SeqCst);
            }
            anyhow::Ok(())
        })
    };
    let until = async |uploads: usize| {
        wait_for("enough uploads", SOON, async || done.load(Ordering::SeqCst) >= uploads).await
    };
    until(AWAY).await?;
    world.daemon.kill9().await?;
    until(done.load(Ordering::SeqCst) + AWAY).await?;
    world.daemon.start_again().await?;
    until(done.load(Ordering::SeqCst) + AWAY).await?;
    over.store(true, Ordering::SeqCst);
    uploads.await??;

    let expected: BTreeSet<String> = (0..done.load(Ordering::SeqCst)).map(key).collect();
    eventually("every object's function ran", SOON * 3, async || {
        let calls = world.platform.calls("thumb")?;
        let called: BTreeSet<String> = calls.into_iter().map(|call| call.key).collect();
        let missing: Vec<_> = expected.difference(&called).collect();
        ensure!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), expected.len());
        Ok(())
    })
    .await?;
    wait_until_handed_over(&world).await?;
    world.daemon.stop().await?;
    ids_by_key(&world.platform.calls("thumb")?)?;
    Ok(())
}

async fn start(ctx: &Ctx) -> Result<World> {
    let way = Way::Twin { fast_port: free_port()? };
    let world = World::start(ctx, &Plan { way, ..Plan::webhook(&noting("thumb", "")) }).await?;
    world.bind("photos", "thumb", &json!({"concurrency": 8, "twin": true})).await?;
    Ok(world)
}

fn key(number: usize) -> String {
    format!("in/{number:05}.jpg")
}

/// Waits until MinIO keeps nothing for the safe target any more.
async fn wait_until_handed_over(world: &World) -> Result<()> {
    let folder = world.minio.queue_dir("TRIGGERD");
    eventually("the safe target's queue is empty", SOON * 2, async || {
        let entries = fs::read_dir(&folder)?.flatten();
        let left: usize = entries.map(|entry| fs::read_dir(entry.path()).map_or(1, Iterator::count)).sum();
        ensure!(left == 0, "{left} notifications are left in {}", folder.display());
        Ok(())
    })
    .await
}

/// The sum of a counter over its labels.
pub(super) fn count(metrics: &str, name: &str) -> usize {
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
