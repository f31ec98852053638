//! The daemon's life and death: how it stops, what ends it, and what systemd hears of it.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::json;
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use triggerd::domain::clock::{Clock as _, SystemClock};

use super::{
    disk_faults::{Disk, PATIENCE, Spool, keys},
    life_faults::{Host, Systemd},
    world::{Plan, SOON, Way, World, noting},
};
use crate::harness::{
    suite::{Ctx, Test, tests},
    wait::eventually,
};

/// After how long systemd would start the daemon anew. The queue shows that it lives every five seconds.
const WATCHDOG: Duration = Duration::from_secs(12);

/// How long the watchdog's last word may be away, and longer than it takes until liveness says so.
const SILENCE: Duration = Duration::from_secs(90);

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_stop_lets_what_runs_end_and_takes_nothing_in within 180;
        [Minio] a_stop_that_takes_too_long_cuts_off_what_comes_back_at_the_next_start_uncharged within 180;
        [Minio] a_second_signal_cuts_off_at_once within 180;
        [Minio] a_worker_that_ends_ends_the_daemon_with_a_failing_code within 180;
        [Minio] a_worker_that_panics_ends_the_daemon_with_a_failing_code within 180;
        [Minio] systemd_hears_that_it_is_ready_lives_and_stops_and_a_slow_disk_is_no_death within 240;
        [Minio] a_queue_that_hangs_starves_the_watchdog within 300;
        [Minio] dispatch_that_hangs_starves_the_watchdog within 300;
        [Minio] a_runtime_that_hangs_starves_the_watchdog within 240;
    }
}

/// An installation whose function `slow` runs until it is released, and how long a stop may take.
async fn slow(ctx: &Ctx, drain_s: u32, env: Vec<(&'static str, String)>) -> Result<World> {
    let until_released =
        "while ! test -e \"$FOLDER/released\"; do sleep 0.1; done; echo done >> \"$FOLDER/slow.done\"";
    let functions = noting("thumb", "") + &noting("slow", until_released);
    let plan = Plan {
        way: Way::Webhook { queue_dir: true },
        extra: format!("[dispatch]\ndrain_s = {drain_s}\n"),
        env,
        ..Plan::webhook(&functions)
    };
    let world = World::start(ctx, &plan).await?;
    let retry = json!({"max_attempts": 2, "first_wait_ms": 100, "max_wait_ms": 200});
    world.bind("docs", "slow", &json!({"timeout_ms": 120_000, "retry": retry})).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    Ok(world)
}

async fn wait_for_log(world: &World, words: &str) -> Result<()> {
    eventually(&format!("the log says `{words}`"), SOON, async || {
        ensure!(world.daemon.log()?.contains(words), "not yet");
        Ok(())
    })
    .await
}

fn in_order(log: &str, words: &[&str]) -> Result<()> {
    let mut rest = log;
    for word in words {
        let at = rest.find(word).with_context(|| format!("`{word}` is not said, or out of its turn"))?;
        rest = &rest[at..];
    }
    Ok(())
}

pub(crate) async fn a_stop_lets_what_runs_end_and_takes_nothing_in(ctx: Ctx) -> Result<()> {
    let systemd = Systemd::listen()?;
    let mut world = slow(&ctx, 60, systemd.env(Duration::from_mins(1))).await?;
    world.minio.put_object("docs", "a", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    world.daemon.signal(Signal::TERM)?;
    wait_for_log(&world, "a second signal cuts running attempts off").await?;
    systemd.wait_for("STOPPING=1", 1, SOON).await?;
    let client = reqwest::Client::new();
    eventually("the source is closed", SOON, async || {
        let answer = client.post(&world.source).body("{}").send().await;
        ensure!(answer.is_err(), "{:?}", answer.map(|answer| answer.status()));
        Ok(())
    })
    .await?;
    // Of which it is told later, for MinIO keeps what it could not hand over.
    world.minio.put_object("photos", "b", "x", &[]).await?;
    let (status, _) = world.daemon.call(Method::GET, "/health/live", None).await?;
    ensure!(status == StatusCode::OK, "while it drains, liveness says {status}");
    let (status, ready) = world.daemon.call(Method::GET, "/health/ready", None).await?;
    let sources = &ready["parts"][0];
    ensure!(
        status == StatusCode::SERVICE_UNAVAILABLE
            && sources["name"] == "sources"
            && sources["detail"].as_str().is_some_and(|detail| detail.starts_with("stopping")),
        "while it drains, readiness says {status} {ready}"
    );
    fs::write(world.platform.file("released"), "")?;
    let status = world.daemon.ends().await?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    in_order(&world.daemon.log()?, &["stopping; a second signal", "stopped; everything that ran has ended"])?;
    ensure!(fs::read_to_string(world.platform.file("slow.done"))?.lines().count() == 1);

    world.daemon.start_again().await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    ensure!(world.platform.calls("slow")?.len() == 1, "what had ended is called again");
    world.daemon.stop().await
}

/// Whatever cut it off, the delivery comes back under its id, as if it had not been tried.
async fn comes_back_uncharged(world: &mut World) -> Result<()> {
    let status = world.daemon.ends().await?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    let log = world.daemon.log()?;
    in_order(
        &log,
        &["cutting running attempts off", "what was running is parked and due at the next start"],
    )?;
    ensure!(!log.contains("did not end in time"), "a worker had to be cut off");
    fs::write(world.platform.file("released"), "")?;
    world.daemon.start_again().await?;
    let calls = world.platform.wait_for_calls("slow", 2).await?;
    ensure!(calls[0] == calls[1], "another id, or an attempt was charged: {calls:?}");
    eventually("nothing is parked", SOON, async || {
        let (_, functions) = world.daemon.call(Method::GET, "/v1/functions", None).await?;
        let parked = functions["functions"].as_array().context("no list")?;
        ensure!(parked.iter().all(|function| function["parked"] == 0), "{functions}");
        Ok(())
    })
    .await?;
    ensure!(world.daemon.dead_letters().await?.is_empty());
    world.daemon.stop().await
}

pub(crate) async fn a_stop_that_takes_too_long_cuts_off_what_comes_back_at_the_next_start_uncharged(
    ctx: Ctx,
) -> Result<()> {
    let mut world = slow(&ctx, 1, Vec::new()).await?;
    world.minio.put_object("docs", "a", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    world.daemon.signal(Signal::TERM)?;
    comes_back_uncharged(&mut world).await?;
    ensure!(!world.daemon.log()?.contains("stopping at once"));
    Ok(())
}

pub(crate) async fn a_second_signal_cuts_off_at_once(ctx: Ctx) -> Result<()> {
    let mut world = slow(&ctx, 80, Vec::new()).await?;
    world.minio.put_object("docs", "a", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    world.daemon.signal(Signal::TERM)?;
    wait_for_log(&world, "a second signal cuts running attempts off").await?;
    world.daemon.signal(Signal::INT)?;
    comes_back_uncharged(&mut world).await?;
    in_order(&world.daemon.log()?, &["SIGTERM", "stopping at once", "cutting running attempts off"])
}

pub(crate) async fn a_worker_that_ends_ends_the_daemon_with_a_failing_code(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    for key in keys("parked", 3) {
        spool.insist("docs", &key).await?;
    }
    spool.world.daemon.stop().await?;
    // An index that only the pump reads at start: opening the file does not find it, and the pump cannot begin.
    let file = spool.disk.state().join("queue.db");
    let mut conn = SqliteConnectOptions::new().filename(&file).connect().await?;
    let (page, size): (u32, u32) = sqlx::query_as(
        "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'delivery_binding'",
    )
    .fetch_one(&mut conn)
    .await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await?;
    sqlx::Connection::close(conn).await?;
    let mut bytes = fs::read(&file)?;
    let begin = usize::try_from((page - 1) * size)?;
    let whole = bytes[begin..begin + 64].to_vec();
    bytes[begin..begin + 64].fill(0xee);
    fs::write(&file, &bytes)?;

    spool.world.daemon.launch()?;
    let status = spool.world.daemon.ends().await?;
    let log = spool.world.daemon.log()?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let last = log.lines().last().unwrap_or_default();
    ensure!(
        last.starts_with("error: the pump of parked deliveries ended") && last.contains("damaged"),
        "{last}"
    );

    bytes[begin..begin + 64].copy_from_slice(&whole);
    fs::write(&file, &bytes)?;
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&keys("parked", 3)).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_worker_that_panics_ends_the_daemon_with_a_failing_code(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    for key in keys("parked", 3) {
        spool.insist("docs", &key).await?;
    }
    spool.world.daemon.kill9().await?;
    let host = Host::new(ctx.folder())?;
    // Without randomness no worker can go on; the first to need some panics.
    let env = [host.env(spool.disk.env()?)?, vec![("LIFE_FAULTS_RANDOM", "none".to_owned())]].concat();
    let usual = spool.world.daemon.set_env(env);
    spool.world.daemon.launch()?;
    let status = spool.world.daemon.ends().await?;
    let log = spool.world.daemon.log()?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let last = log.lines().last().unwrap_or_default();
    // Or a worker that cannot go on without the one that panicked.
    let because = ["ended: panicked; see the log", "ended: the mirror has ended"];
    ensure!(last.starts_with("error: the ") && because.iter().any(|why| last.contains(why)), "{last}");
    ensure!(log.contains("panicked at"), "the log does not say where");

    spool.world.daemon.set_env(usual);
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&keys("parked", 3)).await?;
    spool.world.daemon.stop().await
}

/// An installation that systemd watches, on a host and a disk that can be made to hang.
async fn watched(ctx: &Ctx) -> Result<(Spool, Host, Systemd)> {
    let (host, systemd) = (Host::new(ctx.folder())?, Systemd::listen()?);
    let env = [host.env(Disk::new(ctx.folder())?.env()?)?, systemd.env(WATCHDOG)].concat();
    let spool = Spool::start_in(ctx, Way::Webhook { queue_dir: true }, "", env).await?;
    systemd.wait_for("WATCHDOG=1", systemd.heard("WATCHDOG=1") + 2, SOON).await?;
    Ok((spool, host, systemd))
}

pub(crate) async fn systemd_hears_that_it_is_ready_lives_and_stops_and_a_slow_disk_is_no_death(
    ctx: Ctx,
) -> Result<()> {
    let (mut spool, _host, systemd) = watched(&ctx).await?;
    ensure!(systemd.heard("READY=1") == 1 && systemd.heard("STOPPING=1") == 0);
    let (_, health) = spool.world.daemon.call(Method::GET, "/health/live", None).await?;
    let parts = health["parts"].as_array().context("no parts")?;
    let names: Vec<_> = parts.iter().filter_map(|part| part["name"].as_str()).collect();
    ensure!(
        ["dispatch", "intake", "queue"].iter().all(|name| names.contains(name)),
        "each of which has to beat: {health}"
    );
    spool.disk.set("sync 0 2000")?;
    let keys = keys("slow", 6);
    for key in &keys {
        spool.insist("docs", key).await?;
    }
    systemd.wait_for("WATCHDOG=1", systemd.heard("WATCHDOG=1") + 6, PATIENCE).await?;
    ensure!(!spool.world.daemon.log()?.contains("no progress"), "a slow disk is taken for none");
    spool.disk.heal()?;
    spool.mend()?;
    spool.wait_until_done(&keys).await?;
    spool.world.daemon.stop().await?;
    ensure!(systemd.heard("READY=1") == 1 && systemd.heard("STOPPING=1") == 1);
    Ok(())
}

/// Waits until the watchdog is not fed for these parts, and liveness says that they do no work.
async fn starves(spool: &Spool, parts: &[&str]) -> Result<()> {
    let daemon = &spool.world.daemon;
    eventually("the watchdog is not fed", PATIENCE, async || {
        let log = daemon.log()?;
        let line = log.lines().rfind(|line| line.contains("the watchdog is not fed"));
        let line = line.context("it is")?;
        ensure!(parts.iter().all(|part| line.contains(&format!("\"{part}\""))), "{line}");
        Ok(())
    })
    .await?;
    eventually("liveness says it", SILENCE, async || {
        let (status, health) = daemon.call(Method::GET, "/health/live", None).await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {health}");
        let all = health["parts"].as_array().context("no parts")?;
        for name in parts {
            let part = all.iter().find(|part| part["name"] == *name).context("not there")?;
            ensure!(part["ok"] == false, "{health}");
        }
        Ok(())
    })
    .await
}

/// Waits until it is fed again and all is well.
async fn recovers(spool: &Spool, systemd: &Systemd) -> Result<()> {
    systemd.wait_for("WATCHDOG=1", systemd.heard("WATCHDOG=1") + 2, PATIENCE).await?;
    eventually("liveness says that all is well", PATIENCE, async || {
        let (status, health) = spool.world.daemon.call(Method::GET, "/health/live", None).await?;
        ensure!(status == StatusCode::OK, "{status} {health}");
        Ok(())
    })
    .await
}

pub(crate) async fn a_queue_that_hangs_starves_the_watchdog(ctx: Ctx) -> Result<()> {
    let (mut spool, _host, systemd) = watched(&ctx).await?;
    spool.disk.set("sync 0 60000")?;
    let given_up = spool.notify_within("docs", "hangs", Duration::from_secs(5)).await;
    ensure!(given_up.is_err(), "what is not on disk is acknowledged");
    starves(&spool, &["queue"]).await?;
    let fed = systemd.heard("WATCHDOG=1");
    ensure!(spool.world.daemon.log()?.contains("no progress"), "{fed}");
    spool.disk.heal()?;
    recovers(&spool, &systemd).await?;
    spool.mend()?;
    spool.insist("docs", "hangs").await?;
    spool.wait_until_done(&["hangs".to_owned()]).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn dispatch_that_hangs_starves_the_watchdog(ctx: Ctx) -> Result<()> {
    let (mut spool, host, systemd) = watched(&ctx).await?;
    let keys = keys("parked", 3);
    for key in &keys {
        spool.insist("docs", key).await?;
    }
    // What is due is read again and again, and changed in between.
    host.hang("reads")?;
    starves(&spool, &["dispatch"]).await?;
    host.let_go()?;
    recovers(&spool, &systemd).await?;
    spool.mend()?;
    spool.wait_until_done(&keys).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_runtime_that_hangs_starves_the_watchdog(ctx: Ctx) -> Result<()> {
    let (mut spool, host, systemd) = watched(&ctx).await?;
    host.hang("reactor")?;
    let clock = SystemClock::new();
    let (mut fed, mut last) = (systemd.heard("WATCHDOG=1"), clock.monotonic());
    eventually("the watchdog is not fed for longer than systemd would wait", SILENCE, async || {
        let now = systemd.heard("WATCHDOG=1");
        if now > fed {
            (fed, last) = (now, clock.monotonic());
        }
        let ago = clock.monotonic().saturating_sub(last);
        ensure!(ago > WATCHDOG, "it was fed {ago:?} ago");
        Ok(())
    })
    .await?;
    host.let_go()?;
    recovers(&spool, &systemd).await?;
    spool.mend()?;
    spool.insist("docs", "after").await?;
    spool.wait_until_done(&["after".to_owned()]).await?;
    spool.world.daemon.stop().await
}
