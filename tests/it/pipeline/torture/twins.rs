//! Twin targets while the daemon is dead, and while it is frozen: nothing is lost.
//!
//! MinIO sends both legs of an event from one worker, of which it has as many as cores, and the fast leg of a frozen
//! daemon takes a minute to be given up. With MinIO's defaults uploads go on, and their events wait in its memory; what
//! happens when that is full is another test ([`overflow`](super::overflow)). With `sync_events` on, as
//! `docs/deployment.md` has it, nothing waits in memory: the uploads themselves wait, and what is not answered is not
//! offered.

use std::time::Duration;

use anyhow::Result;

use super::{
    books::Function,
    faults::{Fault, Part},
    hold, is_full,
    load::{Load, Rates},
    seed,
    site::{Design, Site, Targets},
    strike_all,
};
use crate::harness::suite::Ctx;

/// Uploads a second.
pub(super) const RATES: Rates = Rates { published: 0, uploaded: 50 };

pub(super) async fn twin_targets_lose_nothing_when_the_daemon_dies_or_freezes(ctx: Ctx) -> Result<()> {
    twins(&ctx, Targets::Webhooks).await
}

pub(super) async fn deployed_twin_targets_lose_nothing_when_the_daemon_dies_or_freezes(
    ctx: Ctx,
) -> Result<()> {
    twins(&ctx, Targets::BrokerAndFast).await
}

async fn twins(ctx: &Ctx, targets: Targets) -> Result<()> {
    let (seed, hold) = (seed()?, hold()?);
    // A fast leg that is frozen is given up after a minute: the frozen time lasts longer.
    let (dead, frozen) = if is_full() { (hold / 6, hold * 3 / 2) } else { (hold, hold * 5 / 2) };
    let faults = [
        (Fault::None, Fault::None.held(hold)),
        (Fault::Kill(Part::Daemon), dead),
        (Fault::Freeze(Part::Daemon), frozen),
    ];
    let design =
        Design { engine: None, targets, functions: &Function::ALL, twin: true, disk_fails: false, seed };
    let site = Site::start(ctx, design).await?;
    let load = Load::start(RATES, None, &site.world.minio, &site.books);
    let what = targets.words();
    let title = format!("Twin targets ({what}), {} uploads/s, seed {seed}", RATES.uploaded);
    strike_all(site, &load, &title, &faults.map(|(fault, time)| (fault, time.max(Duration::from_secs(1)))))
        .await
}
