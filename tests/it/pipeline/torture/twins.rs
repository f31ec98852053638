//! Twin targets while the daemon is dead, and while it is frozen, and while the ways of MinIO's webhooks are spoilt: nothing
//! is lost.
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
    faults::{Fault, Part, Path},
    hold, is_full, late,
    load::{Load, Rates},
    seed,
    site::{Design, Site, Targets},
    strike_all,
};
use crate::harness::{proxy::Mode, suite::Ctx};

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
    let mut faults = vec![
        (Fault::None, Fault::None.held(hold)),
        (Fault::Kill(Part::Daemon), dead),
        (Fault::Freeze(Part::Daemon), frozen),
    ];
    faults.extend(spoilt(targets).into_iter().map(|fault| (fault, fault.held(hold))));
    let design = Design {
        engine: None,
        targets,
        functions: &Function::ALL,
        twin: true,
        webhooks_fail: true,
        disk_fails: false,
        seed,
    };
    let site = Site::start(ctx, design).await?;
    let load = Load::start(RATES, None, &site.world.minio, &site.books);
    let what = targets.words();
    let title = format!("Twin targets ({what}), {} uploads/s, seed {seed}", RATES.uploaded);
    for (_, held) in &mut faults {
        *held = (*held).max(Duration::from_secs(1));
    }
    strike_all(site, &load, &title, &faults).await
}

/// Ways of MinIO's webhooks that are spoilt: in the short form each of them once.
fn spoilt(targets: Targets) -> Vec<Fault> {
    let cut = Mode::Cut { one_in: 20 };
    if !is_full() {
        return vec![Fault::Spoil(Path::Fast, Mode::Refuse), Fault::Spoil(Path::Safe, cut)];
    }
    let all = [late(), Mode::Limit(40_000), cut, Mode::Silent, Mode::Refuse];
    let of = |path| all.map(|mode| Fault::Spoil(path, mode)).to_vec();
    match targets {
        Targets::Webhooks => [of(Path::Safe), of(Path::Fast)].concat(),
        // The same site as all other faults have, which has these, too.
        Targets::BrokerAndFast => Vec::new(),
    }
}
