//! A disk that is full, read-only, failing or slow: nothing is acknowledged that is not safe, functions that are well go
//! on, everything is delivered once the disk is well, and operators are told what to do.

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use reqwest::StatusCode;

use super::{
    disk_faults::{PATIENCE, Spool, keys},
    world::Way,
};
use crate::harness::{
    mosquitto::{Mosquitto, MosquittoOptions},
    suite::{Ctx, Test, tests},
    wait::{eventually, wait_for},
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_full_disk_holds_back_what_must_be_parked_and_nothing_else within 240;
        [Minio] a_read_only_disk_holds_back_what_must_be_parked_and_nothing_else within 240;
        [Minio] a_disk_that_fails_for_a_while_loses_nothing within 240;
        [Minio] an_fsync_that_fails_for_a_while_loses_nothing within 240;
        [Minio, Mosquitto] a_full_disk_leaves_what_comes_by_mqtt_at_the_broker within 240;
        [Minio] an_fsync_of_seconds_parks_in_groups_and_what_was_answered_survives_a_kill within 240;
        [Minio] what_no_sender_repeats_is_fired_though_it_cannot_be_parked within 240;
    }
}

/// What is seen while the disk has this fault, and after it.
async fn is_borne(ctx: &Ctx, fault: &str, words: &str) -> Result<()> {
    let mut spool = Spool::by_webhook(ctx).await?;
    let (before, during, uploaded) = (keys("before", 3), keys("during", 3), keys("uploaded", 3));
    for key in &before {
        ensure!(spool.notify("docs", key).await? == StatusCode::OK, "not taken while the disk is well");
    }

    spool.disk.set(fault)?;
    for key in &during {
        let status = spool.notify("docs", key).await?;
        ensure!(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "{key} cannot be parked, and is answered {status}"
        );
    }
    for key in &uploaded {
        spool.upload("docs", key).await?;
    }
    spool.wait_until_told(words).await?;
    // More of them than tell a function's pace, so that it is known to be too slow to wait for.
    for key in keys("healthy", 8) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    for key in &during {
        let status = spool.notify("docs", key).await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{key}, sent again, is answered {status}");
    }
    let log = spool.world.daemon.log()?;
    ensure!(log.contains(words), "the log does not say `{words}`");
    let failures = spool.world.daemon.metric("triggerd_queue_failures_total", &[]).await?;
    ensure!(failures >= 6.0, "{failures} failures are counted");

    spool.disk.heal()?;
    spool.mend()?;
    spool.wait_until_well().await?;
    for key in &during {
        spool.insist("docs", key).await?;
    }
    spool.wait_until_done(&[before, during, uploaded].concat()).await?;
    let told = spool.world.daemon.log()?.matches("can be written again").count();
    ensure!(told == 1, "it is told {told} times that the disk is well again");
    spool.world.daemon.stop().await
}

pub(crate) async fn a_full_disk_holds_back_what_must_be_parked_and_nothing_else(ctx: Ctx) -> Result<()> {
    is_borne(&ctx, "all 28 0", "make room").await
}

pub(crate) async fn a_read_only_disk_holds_back_what_must_be_parked_and_nothing_else(ctx: Ctx) -> Result<()> {
    is_borne(&ctx, "all 30 0", "mount").await
}

pub(crate) async fn a_disk_that_fails_for_a_while_loses_nothing(ctx: Ctx) -> Result<()> {
    is_borne(&ctx, "all 5 0", "the kernel's log").await
}

pub(crate) async fn an_fsync_that_fails_for_a_while_loses_nothing(ctx: Ctx) -> Result<()> {
    is_borne(&ctx, "sync 5 0", "the kernel's log").await
}

pub(crate) async fn a_full_disk_leaves_what_comes_by_mqtt_at_the_broker(ctx: Ctx) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let broker = mosquitto.broker().replace("tcp://", "mqtt://");
    let mut spool = Spool::start(&ctx, Way::Mqtt { broker, version: "5" }, "").await?;
    spool.disk.set("all 28 0")?;
    let (docs, photos) = (keys("docs", 5), keys("photos", 5));
    for (doc, photo) in docs.iter().zip(&photos) {
        spool.upload("docs", doc).await?;
        spool.upload("photos", photo).await?;
    }
    wait_for("the source closes its connection without an acknowledgement", PATIENCE, async || {
        let closed = spool.world.daemon.metric("triggerd_source_disconnects_total", &["not_safe"]).await;
        closed.is_ok_and(|closed| closed >= 1.0)
    })
    .await?;
    spool.wait_until_told("make room").await?;
    for key in &photos {
        spool.wait_until_thumb_ran(key).await?;
    }
    // What it never acknowledged outlives it.
    spool.world.daemon.kill9().await?;
    spool.disk.heal()?;
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&docs).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn an_fsync_of_seconds_parks_in_groups_and_what_was_answered_survives_a_kill(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    ensure!(spool.notify("docs", "first").await? == StatusCode::OK);
    let commits = spool.world.daemon.metric("triggerd_queue_commits_total", &[]).await?;
    spool.disk.set("sync 0 2000")?;
    let docs = keys("slow", 100);
    let answers = join_all(docs.iter().map(|key| spool.notify("docs", key))).await;
    for (key, answer) in docs.iter().zip(answers) {
        let status = answer?;
        ensure!(status == StatusCode::OK, "{key} is answered {status}");
    }
    let commits = spool.world.daemon.metric("triggerd_queue_commits_total", &[]).await? - commits;
    ensure!(commits < 50.0, "100 deliveries took {commits} commits");
    for key in keys("healthy", 5) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    spool.world.daemon.kill9().await?;
    spool.disk.heal()?;
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&docs).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn what_no_sender_repeats_is_fired_though_it_cannot_be_parked(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::start(&ctx, Way::Webhook { queue_dir: false }, "").await?;
    spool.disk.set("all 28 0")?;
    for key in keys("healthy", 20) {
        let status = spool.notify("photos", &key).await?;
        ensure!(status == StatusCode::OK, "{key} is answered {status}");
        spool.wait_until_thumb_ran(&key).await?;
    }
    let status = spool.notify("docs", "lost").await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "what is lost is answered {status}");
    eventually("it is counted as lost", PATIENCE, async || {
        let lost = spool.world.daemon.metric("triggerd_source_lost_total", &[]).await?;
        ensure!(lost >= 1.0, "{lost}");
        Ok(())
    })
    .await?;
    spool.disk.heal()?;
    spool.wait_until_well().await?;
    spool.world.daemon.stop().await
}
