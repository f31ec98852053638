//! Twin targets while the daemon is dead, and while it is frozen: nothing is lost.
//!
//! MinIO sends both legs of an event from one worker, of which it has as many as cores, and the fast leg of a frozen
//! daemon takes a minute to be given up. With MinIO's defaults uploads go on, and their events wait in its memory, which
//! holds 50,000; the long form fills it until it overflows, and counts. With `sync_events` on, as `docs/deployment.md`
//! has it, nothing waits in memory: the uploads themselves wait, and what is not answered is not offered.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use futures_util::future::try_join_all;

use super::{
    books::Function,
    faults::{Fault, Part},
    hold, is_full,
    load::{Load, Rates, UPLOADED},
    one_fault, seed,
    site::{Design, Site, Targets},
    table::Table,
    until_nothing_is_owed,
};
use crate::harness::suite::Ctx;

/// Uploads a second.
const RATES: Rates = Rates { published: 0, uploaded: 50 };

/// Events that MinIO holds in memory for its targets.
const MEMORY: u64 = 50_000;

/// What is uploaded beyond that.
const BEYOND: u64 = 1_000;

/// Uploads at once while the memory is filled.
const UPLOADERS: usize = 64;

pub(super) async fn twin_targets_lose_nothing_when_the_daemon_dies_or_freezes(ctx: Ctx) -> Result<()> {
    let (dead, frozen) = if is_full() { (10, 90) } else { (2, 5) };
    let faults = [
        (Fault::None, hold()?.as_secs()),
        (Fault::Kill(Part::Daemon), dead),
        (Fault::Freeze(Part::Daemon), frozen),
    ];
    twins(&ctx, Targets::Webhooks, &faults).await?;
    if is_full() {
        twins(&ctx, Targets::BrokerAndFast, &faults).await?;
    }
    Ok(())
}

async fn twins(ctx: &Ctx, targets: Targets, faults: &[(Fault, u64)]) -> Result<()> {
    let seed = seed()?;
    let mut site = Site::start(ctx, Design { engine: None, targets, seed }).await?;
    let load = Load::start(RATES, None, &site.world.minio, &site.books);
    let what = if targets == Targets::Webhooks {
        "two webhooks, `sync_events` off"
    } else {
        "MQTT and webhook, `sync_events` on"
    };
    let mut table = Table::new(&format!("Twin targets ({what}), {} uploads/s, seed {seed}", RATES.uploaded));
    let mut lost = Vec::new();
    for (fault, seconds) in faults {
        lost.extend(one_fault(&mut site, &load, *fault, Duration::from_secs(*seconds), &mut table).await?);
    }
    if is_full() && targets == Targets::Webhooks {
        lost.extend(until_nothing_is_owed(&site).await?);
        overflow(&site, &mut table).await?;
    }
    table.end()?;
    ensure!(lost.is_empty(), "{} deliveries were lost (seed {seed}): {lost:?}", lost.len());
    site.world.daemon.stop().await
}

/// Freezes the daemon, uploads more than MinIO holds in memory, and tells how many events that cost: each of them is
/// counted by MinIO, and no other is missing.
async fn overflow(site: &Site, table: &mut Table) -> Result<()> {
    let skipped_before = skipped(site).await?;
    site.pause(Part::Daemon)?;
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let upload = async || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= MEMORY + BEYOND {
                return anyhow::Ok(());
            }
            let (key, sent) = (format!("{UPLOADED}flood/{number:06}"), Instant::now());
            let request = site.world.minio.s3().put_object().bucket("photos").key(&key);
            request.body(ByteStream::from_static(b"x")).send().await?;
            site.books.offered(&key, sent);
        }
    };
    try_join_all((0..UPLOADERS).map(|_| upload())).await?;
    let took = began.elapsed();
    site.resume(Part::Daemon)?;
    let missing = until_nothing_is_owed(site).await?;
    let missing = missing.iter().filter(|(function, _)| *function == Function::Steady).count();
    let skipped = skipped(site).await? - skipped_before;
    table.note(&format!(
        "The limit: {} uploads within {:.0} s of a frozen daemon; {missing} events never came, MinIO says that it dropped {skipped}.",
        MEMORY + BEYOND,
        took.as_secs_f64(),
    ));
    ensure!(missing <= skipped, "{missing} events are missing, and MinIO dropped only {skipped}");
    Ok(())
}

/// The events that MinIO says it dropped because its memory was full.
async fn skipped(site: &Site) -> Result<usize> {
    let url = format!("{}/minio/v2/metrics/cluster", site.world.minio.endpoint());
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    let lines = text.lines().filter(|line| line.starts_with("minio_notify_events_skipped_total"));
    let counts = lines.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let sum = counts.sum::<Result<f64>>()? as usize;
    Ok(sum)
}
