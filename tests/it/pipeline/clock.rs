//! The wall clock is set while the daemon runs, and while it does not: nothing dies of age, nothing is fired early, and
//! nothing waits for longer than it should.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    disk_faults::{PATIENCE, Spool, keys},
    life_faults::Host,
    world::{SOON, Way},
};
use crate::harness::{
    suite::{Ctx, Test, tests},
    wait::eventually,
};

const HOUR: i64 = 3_600;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_clock_set_an_hour_forth_and_back_ages_nothing_fires_nothing_early_and_delays_nothing within 300;
        [Minio] what_was_put_off_by_a_clock_that_was_set_back_while_the_daemon_was_away_does_not_wait_for_it within 240;
    }
}

async fn start(ctx: &Ctx) -> Result<(Spool, Host)> {
    let host = Host::new(ctx.folder())?;
    let env = host.env(Vec::new())?;
    let spool = Spool::start_in(ctx, Way::Webhook { queue_dir: true }, "", env).await?;
    Ok((spool, host))
}

/// Waits until the daemon has noticed so many jumps, and its clock is this far ahead of the time it goes by.
async fn wait_until_seen(spool: &Spool, jumps: usize, ahead: i64) -> Result<()> {
    eventually("the jump is noticed", SOON, async || {
        let told = spool.world.daemon.log()?.matches("the wall clock jumped").count();
        let skew = spool.world.daemon.metric("triggerd_clock_skew_seconds", &[]).await?;
        // It catches up by a twentieth of the time that passes.
        #[expect(clippy::cast_precision_loss, reason = "an hour is exact")]
        let apart = (skew - ahead as f64).abs();
        ensure!(told == jumps && apart < 60.0, "{told} jumps are told of, the skew is {skew}");
        Ok(())
    })
    .await
}

/// Waits until calls were refused for their signature's time, so many more than `before`.
async fn wait_for_refusals(spool: &Spool, before: f64, more: f64) -> Result<()> {
    eventually("the platform refuses signatures of another time", PATIENCE, async || {
        let refused = refusals(spool).await?;
        ensure!(refused >= before + more, "{refused} so far, {before} before");
        Ok(())
    })
    .await
}

async fn refusals(spool: &Spool) -> Result<f64> {
    spool.world.daemon.metric("triggerd_attempts_total", &["platform_fault"]).await
}

async fn must_be_whole(spool: &Spool, bindings: &[String]) -> Result<()> {
    let letters = spool.world.daemon.dead_letters().await?;
    ensure!(letters.is_empty(), "given up: {letters:?}");
    for id in bindings {
        let binding = spool.world.daemon.binding(id).await?;
        ensure!(binding["state"] == "active", "{binding}");
    }
    Ok(())
}

pub(crate) async fn a_clock_set_an_hour_forth_and_back_ages_nothing_fires_nothing_early_and_delays_nothing(
    ctx: Ctx,
) -> Result<()> {
    let (mut spool, host) = start(&ctx).await?;
    // Of deliveries that wait for up to two hours, an hour's jump would fire about half. The wait is anything up to that, so one
    // of forty may well end within the test: it has attempts left, and is not given up.
    let long = json!({"max_attempts": 5, "first_wait_ms": 2 * HOUR * 1_000, "max_wait_ms": 2 * HOUR * 1_000});
    let short = json!({"max_attempts": 1_000, "first_wait_ms": 200, "max_wait_ms": 1_000});
    let bindings = [
        spool.world.bind("archive", "once", &json!({"retry": long})).await?,
        // Younger than the jump is long.
        spool.world.bind("young", "etl", &json!({"retry": short, "max_event_age_s": 900})).await?,
    ];
    let (archived, mut young) = (keys("archived", 40), keys("before", 5));
    for key in &archived {
        spool.insist("archive", key).await?;
    }
    for key in &young {
        spool.insist("young", key).await?;
    }
    spool.world.platform.wait_for_calls("once", archived.len()).await?;
    spool.world.platform.wait_for_calls("etl", 2 * young.len()).await?;

    for (round, ahead) in [HOUR, -HOUR].into_iter().enumerate() {
        let refused = refusals(&spool).await?;
        host.set_clock(ahead)?;
        wait_until_seen(&spool, 2 * round + 1, ahead).await?;
        let key = format!("while-{ahead}");
        ensure!(spool.notify("young", &key).await? == StatusCode::OK, "{key} is not taken");
        young.push(key);
        wait_for_refusals(&spool, refused, 5.0).await?;
        must_be_whole(&spool, &bindings).await?;

        // A restart goes on by the same time.
        spool.world.daemon.kill9().await?;
        spool.world.daemon.start_again().await?;
        wait_until_seen(&spool, 2 * round + 1, ahead).await?;
        // (The metrics begin anew.)
        wait_for_refusals(&spool, 0.0, 3.0).await?;
        must_be_whole(&spool, &bindings).await?;

        host.set_clock(0)?;
        wait_until_seen(&spool, 2 * round + 2, 0).await?;
    }
    let calls = spool.world.platform.calls("once")?.len();
    ensure!(calls <= archived.len() + 5, "{} of {} were fired early", calls - archived.len(), archived.len());
    spool.mend()?;
    spool.wait_until_done(&young).await?;
    must_be_whole(&spool, &bindings).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn what_was_put_off_by_a_clock_that_was_set_back_while_the_daemon_was_away_does_not_wait_for_it(
    ctx: Ctx,
) -> Result<()> {
    let (mut spool, host) = start(&ctx).await?;
    spool.world.daemon.stop().await?;
    host.set_clock(10 * HOUR)?;
    spool.world.daemon.start_again().await?;
    let keys = keys("ahead", 5);
    for key in &keys {
        spool.insist("docs", key).await?;
    }
    wait_for_refusals(&spool, 0.0, 5.0).await?;
    spool.world.daemon.kill9().await?;
    host.set_clock(0)?;
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&keys).await?;
    let log = spool.world.daemon.log()?;
    let told = log.lines().find(|line| line.contains("later than any wait can last"));
    told.context("it is not told that they were brought forward")?;
    spool.world.daemon.stop().await
}
