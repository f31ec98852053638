//! A start of the whole daemon with very many deliveries parked: it is ready, and takes up what is due, as with none, and
//! holds none of them in memory.
//!
//! `TRIGGERD_PARKED=1000000 cargo test --test it depth` is the long form. How long it takes is printed, and judged only by
//! a multiple of what it takes with none; what is judged is that nothing grows with the backlog but by a fixed bound. That
//! no rows are read or counted for it, the queue's own tests show (`src/queue/tests/bounds.rs`).

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use triggerd::{
    dialect::decode,
    domain::{
        clock::{Clock as _, SystemClock},
        delivery::{Delivery, FunctionRef},
        event::{KeyEncoding, StorageName},
        ids::BindingId,
    },
    queue::{Park, Parked, Queue as _, QueueOptions, SqliteQueue, Ticket},
};

use super::{
    disk_faults::RECORDING,
    world::{Plan, SOON, World, noting},
};
use crate::harness::{
    suite::{Ctx, Test, tests},
    wait::eventually,
};

/// How much more memory the daemon may have with a backlog than with none: what the queue's connections remember of the
/// file (24 MiB), and as much again for what is under way. What is parked weighs more than twice as much ([`PADDING`]), which
/// the test holds against the file: so whoever held it in memory would be found.
const MORE: u64 = 48 << 20;

/// Bytes that each parked event has more than it needs.
const PADDING: usize = 5_000;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_start_with_many_parked_is_a_start_with_none within 1_800;
    }
}

/// What a start may take longer than five times one with none, on a machine that is busy.
const SLACK: Duration = Duration::from_secs(5);

/// What was seen of a start.
#[derive(Debug)]
struct Seen {
    ready: Duration,
    first_call: Duration,
    resident: u64,
}

#[expect(clippy::print_stdout, reason = "it measures, and says what it found")]
pub(crate) async fn a_start_with_many_parked_is_a_start_with_none(ctx: Ctx) -> Result<()> {
    let parked: u32 = std::env::var("TRIGGERD_PARKED").map_or(Ok(20_000), |count| count.parse())?;
    let plan = Plan {
        extra: "[queue]\nmax_bytes = 17_179_869_184\nfunction_share = 1.0\n".to_owned(),
        ..Plan::webhook(&(noting("thumb", "") + &noting("etl", "sleep 0.2")))
    };
    let mut world = World::start(&ctx, &plan).await?;
    let id: BindingId = world.bind("docs", "etl", &json!({"concurrency": 4})).await?.parse()?;
    world.bind("photos", "thumb", &json!({})).await?;
    world.daemon.stop().await?;

    // One, so that there is something to be called.
    let file = ctx.folder().join("state/queue.db");
    park(&file, id, ("local", "etl"), 0..1).await?;
    let alone = start(&mut world, 1).await?;
    world.daemon.kill9().await?;
    park(&file, id, ("local", "etl"), 1..parked + 1).await?;
    let calls = world.platform.calls("etl")?.len();
    let with_many = start(&mut world, calls + 1).await?;
    for (count, seen) in [(1, &alone), (parked, &with_many)] {
        let Seen { ready, first_call, resident } = seen;
        println!(
            "{count} parked: ready after {ready:.2?}, first call after {first_call:.2?}, at most {} MiB",
            resident >> 20
        );
    }
    let weight = fs::metadata(&file)?.len();
    ensure!(weight > 2 * MORE, "{parked} parked weigh only {} MiB, which proves nothing", weight >> 20);
    for (what, many, one) in
        [("ready", with_many.ready, alone.ready), ("the first call", with_many.first_call, alone.first_call)]
    {
        ensure!(many < one * 5 + SLACK, "{what} after {many:?} with {parked} parked, after {one:?} with one");
    }
    ensure!(
        with_many.resident < alone.resident + MORE,
        "{} MiB with {parked} parked, {} MiB with none",
        with_many.resident >> 20,
        alone.resident >> 20
    );
    let calls = world.platform.wait_for_calls("etl", calls + 12).await?;
    // The one of before may not have been recorded when the daemon was killed.
    let fresh: Vec<u32> =
        calls.iter().filter_map(|call| call.key.strip_prefix("in/")?.parse().ok()).collect();
    ensure!(fresh.iter().all(|number| *number < 40), "not the oldest first: {fresh:?}");
    // A neighbour's new event does not wait for the backlog.
    world.minio.put_object("photos", "a", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.stop().await
}

/// Parks deliveries of this function in the file of a daemon that does not run.
pub(super) async fn park(
    file: &std::path::Path,
    binding: BindingId,
    (platform, name): (&str, &str),
    numbers: std::ops::Range<u32>,
) -> Result<()> {
    let options = QueueOptions { max_bytes: 16 << 30, function_share: 1.0, ..QueueOptions::default() };
    let (queue, writer) = SqliteQueue::open(file, &options).await?;
    let writer = tokio::spawn(writer.run());
    let storage = StorageName::new("default");
    let mut body: Value = serde_json::from_str(RECORDING)?;
    body["Key"] = "docs/in/NUMBER".into();
    body["Records"][0]["s3"]["object"]["userMetadata"]["X-Amz-Meta-Padding"] = "x".repeat(PADDING).into();
    body["Records"][0]["s3"]["bucket"]["name"] = "docs".into();
    body["Records"][0]["s3"]["object"]["key"] = "in%2FNUMBER".into();
    let body = body.to_string();
    let function = FunctionRef { platform: platform.into(), name: name.into() };
    let now = SystemClock::new().now();
    stream::iter(numbers)
        .map(|number| {
            let body = body.replace("NUMBER", &number.to_string());
            let event = decode(body.as_bytes(), &storage, KeyEncoding::Form).unwrap().remove(0);
            let delivery = Delivery::new(Arc::new(event), binding, function.clone(), now);
            let park = Park { delivery, due: now, held: false, attempt: None, ticket: Ticket::default() };
            queue.park(park)
        })
        .buffer_unordered(512)
        .try_for_each(|parked| async move {
            assert_eq!(parked, Parked::Written);
            Ok(())
        })
        .await?;
    queue.close().await;
    Ok(writer.await?)
}

/// Starts the daemon, and waits for so many calls.
async fn start(world: &mut World, calls: usize) -> Result<Seen> {
    let clock = SystemClock::new();
    world.daemon.start_again().await?;
    let ready = clock.monotonic();
    world.platform.wait_for_calls("etl", calls).await?;
    let first_call = clock.monotonic();
    let pid = world.daemon.id()?;
    let resident = eventually("its memory can be read", SOON, async || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
    })
    .await?;
    Ok(Seen { ready, first_call, resident })
}
