//! Torture: one thing after another is broken under load, on real parts, and nothing may be lost.
//!
//! **What is done.** Notifications are published and objects uploaded at a fixed rate, all the time. A fault is struck,
//! held and mended ([`faults`]); then it is waited until the functions are called at the offered rate again, and, while
//! the load rests, until every event has been delivered to each of its functions or is a dead letter ([`books`]).
//! What is still owed after a minute without any progress is *lost*: that, and nothing else, fails the test. Times are
//! printed, never asserted.
//!
//! **Two forms.** The short one is part of `make test`; `make torture` (`TRIGGERD_TORTURE=full`) strikes every fault of
//! the list, holds each for up to a minute, and kills the daemon at 100 points. Both print a table. `TRIGGERD_TORTURE_SEED`
//! repeats the random points, `TRIGGERD_TORTURE_HOLD` sets the seconds that a fault is held, `TRIGGERD_TORTURE_RATE`
//! the events a second, and what `TRIGGERD_TORTURE_TABLE` names gets the tables in Markdown.

#![expect(clippy::disallowed_methods, reason = "it measures")]

mod books;
mod faults;
mod load;
mod site;
mod table;
mod twins;

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};

use self::{
    books::Function,
    faults::{Fault, Part, Path},
    load::{FATAL_ONE_IN, Load, PUBLISHED, Rates, UPLOADED},
    site::{Design, Site, Targets},
    table::{Row, Table},
};
use crate::harness::{
    database::Engine,
    proxy::Mode,
    suite::{Ctx, Test, tests},
    wait::wait_for,
};

use twins::twin_targets_lose_nothing_when_the_daemon_dies_or_freezes;

/// What is still owed after so long without progress is lost.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long it is watched whether the offered rate is reached again.
const WATCH: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Test> {
    let tests = tests! {
        [Minio, Mosquitto, MySql] nothing_is_lost_whatever_is_broken_under_load within 900;
        [Minio, Mosquitto, MariaDb] nothing_is_lost_when_mariadb_is_broken_under_load within 600;
        [Minio, Mosquitto] twin_targets_lose_nothing_when_the_daemon_dies_or_freezes within 600;
    };
    let hours = Duration::from_hours(6);
    let patient = |test: Test| if is_full() { test.within(hours) } else { test };
    tests.into_iter().map(patient).collect()
}

/// Whether the long form is asked for.
fn is_full() -> bool {
    env::var("TRIGGERD_TORTURE").is_ok_and(|form| form == "full")
}

/// A number of the environment, or this one.
fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

/// How long a fault is held.
fn hold() -> Result<Duration> {
    Ok(Duration::from_secs(number("TRIGGERD_TORTURE_HOLD", if is_full() { 60 } else { 2 })?))
}

/// Events a second: three of ten are uploads.
fn rates() -> Result<Rates> {
    let all = u32::try_from(number("TRIGGERD_TORTURE_RATE", if is_full() { 100 } else { 40 })?)?;
    let uploaded = all * 3 / 10;
    Ok(Rates { published: all - uploaded, uploaded })
}

#[expect(clippy::print_stdout, reason = "the seed is what repeats a run")]
fn seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let seed = number("TRIGGERD_TORTURE_SEED", u64::from(now))?;
    println!("torture: TRIGGERD_TORTURE_SEED={seed}");
    Ok(seed)
}

async fn nothing_is_lost_whatever_is_broken_under_load(ctx: Ctx) -> Result<()> {
    let late = Mode::Delay { fixed: Duration::from_millis(200), jitter: Duration::from_millis(200) };
    let mut faults = vec![
        Fault::None,
        Fault::Kills(if is_full() { 100 } else { 8 }),
        Fault::Kill(Part::Mosquitto),
        Fault::Spoil(Path::Broker, Mode::Cut { one_in: 20 }),
        Fault::Freeze(Part::Platform),
        Fault::Spoil(Path::Platform, Mode::Cut { one_in: 20 }),
        Fault::Freeze(Part::Database),
        Fault::Everything,
    ];
    if is_full() {
        faults.splice(
            2..7,
            [
                Fault::Restart,
                Fault::Freeze(Part::Daemon),
                Fault::Freeze(Part::Mosquitto),
                Fault::Kill(Part::Mosquitto),
                Fault::Spoil(Path::Broker, late),
                Fault::Spoil(Path::Broker, Mode::Limit(40_000)),
                Fault::Spoil(Path::Broker, Mode::Cut { one_in: 20 }),
                Fault::Spoil(Path::Broker, Mode::Silent),
                Fault::Spoil(Path::Broker, Mode::Refuse),
                Fault::Freeze(Part::Minio),
                Fault::Kill(Part::Minio),
                Fault::Freeze(Part::Platform),
                Fault::Kill(Part::Platform),
                Fault::Spoil(Path::Platform, late),
                Fault::Spoil(Path::Platform, Mode::Limit(40_000)),
                Fault::Spoil(Path::Platform, Mode::Cut { one_in: 20 }),
                Fault::Spoil(Path::Platform, Mode::Silent),
                Fault::Spoil(Path::Platform, Mode::Refuse),
                Fault::Freeze(Part::Database),
                Fault::Kill(Part::Database),
                Fault::Spoil(Path::Database, late),
                Fault::Spoil(Path::Database, Mode::Silent),
            ],
        );
    }
    torture(&ctx, Engine::MySql, &faults).await
}

async fn nothing_is_lost_when_mariadb_is_broken_under_load(ctx: Ctx) -> Result<()> {
    let mut faults = vec![Fault::Kill(Part::Database)];
    if is_full() {
        faults.extend([
            Fault::Freeze(Part::Database),
            Fault::Spoil(Path::Database, Mode::Cut { one_in: 3 }),
            Fault::Kills(10),
            Fault::Everything,
        ]);
    }
    torture(&ctx, Engine::MariaDb, &faults).await
}

async fn torture(ctx: &Ctx, engine: Engine, faults: &[Fault]) -> Result<()> {
    let (seed, hold) = (seed()?, hold()?);
    let rates = rates()?;
    let mut site =
        Site::start(ctx, Design { engine: Some(engine), targets: Targets::BrokerAndFast, seed }).await?;
    let load = Load::start(rates, Some(site.mosquitto.port()), &site.world.minio, &site.books);
    let title = format!(
        "MQTT with `queue_dir` and a fast webhook, {engine}, {} events/s, seed {seed}",
        rates.published + rates.uploaded
    );
    let mut table = Table::new(&title);
    let mut lost = Vec::new();
    for fault in faults {
        lost.extend(one_fault(&mut site, &load, *fault, hold, &mut table).await?);
    }
    table.end()?;
    ensure!(lost.is_empty(), "{} deliveries were lost (seed {seed}): {lost:?}", lost.len());
    site.world.daemon.stop().await
}

/// Strikes, and returns what is lost.
async fn one_fault(
    site: &mut Site,
    load: &Load,
    fault: Fault,
    hold: Duration,
    table: &mut Table,
) -> Result<Vec<(Function, String)>> {
    // What is struck is a load that is under way.
    let rates = load.rates;
    load.go_on();
    is_back(site, rates, Instant::now()).await;
    let (began, before) = (Instant::now(), site.books.totals());
    site.strike(fault, hold).await.with_context(|| format!("while this was struck: {fault}"))?;
    let lifted = Instant::now();
    let back = is_back(site, rates, lifted).await;
    load.pause();
    let lost = until_nothing_is_owed(site).await?;
    let after = site.books.totals();
    let (healthy, from_put) = site.books.latencies(Function::Steady, rates.measured(), (began, lifted));
    table.add(&Row {
        fault: fault.to_string(),
        held: lifted - began,
        offered: after.offered - before.offered,
        delivered: after.delivered - before.delivered,
        dead: after.dead - before.dead,
        duplicates: after.duplicates - before.duplicates,
        lost: lost.len(),
        back,
        healthy,
        from_put,
    });
    Ok(lost)
}

/// When each function was called at the offered rate again, by each load: the later one. Watched for a while, in vain
/// it may be.
async fn is_back(site: &Site, rates: Rates, lifted: Instant) -> [Option<Duration>; 2] {
    let share = 0.9;
    let notified = f64::from(rates.published) * (1.0 - 1.0 / f64::from(FATAL_ONE_IN)) * share;
    let uploaded = f64::from(rates.uploaded) * share;
    let of = |function: Function| {
        // MinIO looks into its `queue_dir` every 3 s.
        let one = |prefix, rate: f64, window| {
            if rate == 0.0 {
                return Some(Duration::ZERO);
            }
            site.books.back_after(function, (prefix, rate), Duration::from_secs(window), lifted)
        };
        Some(one(PUBLISHED, notified, 1)?.max(one(UPLOADED, uploaded, 4)?))
    };
    let both = || [of(Function::Steady), of(Function::Weak)];
    // Whether it was reached is told by the table.
    let _reached: Result<()> =
        wait_for("the offered rate", WATCH, async || both().iter().all(Option::is_some)).await;
    both()
}

/// Waits until all that was offered has been delivered or is a dead letter; what is not, after long enough without
/// progress, is lost. Nothing new may be offered meanwhile: a function that is slower than its load keeps a delivery
/// waiting behind others for minutes, and that is no loss.
async fn until_nothing_is_owed(site: &Site) -> Result<Vec<(Function, String)>> {
    loop {
        let best = site.books.owed().len();
        let progress = wait_for("progress", PATIENCE, async || {
            // A daemon that is just being started has no answer; the next look has.
            let _later: Result<()> = site.count_letters().await;
            let owed = site.books.owed().len();
            owed == 0 || owed < best
        });
        let moved = progress.await.is_ok();
        let owed = site.books.owed();
        if owed.is_empty() || !moved {
            ensure!(
                site.is_ready().await || !owed.is_empty(),
                "all was delivered, and the daemon is not ready"
            );
            site.books.write_off(&owed);
            site.tell_of(&owed)?;
            return Ok(owed);
        }
    }
}
