//! Two targets of one bucket: a fast one that loses what it cannot hand over, and a safe one that comes later.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    disk_faults::RECORDING,
    world::{Plan, SOON, WEBHOOK_TOKEN, Way, World, ids_by_key, noting},
};
use crate::harness::{
    ports::free_port,
    suite::Ctx,
    wait::{eventually, wait_for},
};

const OBJECTS: usize = 300;

/// Events whose second copies come when they are delivered.
const COPIES: u32 = 200;

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

/// The first copies come by the fast leg, the second ones by the safe one, each answered before the next is sent: so a
/// transaction for each of them would be as many. Some come when their function has answered, and some while it works.
pub(crate) async fn a_second_copy_is_acknowledged_without_a_write(ctx: Ctx) -> Result<()> {
    let fast_port = free_port()?;
    let until_free = "while test -e \"$FOLDER/hold\"; do sleep 0.05; done";
    let plan = Plan { way: Way::Twin { fast_port }, ..Plan::webhook(&noting("thumb", until_free)) };
    let mut world = World::start(&ctx, &plan).await?;
    world.bind("photos", "thumb", &json!({"concurrency": 8, "twin": true})).await?;
    let (fast, safe) = (format!("http://127.0.0.1:{fast_port}/minio"), world.source.clone());
    let metric = async |name, labels: &[&str]| world.daemon.metric(name, labels).await;

    notify(&fast, 0..COPIES).await?;
    eventually("all are delivered", SOON, async || {
        let delivered = metric("triggerd_delivery_seconds_count", &[]).await?;
        ensure!(delivered >= f64::from(COPIES), "{delivered}");
        Ok(())
    })
    .await?;
    // A call that is under way, and one that waits for its turn.
    fs::write(world.platform.file("hold"), "")?;
    notify(&fast, COPIES..COPIES + 40).await?;
    let before = world.platform.wait_for_calls("thumb", usize::try_from(COPIES)? + 8).await?.len();

    let commits = metric("triggerd_queue_commits_total", &[]).await?;
    ensure!(commits >= 1.0, "nothing was written of the first copies, whose function is slow");
    notify(&safe, 0..COPIES + 40).await?;
    let more = metric("triggerd_queue_commits_total", &[]).await? - commits;
    let repeats = metric("triggerd_event_repeats_total", &["source=\"main\""]).await?;
    ensure!((repeats - f64::from(COPIES + 40)).abs() < 0.5, "{repeats} second copies");
    // The daemon's probe of its disk writes, too, once in a few seconds.
    ensure!(more < 20.0, "{more} transactions for {repeats} second copies");
    ensure!(world.platform.calls("thumb")?.len() == before, "a second copy fired");

    fs::remove_file(world.platform.file("hold"))?;
    let all = usize::try_from(COPIES + 40)?;
    world.platform.wait_for_calls("thumb", all).await?;
    world.daemon.stop().await?;
    let calls = world.platform.calls("thumb")?;
    ensure!(calls.len() == all && ids_by_key(&calls)?.len() == all, "{} calls", calls.len());
    Ok(())
}

/// Sends notifications of these numbers, one after the other, as MinIO does.
async fn notify(source: &str, numbers: Range<u32>) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(SOON).build()?;
    for number in numbers {
        let key = format!("in/{number}.jpg");
        let mut body: Value = serde_json::from_str(RECORDING)?;
        body["Key"] = format!("photos/{key}").into();
        body["Records"][0]["s3"]["bucket"]["name"] = "photos".into();
        body["Records"][0]["s3"]["object"]["key"] = key.into();
        let request = http.post(source).bearer_auth(WEBHOOK_TOKEN).body(body.to_string());
        request.send().await?.error_for_status()?;
    }
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
