//! The reconciler does not run hot: neither when nothing happens nor when very much is bound at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::world::{Daemon, Plan, SOON, World, noting};
use crate::harness::{suite::Ctx, wait::eventually, wait::wait_for};

const BINDINGS: usize = 100;

/// How long it is watched while nothing happens. At one pass every 24 to 36 seconds, at most two fall into it.
const WINDOW: Duration = Duration::from_secs(30);

async fn passes(daemon: &Daemon) -> Result<f64> {
    daemon.metric("triggerd_reconciler_passes_total", &[]).await
}

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and says what it found")]
pub(crate) async fn the_reconciler_rests_when_idle_and_takes_a_hundred_bindings_together(
    ctx: Ctx,
) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    world.minio.create_bucket("photos").await?;
    let (before, began) = (passes(&world.daemon).await?, Instant::now());
    for number in 0..BINDINGS {
        let prefix = format!("in/{number}/");
        let wanted = json!({
            "bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": prefix, "platform": "local",
            "function": "thumb",
        });
        world.daemon.ask_for(&wanted).await?;
    }
    let asked = began.elapsed();
    eventually("all are active", SOON, async || {
        let active = world.daemon.metric("triggerd_bindings", &["state=\"active\""]).await?;
        ensure!(active >= 100.0, "{active}");
        Ok(())
    })
    .await?;
    let bound = passes(&world.daemon).await? - before;
    println!("{BINDINGS} binds in {asked:?}, all active after {:?}, {bound} passes", began.elapsed());
    // Each bind wakes it, and so does what it records; they come together, at most ten a second.
    let most = began.elapsed().as_secs_f64() * 10.0 + 1.0;
    ensure!(bound <= most, "{bound} passes for {BINDINGS} bindings, more than {most}");

    // What was recorded last wakes it once or twice more.
    let mut last = -1.0;
    eventually("it comes to rest", SOON, async || {
        let now = passes(&world.daemon).await?;
        let rests = (now - last).abs() < 0.5;
        last = now;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(rests, "{now}");
        Ok(())
    })
    .await?;
    let (before, began) = (passes(&world.daemon).await?, Instant::now());
    wait_for("the window is over", WINDOW * 2, async || began.elapsed() >= WINDOW).await?;
    let idle = passes(&world.daemon).await? - before;
    println!("idle: {idle} passes in {WINDOW:?}");
    ensure!(idle <= 2.0, "{idle} passes in {WINDOW:?} while nothing happened");
    world.daemon.stop().await
}
