//! How fast the queue parks, takes up and settles, on the disk of the temporary directory (`TMPDIR`).
//!
//! `cargo bench --bench queue`. Numbers depend on the disk's flush more than on anything else, so they are printed, not
//! judged. `cargo bench --bench queue -- depth` measures only what a backlog costs: the same questions with nothing,
//! 10,000 and 1,000,000 deliveries parked, and how much slower they are than with nothing.

#![expect(clippy::print_stdout, reason = "printing is what a bench is for")]

#[path = "queue/depth.rs"]
mod depth;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::value::RawValue;
use triggerd::{
    domain::{
        clock::{Clock, SystemClock, Timestamp},
        delivery::{Delivery, FunctionRef},
        event::{Event, StorageName},
        event_name::EventName,
        ids::{BindingId, DeliveryId, EventId},
    },
    queue::{Park, Queue, QueueError, QueueOptions, Retry, SqliteQueue, Ticket},
};

/// Deliveries per measurement.
const COUNT: u32 = 50_000;

fn main() -> Result<(), QueueError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(measure()),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: std::io::Error) -> QueueError {
    QueueError::Failed { verb: "bench", source: Arc::new(sqlx::Error::Io(error)) }
}

async fn measure() -> Result<(), QueueError> {
    if !std::env::args().any(|argument| argument == "depth") {
        pace().await?;
    }
    depth::measure().await
}

async fn pace() -> Result<(), QueueError> {
    let dir = tempfile::tempdir().map_err(failed)?;
    let options = QueueOptions { function_share: 1.0, ..QueueOptions::default() };
    let (queue, writer) = SqliteQueue::open(&dir.path().join("queue.db"), &options).await?;
    tokio::spawn(writer.run());
    let clock = SystemClock::new();

    park(&queue, &clock, 0, 1, 500).await?;
    let mut first = 500;
    for waiting in [32, 128, 1_024] {
        park(&queue, &clock, first, waiting, COUNT).await?;
        first += COUNT;
    }
    let (used, _) = queue.usage().await?;
    println!("{first} parked in {} MiB, {} bytes each", used >> 20, used / u64::from(first));

    let begin = clock.monotonic();
    queue.backlog().await?;
    println!("backlog: {:?}", clock.monotonic().saturating_sub(begin));
    let begin = clock.monotonic();
    let due = queue.due(&function(), NOW, &[], 64).await?;
    println!("64 due of {first}: {:?}", clock.monotonic().saturating_sub(begin));
    drop(due);

    retry(&queue, &clock, 1_024).await?;
    delivered(&queue, &clock, first).await
}

const NOW: Timestamp = Timestamp::from_micros(1_763_740_000_000_000);

async fn park(
    queue: &SqliteQueue,
    clock: &SystemClock,
    first: u32,
    waiting: usize,
    count: u32,
) -> Result<(), QueueError> {
    let deliveries: Vec<Delivery> = (first..first + count).map(delivery).collect();
    let commits = queue.commits();
    let begin = clock.monotonic();
    let results = stream::iter(deliveries)
        .map(|delivery| {
            let park = Park { delivery, due: NOW, held: false, attempt: None, ticket: Ticket::default() };
            queue.park(park)
        })
        .buffer_unordered(waiting);
    check(results.collect().await)?;
    report(&format!("park, {waiting} waiting"), count, clock, begin);
    println!("    {} a commit", u64::from(count) / (queue.commits() - commits).max(1));
    Ok(())
}

async fn retry(queue: &SqliteQueue, clock: &SystemClock, waiting: usize) -> Result<(), QueueError> {
    let begin = clock.monotonic();
    let retries = (0..COUNT).map(|n| Retry {
        id: id(n),
        due: NOW.plus(Duration::from_secs(9)),
        held: false,
        attempts: 1,
        tries: 1,
        earlier: 0,
        attempt: None,
    });
    let results = stream::iter(retries).map(|retry| queue.retry(retry)).buffer_unordered(waiting);
    check(results.collect().await)?;
    report(&format!("retry, {waiting} waiting"), COUNT, clock, begin);
    Ok(())
}

async fn delivered(queue: &SqliteQueue, clock: &SystemClock, count: u32) -> Result<(), QueueError> {
    let begin = clock.monotonic();
    let results = stream::iter(0..count).map(|n| queue.delivered(id(n))).buffer_unordered(1_024);
    check(results.collect().await)?;
    report("delivered, 1024 waiting", count, clock, begin);
    Ok(())
}

fn check<T>(results: Vec<Result<T, QueueError>>) -> Result<(), QueueError> {
    results.into_iter().try_for_each(|result| result.map(drop))
}

fn report(what: &str, count: u32, clock: &SystemClock, begin: Duration) {
    let took = clock.monotonic().saturating_sub(begin);
    println!("{what}: {:.0}/s", f64::from(count) / took.as_secs_f64());
}

fn function() -> FunctionRef {
    FunctionRef { platform: "local".into(), name: "resize".into() }
}

/// `VmRSS` of this process, in MiB; 0 where it cannot be read.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}

fn id(n: u32) -> DeliveryId {
    delivery(n).id
}

/// A delivery whose stored event has about 1 KiB.
fn delivery(n: u32) -> Delivery {
    let record = format!(r#"{{"n":{n},"pad":"{}"}}"#, "x".repeat(700));
    let id = EventId::of_record("default", record.as_bytes());
    let event = Event {
        id,
        storage: StorageName::new("default"),
        bucket: "photos".into(),
        key: format!("in/{n}.jpg"),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: NOW,
        size: Some(7),
        etag: Some("d41d8cd98f00b204e9800998ecf8427e".into()),
        content_type: Some("image/jpeg".into()),
        version_id: None,
        sequencer: Some("187A2B3C4D5E6F70".into()),
        principal: "alice".into(),
        user_metadata: std::iter::once(("content-type".into(), "image/jpeg".into())).collect(),
        record: RawValue::from_string(record).unwrap_or_default(),
    };
    Delivery::new(Arc::new(event), BindingId::from_bytes([1; 16]), function(), NOW)
}
