//! What was sent and what arrived, by number. Every event of a run of this program has its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::sync::Notify;
use triggerd::domain::clock::{Clock, SystemClock};

use crate::harness::wait::wait_for;

/// How long the last event of a load may take. What has not arrived by then is lost.
const LAST: Duration = Duration::from_mins(1);

/// Times are nanoseconds of the ledger's clock.
#[derive(Debug)]
pub(crate) struct Ledger {
    clock: SystemClock,
    marks: Box<[Mark]>,
    given: AtomicUsize,
    arrived: AtomicUsize,
    latest: AtomicU64,
    /// Told at each first arrival.
    pub(crate) arrival: Notify,
}

#[derive(Debug, Default)]
struct Mark {
    sent: AtomicU64,
    took: AtomicU64,
    calls: AtomicU32,
}

/// One load: a range of numbers.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    first: usize,
    count: usize,
    next: AtomicUsize,
    arrived_before: usize,
}

/// What a load showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrivals {
    /// First calls of the function in a second, from the first event sent to the last call.
    pub(crate) per_second: f64,
    /// From sending an event to its first call, in microseconds.
    pub(crate) p50: f64,
    /// The same, of the slowest hundredth.
    pub(crate) p99: f64,
}

impl Ledger {
    /// Room for this many events.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            clock: SystemClock::new(),
            marks: (0..capacity).map(|_| Mark::default()).collect(),
            given: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            latest: AtomicU64::new(0),
            arrival: Notify::new(),
        })
    }

    /// The next numbers for a load of this many events.
    pub(crate) fn load(self: &Arc<Self>, count: usize) -> Result<Load> {
        let first = self.given.fetch_add(count, Ordering::Relaxed);
        self.marks.get(first + count - 1).context("the ledger is too small")?;
        let arrived_before = self.arrived.load(Ordering::Acquire);
        Ok(Load { ledger: Arc::clone(self), first, count, next: AtomicUsize::new(first), arrived_before })
    }

    /// The function was called with the event of this number.
    pub(crate) fn called(&self, number: usize) {
        let Some(mark) = self.marks.get(number) else { return };
        if mark.calls.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let now = self.now();
        mark.took.store(now.saturating_sub(mark.sent.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.latest.store(now, Ordering::Relaxed);
        self.arrived.fetch_add(1, Ordering::Release);
        self.arrival.notify_one();
    }

    /// Calls beyond the first, of all events.
    pub(crate) fn repeats(&self) -> u32 {
        self.marks.iter().map(|mark| mark.calls.load(Ordering::Relaxed).saturating_sub(1)).sum()
    }

    /// Events sent whose function was never called.
    pub(crate) fn lost(&self) -> usize {
        self.given.load(Ordering::Relaxed) - self.arrived.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Load {
    /// The next event to send, if one is left; its time begins.
    pub(crate) fn next(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.first + self.count {
            return None;
        }
        self.ledger.marks[number].sent.store(self.ledger.now(), Ordering::Relaxed);
        Some(number)
    }

    /// Events sent whose function was not called yet.
    pub(crate) fn in_flight(&self) -> usize {
        let sent = self.next.load(Ordering::Relaxed).min(self.first + self.count) - self.first;
        sent.saturating_sub(self.arrived())
    }

    fn arrived(&self) -> usize {
        self.ledger.arrived.load(Ordering::Acquire) - self.arrived_before
    }

    /// Waits until every event has arrived. Fails, with their number, when some do not.
    pub(crate) async fn arrivals(&self) -> Result<Arrivals> {
        let all = wait_for("every event arrives", LAST, async || self.arrived() >= self.count).await;
        all.with_context(|| format!("LOST: {} of {} events", self.count - self.arrived(), self.count))?;
        let marks = &self.ledger.marks[self.first..self.first + self.count];
        let began = marks.iter().map(|mark| mark.sent.load(Ordering::Relaxed)).min().unwrap_or(0);
        let took = self.ledger.latest.load(Ordering::Relaxed).saturating_sub(began);
        let mut latencies: Vec<u64> = marks.iter().map(|mark| mark.took.load(Ordering::Relaxed)).collect();
        latencies.sort_unstable();
        let at = |hundredths: usize| micros(latencies[(self.count * hundredths / 100).min(self.count - 1)]);
        Ok(Arrivals { per_second: count(self.count) / (micros(took) / 1e6), p50: at(50), p99: at(99) })
    }

    /// How many events it has.
    pub(crate) fn count(&self) -> f64 {
        count(self.count)
    }
}

/// As a number to reckon with.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}
