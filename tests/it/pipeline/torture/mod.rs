//! Torture: one thing after another is broken under load, on real parts, and nothing may be lost.
//!
//! **What is done.** Notifications are published and objects uploaded at a fixed rate, all the time. A fault is struck,
//! held and mended ([`faults`]); then it is waited until the functions are called at the offered rate again, and, while
//! the load rests, until every event has been delivered to each of its functions or is a dead letter ([`books`]).
//! What is still owed after a minute without any progress is *lost*, and fails the test. So does what the daemon keeps
//! though nothing is owed any more, and a daemon that does not come back: within a minute after the fault each function must
//! be called as often as events are offered, and these must come half as often as before the fault at least. (A machine that
//! is busy with other things may not carry the rate that is asked for, fault or none; the table has a dash then.) Other
//! times are printed, never asserted.
//!
//! **Two forms.** The short one is part of `make test`; `make torture` (`TRIGGERD_TORTURE=full`) strikes every fault of
//! the list, holds each for up to a minute (`Fault::held`), and kills the daemon at 100 points. Both print a table, and
//! before each fault where the run is. `TRIGGERD_TORTURE_SEED` repeats the random points, `TRIGGERD_TORTURE_HOLD` sets the
//! seconds that a fault is held at most, `TRIGGERD_TORTURE_KILLS` the points, `TRIGGERD_TORTURE_RATE` the events a second;
//! `TRIGGERD_TORTURE_ONLY` strikes only faults whose words have this text in them, and what `TRIGGERD_TORTURE_TABLE` names
//! gets the tables in Markdown.

#![expect(clippy::disallowed_methods, reason = "it measures")]

mod books;
mod faults;
mod latency;
mod load;
mod overflow;
mod site;
mod table;
mod twins;

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::Value;

use self::{
    books::Function,
    faults::{Fault, Part, Path, Trouble},
    latency::functions_are_called_soon_after_an_upload_by_each_leg,
    load::{FATAL_ONE_IN, Load, PUBLISHED, Rates, UPLOADED},
    overflow::what_minio_drops_behind_a_frozen_daemon_is_all_that_is_missing,
    site::{Design, Site, Targets},
    table::{Row, Table},
    twins::{
        deployed_twin_targets_lose_nothing_when_the_daemon_dies_or_freezes,
        twin_targets_lose_nothing_when_the_daemon_dies_or_freezes,
    },
};
use crate::harness::{
    database::Engine,
    proxy::Mode,
    suite::{Ctx, Test, tests},
    wait::{eventually, wait_for},
};

/// What is still owed after so long without progress is lost.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long it takes to come to terms with a fault, as long as nothing is known of it.
const SETTLING: Duration = Duration::from_secs(8);

/// How long it is watched whether the offered rate is reached again.
const WATCH: Duration = Duration::from_secs(30);

/// Over how long it is counted whether a function keeps pace with what is offered.
const PACE: Duration = Duration::from_secs(4);

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests! {
        [Minio, Mosquitto, MySql] nothing_is_lost_whatever_is_broken_under_load within 900;
        [Minio, Mosquitto, MariaDb] nothing_is_lost_when_mariadb_is_broken_under_load within 600;
        [Minio, Mosquitto] twin_targets_lose_nothing_when_the_daemon_dies_or_freezes within 600;
        [Minio, Mosquitto] functions_are_called_soon_after_an_upload_by_each_leg within 300;
    };
    if is_full() {
        tests.extend(tests! {
            [Minio, Mosquitto] deployed_twin_targets_lose_nothing_when_the_daemon_dies_or_freezes;
            [Minio, Mosquitto] what_minio_drops_behind_a_frozen_daemon_is_all_that_is_missing;
        });
    }
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

/// How long a fault is held at most.
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

/// At how many random points the daemon is killed.
fn kills(default: u32) -> Result<Fault> {
    Ok(Fault::Kills(u32::try_from(number("TRIGGERD_TORTURE_KILLS", default.into())?)?))
}

async fn nothing_is_lost_whatever_is_broken_under_load(ctx: Ctx) -> Result<()> {
    let faults = if is_full() {
        every_fault()?
    } else {
        vec![
            Fault::None,
            kills(8)?,
            Fault::Kill(Part::Mosquitto),
            Fault::Spoil(Path::Broker, Mode::Cut { one_in: 20 }),
            Fault::Freeze(Part::Platform),
            Fault::Spoil(Path::Platform, Mode::Cut { one_in: 20 }),
            Fault::Freeze(Part::Database),
            Fault::Disk(Trouble::Full),
            Fault::Everything,
        ]
    };
    torture(&ctx, Engine::MySql, &faults).await
}

/// Each piece comes so late.
fn late() -> Mode {
    Mode::Delay { fixed: Duration::from_millis(200), jitter: Duration::from_millis(200) }
}

fn every_fault() -> Result<Vec<Fault>> {
    let late = late();
    Ok(vec![
        Fault::None,
        kills(100)?,
        Fault::Restart,
        Fault::Freeze(Part::Daemon),
        Fault::Freeze(Part::Mosquitto),
        Fault::Kill(Part::Mosquitto),
        Fault::Spoil(Path::Broker, late),
        Fault::Spoil(Path::Broker, Mode::Limit(40_000)),
        Fault::Spoil(Path::Broker, Mode::Cut { one_in: 20 }),
        Fault::Spoil(Path::Broker, Mode::Silent),
        Fault::Spoil(Path::Broker, Mode::Refuse),
        Fault::Spoil(Path::Fast, late),
        Fault::Spoil(Path::Fast, Mode::Limit(40_000)),
        Fault::Spoil(Path::Fast, Mode::Cut { one_in: 20 }),
        Fault::Spoil(Path::Fast, Mode::Silent),
        Fault::Spoil(Path::Fast, Mode::Refuse),
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
        Fault::Spoil(Path::Database, Mode::Limit(40_000)),
        Fault::Spoil(Path::Database, Mode::Cut { one_in: 3 }),
        Fault::Spoil(Path::Database, Mode::Silent),
        Fault::Spoil(Path::Database, Mode::Refuse),
        Fault::Disk(Trouble::Full),
        Fault::Disk(Trouble::Fails),
        Fault::Disk(Trouble::Slow),
        Fault::Everything,
    ])
}

async fn nothing_is_lost_when_mariadb_is_broken_under_load(ctx: Ctx) -> Result<()> {
    let mut faults = vec![Fault::Kill(Part::Database)];
    if is_full() {
        faults.extend([
            Fault::Freeze(Part::Database),
            Fault::Spoil(Path::Database, late()),
            Fault::Spoil(Path::Database, Mode::Limit(40_000)),
            Fault::Spoil(Path::Database, Mode::Cut { one_in: 3 }),
            Fault::Spoil(Path::Database, Mode::Silent),
            Fault::Spoil(Path::Database, Mode::Refuse),
            kills(10)?,
            Fault::Everything,
        ]);
    }
    torture(&ctx, Engine::MariaDb, &faults).await
}

async fn torture(ctx: &Ctx, engine: Engine, faults: &[Fault]) -> Result<()> {
    let seed = seed()?;
    let rates = rates()?;
    let design = Design {
        engine: Some(engine),
        targets: Targets::BrokerAndFast,
        functions: &Function::ALL,
        twin: true,
        webhooks_fail: true,
        disk_fails: true,
        seed,
    };
    let site = Site::start(ctx, design).await?;
    let load = Load::start(rates, Some(site.mosquitto.port()), &site.world.minio, &site.books);
    let title = format!(
        "MQTT with `queue_dir` and a fast webhook, {engine}, {} events/s, seed {seed}",
        rates.published + rates.uploaded
    );
    let hold = hold()?;
    let faults: Vec<_> = faults.iter().map(|fault| (*fault, fault.held(hold))).collect();
    strike_all(site, &load, &title, &faults).await
}

/// Strikes one after the other; fails if anything is lost or kept, or a load does not come back.
async fn strike_all(mut site: Site, load: &Load, title: &str, faults: &[(Fault, Duration)]) -> Result<()> {
    let only = env::var("TRIGGERD_TORTURE_ONLY").unwrap_or_default();
    let faults: Vec<_> = faults.iter().filter(|(fault, _)| fault.to_string().contains(&only)).collect();
    let (mut table, mut wrong) = (Table::new(title), Vec::new());
    let mut progress = Progress::of(faults.iter().map(|(fault, held)| fault.takes(*held)).collect());
    for (fault, held) in faults {
        progress.tell(*fault, *held);
        wrong.extend(one_fault(&mut site, load, *fault, *held, &mut table).await?);
    }
    if site.restarts > 0 {
        table.note(&format!("A daemon that ended by itself was started again {} times.", site.restarts));
    }
    table.end()?;
    ensure!(wrong.is_empty(), "{title}: {wrong:#?}");
    site.world.daemon.stop().await
}

/// Where a run is.
struct Progress {
    began: Instant,
    /// How long each fault takes, without coming to terms with it.
    planned: Vec<Duration>,
    done: usize,
}

impl Progress {
    fn of(planned: Vec<Duration>) -> Self {
        Self { began: Instant::now(), planned, done: 0 }
    }

    /// Tells that the next one begins, and by the pace so far when all will be over.
    #[expect(clippy::print_stdout, reason = "a run of half an hour must say where it is")]
    fn tell(&mut self, fault: Fault, held: Duration) {
        let count = u32::try_from(self.done).unwrap_or(u32::MAX);
        let past: Duration = self.planned[..self.done].iter().sum();
        let elapsed = self.began.elapsed();
        let settling = elapsed.saturating_sub(past).checked_div(count).unwrap_or(SETTLING);
        let left: Duration = self.planned[self.done..].iter().map(|planned| *planned + settling).sum();
        self.done += 1;
        println!(
            "[{}/{}, {} s of about {} s] {fault}, {} s",
            self.done,
            self.planned.len(),
            elapsed.as_secs(),
            (elapsed + left).as_secs(),
            held.as_secs()
        );
    }
}

/// Strikes, and returns what must not be: what is lost, what is kept, who is not back.
async fn one_fault(
    site: &mut Site,
    load: &Load,
    fault: Fault,
    hold: Duration,
    table: &mut Table,
) -> Result<Vec<String>> {
    // What is struck is a load that is under way.
    let rates = load.rates;
    load.go_on();
    is_back(site, rates, Instant::now()).await;
    let (usual, _) = site.books.pace(Function::Steady, PACE);
    let (began, before) = (Instant::now(), site.books.totals());
    site.strike(fault, hold).await.with_context(|| format!("while this was struck: {fault}"))?;
    let lifted = Instant::now();
    let back = is_back(site, rates, lifted).await;
    let slow = if back.contains(&None) { until_pace_is_kept(site, usual).await.err() } else { None };
    if matches!(fault, Fault::Everything) {
        site.start_if_ended()?;
    }
    load.pause();
    let lost = until_nothing_is_owed(site).await?;
    let kept = if lost.is_empty() { until_nothing_is_kept(site).await.err() } else { None };
    let after = site.books.totals();
    let healthy = site.books.spans(Function::Steady, rates.measured(), (began, lifted));
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
    });
    let mut wrong: Vec<String> = lost.iter().map(|lost| format!("{fault}: {lost:?} is lost")).collect();
    wrong.extend([slow, kept].into_iter().flatten().map(|why| format!("{fault}: {why:#}")));
    Ok(wrong)
}

/// Waits until each function is called as often as events are offered, and these come half as often as usual at least.
async fn until_pace_is_kept(site: &Site, usual: usize) -> Result<()> {
    eventually("the functions keep pace with what is offered", WATCH, async || {
        for function in [Function::Steady, Function::Weak].into_iter().filter(|one| site.books.has(*one)) {
            let (offered, called) = site.books.pace(function, PACE);
            ensure!(
                offered * 2 >= usual && called * 10 >= offered * 9,
                "{offered} offered within {PACE:?}, before the fault {usual}; {function:?} was called for {called}"
            );
        }
        Ok(())
    })
    .await
}

/// When each function was called at the offered rate again, by each load: the later one. None when it was not within
/// [`WATCH`], be it that the load itself does not reach it.
async fn is_back(site: &Site, rates: Rates, lifted: Instant) -> [Option<Duration>; 2] {
    let share = 0.9;
    let notified = f64::from(rates.published) * (1.0 - 1.0 / f64::from(FATAL_ONE_IN)) * share;
    let uploaded = f64::from(rates.uploaded) * share;
    let of = |function: Function| {
        if !site.books.has(function) {
            return Some(Duration::ZERO);
        }
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
    // Whether it was reached, and by whom, is in what is returned.
    let _reached: Result<()> =
        wait_for("the offered rate", WATCH, async || both().iter().all(Option::is_some)).await;
    both()
}

/// Waits until all that was offered has been delivered or is a dead letter; what is not, after long enough without
/// progress, is lost. Nothing new may be offered meanwhile: a function that is slower than its load keeps a delivery
/// waiting behind others for minutes, and that is no loss.
async fn until_nothing_is_owed(site: &Site) -> Result<Vec<(Function, String)>> {
    loop {
        let best = site.books.owes();
        let progress = wait_for("progress", PATIENCE, async || {
            // A daemon that is just being started has no answer; the next look has.
            let _later: Result<()> = site.count_letters().await;
            let owed = site.books.owes();
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

/// Waits until the daemon keeps nothing: nothing parked, held or awaiting. Everything having been delivered, whatever stays
/// would be a delivery that nobody takes up.
async fn until_nothing_is_kept(site: &Site) -> Result<()> {
    eventually("the daemon keeps nothing", PATIENCE, async || {
        let (status, shown) = site.world.daemon.call(Method::GET, "/v1/functions", None).await?;
        ensure!(status.is_success(), "{status} {shown}");
        let functions = shown["functions"].as_array().context("no list")?;
        let is_idle = |one: &Value| ["parked", "held", "awaiting"].iter().all(|what| one[what] == 0);
        ensure!(!functions.is_empty() && functions.iter().all(is_idle), "{shown}");
        Ok(())
    })
    .await
}
