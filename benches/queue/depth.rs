//! What a backlog costs: the same questions with nothing, little and much parked; and moving it to another host.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::Path,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use triggerd::{
    domain::{
        clock::{Clock, SystemClock},
        delivery::{Delivery, FunctionRef},
    },
    queue::{OfflineQueue, Park, Queue, QueueError, QueueOptions, SqliteQueue, Ticket},
};

use super::{NOW, check, delivery, failed, function, id, resident};

/// How many are parked; another last number can be given as an argument.
const DEPTHS: [u32; 3] = [0, 10_000, 1_000_000];
/// Deliveries in one park of the backlog, and in the measured one.
const BATCH: u32 = 512;
/// Times that each question is asked; the median is shown.
const ASKED: usize = 101;

/// What one depth costs, in microseconds, and the resident memory in MiB.
struct Costs {
    rows: Vec<(&'static str, f64)>,
    resident: u64,
}

pub(super) async fn measure() -> Result<(), QueueError> {
    let mut all = Vec::new();
    let mut depths = DEPTHS;
    if let Some(last) = std::env::args().find_map(|argument| argument.parse().ok()) {
        depths[2] = last;
    }
    for depth in depths {
        all.push(at(depth).await?);
        println!("measured with {depth} parked");
    }
    println!();
    println!("| median, in microseconds | {depths:?} parked | ratio to none |");
    println!("|---|---|---|");
    for row in 0..all[0].rows.len() {
        let costs: Vec<f64> = all.iter().map(|costs| costs.rows[row].1).collect();
        let shown: Vec<String> = costs.iter().map(|cost| format!("{cost:.0}")).collect();
        let ratios: Vec<String> = costs.iter().map(|cost| format!("{:.2}", cost / costs[0])).collect();
        println!("| {} | {} | {} |", all[0].rows[row].0, shown.join(", "), ratios.join(", "));
    }
    let resident: Vec<String> = all.iter().map(|costs| costs.resident.to_string()).collect();
    println!("| resident memory, MiB | {} | |", resident.join(", "));
    Ok(())
}

fn options() -> QueueOptions {
    QueueOptions { function_share: 1.0, max_bytes: 64 << 30, ..QueueOptions::default() }
}

fn quick() -> FunctionRef {
    FunctionRef { platform: "local".into(), name: "quick".into() }
}

/// Parked again and again under new ids, so that the depth stays what it is.
fn neighbours(round: u32) -> Vec<Delivery> {
    let first = 2_000_000_000 + round * BATCH;
    (first..first + BATCH).map(|n| Delivery { function: quick(), ..delivery(n) }).collect()
}

async fn park(queue: &SqliteQueue, deliveries: Vec<Delivery>) -> Result<(), QueueError> {
    let results = stream::iter(deliveries)
        .map(|delivery| {
            queue.park(Park { delivery, due: NOW, held: false, attempt: None, ticket: Ticket::default() })
        })
        .buffer_unordered(BATCH as usize);
    check(results.collect().await)
}

async fn at(depth: u32) -> Result<Costs, QueueError> {
    let dir = tempfile::tempdir().map_err(failed)?;
    let path = dir.path().join("queue.db");
    fill(&path, depth).await?;
    let clock = SystemClock::new();

    // A start, up to the deliveries of the first round.
    let mut starts = Vec::new();
    for _ in 0..5 {
        let begin = clock.monotonic();
        let (queue, writer) = SqliteQueue::open(&path, &options()).await?;
        let writer = tokio::spawn(writer.run());
        queue.held_bindings().await?;
        queue.backlog().await?;
        queue.due(&function(), NOW, &[], 64).await?;
        starts.push(clock.monotonic().saturating_sub(begin));
        queue.close().await;
        drop(writer.await);
    }

    let (queue, writer) = SqliteQueue::open(&path, &options()).await?;
    let writer = tokio::spawn(writer.run());
    let (mut due, mut next, mut backlog, mut parks, mut settled) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..ASKED {
        due.push(took(&clock, queue.due(&function(), NOW, &[], 64)).await?);
        next.push(took(&clock, queue.next_due(&function(), &[])).await?);
        backlog.push(took(&clock, queue.backlog()).await?);
        let neighbours = neighbours(u32::try_from(round).unwrap_or(0));
        let ids: Vec<_> = neighbours.iter().map(|delivery| delivery.id).collect();
        parks.push(took(&clock, park(&queue, neighbours)).await?);
        let results = stream::iter(ids).map(|id| queue.delivered(id)).buffer_unordered(BATCH as usize);
        let all = async { check(results.collect().await) };
        settled.push(took(&clock, all).await?);
    }
    let resident = resident();
    if depth > 0 {
        // The oldest is among them, and in its place.
        let first = queue.due(&function(), NOW, &[], 1).await?;
        println!("oldest first: {}", first.first().is_some_and(|delivery| delivery.id == id(0)));
    }
    queue.close().await;
    drop(writer.await);
    moved(dir.path(), depth, &clock).await?;
    let rows = vec![
        ("64 due deliveries of the function that is behind", median(due)),
        ("when its next is due", median(next)),
        ("what every function has parked", median(backlog)),
        ("512 of another function parked", median(parks)),
        ("the same 512 settled", median(settled)),
        ("a start, to the first 64 due", median(starts)),
    ];
    Ok(Costs { rows, resident })
}

/// Exports everything and imports it elsewhere.
async fn moved(from: &Path, depth: u32, clock: &SystemClock) -> Result<(), QueueError> {
    let to = tempfile::tempdir().map_err(failed)?;
    let export = to.path().join("export");
    let other = |error: String| failed(std::io::Error::other(error));
    let begin = clock.monotonic();
    let queue = OfflineQueue::read(from, &options()).await.map_err(|error| other(error.to_string()))?;
    let out = BufWriter::new(File::create(&export).map_err(failed)?);
    queue.export(out).await.map_err(|error| other(error.to_string()))?;
    let exported = clock.monotonic();
    let queue = OfflineQueue::write(to.path(), &options()).await.map_err(|error| other(error.to_string()))?;
    let from = BufReader::new(File::open(&export).map_err(failed)?);
    let imported = queue.import(from).await.map_err(|error| other(error.to_string()))?;
    let rows: u64 = imported.rows.iter().map(|count| count.rows).sum();
    println!(
        "{depth} parked: exported in {:?}, {rows} rows imported in {:?}, {} MiB resident",
        exported.saturating_sub(begin),
        clock.monotonic().saturating_sub(exported),
        resident()
    );
    Ok(())
}

async fn fill(path: &Path, depth: u32) -> Result<(), QueueError> {
    let (queue, writer) = SqliteQueue::open(path, &options()).await?;
    let writer = tokio::spawn(writer.run());
    for first in (0..depth).step_by(BATCH as usize) {
        park(&queue, (first..depth.min(first + BATCH)).map(delivery).collect()).await?;
    }
    queue.close().await;
    drop(writer.await);
    Ok(())
}

async fn took<T>(
    clock: &SystemClock,
    asked: impl Future<Output = Result<T, QueueError>>,
) -> Result<Duration, QueueError> {
    let begin = clock.monotonic();
    asked.await?;
    Ok(clock.monotonic().saturating_sub(begin))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
