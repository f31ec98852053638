//! What MinIO drops behind a daemon that is frozen: where its memory overflows, that it counts each event that it
//! drops, and that no other is missing.
//!
//! With MinIO's defaults (`sync_events` off) an event waits for a worker in a memory that holds 50,000, for all targets
//! of the node together. A worker hands the event to all targets of its bucket's rules at once, and waits for all of
//! them: writing it to a `queue_dir` takes a moment, sending it to a frozen receiver takes a minute. So with a
//! `queue_dir` alone memory holds only what is made faster than it is written. It does not help events that have a leg
//! without one beside it: they wait in memory, and where that is full they are dropped for both legs.
//!
//! Events are made by deleting objects that are not there, a thousand by one request, so that all of it lies within
//! the minute. Every number is exact: nothing else makes events, nobody repeats a request, and MinIO counts.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::{
    config::retry::RetryConfig,
    types::{Delete, ObjectIdentifier},
};
use serde_json::json;

use super::{
    PATIENCE,
    books::Function,
    faults::Part,
    seed,
    site::{Design, Site, Targets},
    table::Table,
};
use crate::harness::{
    suite::Ctx,
    wait::{eventually, wait_for},
};

const BUCKET: &str = "removed";

/// Events that MinIO holds in memory for its targets.
const MEMORY: usize = 50_000;

/// Events beyond that.
const BEYOND: usize = 1_000;

/// Keys that one request deletes.
const KEYS: usize = 1_000;

pub(super) async fn what_minio_drops_behind_a_frozen_daemon_is_all_that_is_missing(_: Ctx) -> Result<()> {
    let mut table = Table::of_sentences("The limit of MinIO's memory");
    memory_overflows(&mut table).await?;
    a_queue_dir_keeps_everything(&mut table).await?;
    table.end()
}

/// An installation whose function is called for removals from a bucket, by both legs or by the safe one alone.
async fn start(ctx: &Ctx, twin: bool) -> Result<Site> {
    let functions = &[Function::Steady];
    let targets = Targets::Webhooks;
    let design = Design {
        engine: None,
        targets,
        functions,
        twin: true,
        webhooks_fail: false,
        disk_fails: false,
        seed: seed()?,
    };
    let site = Site::start(ctx, design).await?;
    let removals = json!({"events": ["s3:ObjectRemoved:*"], "twin": twin});
    site.bind(BUCKET, Function::Steady, &removals).await?;
    Ok(site)
}

/// Both legs: more than fits is dropped, and counted; everything else arrives.
async fn memory_overflows(table: &mut Table) -> Result<()> {
    let ctx = Ctx::new()?;
    let mut site = start(&ctx, true).await?;
    site.pause(Part::Daemon)?;
    let took = flood(&site).await?;
    wait_for("MinIO says that it dropped something", PATIENCE, async || {
        dropped(&site).await.is_ok_and(|n| n > 0)
    })
    .await?;
    site.resume(Part::Daemon)?;
    // What the fast leg had no room for is brought by the safe one, behind thousands that are known already.
    let left = || site.books.owes() + kept(&site).unwrap_or(0);
    loop {
        let (count, best) = (dropped(&site).await?, left());
        let progress = async || site.books.owes() <= count || left() < best;
        if wait_for("progress", PATIENCE, progress).await.is_err() || site.books.owes() <= count {
            break;
        }
    }
    let (missing, dropped) = (site.books.owes(), dropped(&site).await?);
    table.note(&format!(
        "Twin targets, `sync_events` off: {} events within {:.0} s of a frozen daemon; {missing} never came, MinIO says \
         that it dropped {dropped}.",
        MEMORY + BEYOND,
        took.as_secs_f64(),
    ));
    ensure!(dropped > 0 && missing == dropped, "{missing} are missing, {dropped} were dropped");
    site.world.daemon.stop().await
}

/// The safe leg alone: workers write to the `queue_dir` while events are made, so that memory holds only what is made
/// faster than that. Each event is in the `queue_dir` in the end, or counted as dropped. (That all of it arrives, other
/// tests show; MinIO sends one at a time.)
async fn a_queue_dir_keeps_everything(table: &mut Table) -> Result<()> {
    let ctx = Ctx::new()?;
    let mut site = start(&ctx, false).await?;
    site.pause(Part::Daemon)?;
    let took = flood(&site).await?;
    // The one that is being sent is there, too.
    eventually("every event is in the `queue_dir` or dropped", PATIENCE * 10, async || {
        let (kept, dropped) = (kept(&site)?, dropped(&site).await?);
        ensure!(kept + dropped == MEMORY + BEYOND, "{kept} are there, {dropped} were dropped");
        Ok(())
    })
    .await?;
    let dropped = dropped(&site).await?;
    table.note(&format!(
        "A target with `queue_dir` alone: of {} events within {:.0} s of a frozen daemon {dropped} were dropped, and all \
         others are in it.",
        MEMORY + BEYOND,
        took.as_secs_f64(),
    ));
    site.world.daemon.stop().await
}

/// What the safe target's `queue_dir` holds.
fn kept(site: &Site) -> Result<usize> {
    let entries = fs::read_dir(site.world.minio.queue_dir("TRIGGERD"))?.flatten();
    Ok(entries.map(|entry| fs::read_dir(entry.path()).map_or(0, Iterator::count)).sum())
}

/// Makes [`MEMORY`] and [`BEYOND`] events, and tells how long that took.
async fn flood(site: &Site) -> Result<Duration> {
    // A request that was made twice would make its events twice.
    let config = site.world.minio.s3().config().to_builder().retry_config(RetryConfig::disabled()).build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    let began = Instant::now();
    for first in (0..MEMORY + BEYOND).step_by(KEYS) {
        let keys: Vec<_> = (first..first + KEYS).map(|number| format!("{number:06}")).collect();
        let objects = keys.iter().map(|key| Ok(ObjectIdentifier::builder().key(key).build()?));
        let all = Delete::builder().set_objects(Some(objects.collect::<Result<_>>()?)).build()?;
        let sent = Instant::now();
        let answer = s3.delete_objects().bucket(BUCKET).delete(all).send().await?;
        ensure!(answer.errors().is_empty(), "not deleted: {:?}", answer.errors().first());
        for key in &keys {
            site.books.offered(key, sent);
        }
    }
    Ok(began.elapsed())
}

/// The events that MinIO says it dropped because its memory was full, since it was started.
async fn dropped(site: &Site) -> Result<usize> {
    let url = format!("{}/minio/v2/metrics/cluster", site.world.minio.endpoint());
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    let lines = text.lines().filter(|line| line.starts_with("minio_notify_events_skipped_total"));
    let counts = lines.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let sum = counts.sum::<Result<f64>>()? as usize;
    Ok(sum)
}
