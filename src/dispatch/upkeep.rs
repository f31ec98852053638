//! What goes on beside the pump, so that the pump waits for none of it.
//!
//! **Each second:** what the functions' bindings allow is asked for anew; lanes of functions that no binding calls (any
//! more; a handler function never has one that does), and that have nothing to do, are forgotten, save what their last
//! calls came to: `triggerd functions` shows it, of the [`CALLED`] that were called last; gauges are set. Their labels are the platforms of the config (and
//! those that the queue still has deliveries of), never functions, of which there may be any number: `triggerd functions`
//! shows those.
//!
//! **Each half minute, a sweep** asks the queue itself: for what is due and nobody told of, for what is due later than any
//! wait can last, and for deliveries that are held though their binding is well (it was released while the mirror was behind) or gone (they become dead letters).
//!
//! **Breakers on disk.** When a breaker turns, its function is noted, and a loop writes what is true then: off the path
//! of every event, and once for turns that follow each other quickly. So after a crash the file may lag by a moment: an
//! open breaker that is not in it costs a few calls until it opens again, one that is in it and was closed costs a probe.

use std::{cmp::Reverse, collections::BTreeMap, mem, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{Deliveries, Dispatcher, breaker::Turn, lane::Lane, lock, parked::PERIOD};
use crate::{
    domain::{clock::Timestamp, delivery::FunctionRef, outcome::Outcome, retry::RetryPolicy},
    queue::{Backlog, QueueError},
    telemetry::{Metric, happening::BreakerTurned},
};

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(30);

/// Lanes that are refreshed before the pump has its turn.
const YIELD: usize = 64;

/// Records of breakers that are written at once.
const WRITES: usize = 64;

/// Functions that no binding calls whose last calls are remembered.
pub(super) const CALLED: usize = 1_000;

/// What is left of a breaker that should have closed this long ago.
const STALE: Duration = Duration::from_hours(1);

impl Dispatcher {
    /// Takes up the breakers that were open when the process ended before. To be called once, before the first event.
    pub async fn restore(&self) -> Result<(), QueueError> {
        let parts = &self.inner.parts;
        let now = parts.clock.now();
        for kept in parts.queue.function_states().await? {
            if now.since(kept.open_until) < STALE {
                let lane = self.lane(&kept.function, 1);
                tracing::info!(function = %kept.function, open_until = %kept.open_until, reason = %kept.reason,
                    "the function was away before the restart; a probe will tell whether it is back");
                lane.restore(kept, now, parts.clock.monotonic());
            } else {
                lock(&self.inner.turned).insert(kept.function);
                self.inner.turn.notify_one();
            }
        }
        Ok(())
    }

    pub(super) async fn upkeep(&self) {
        let clock = &self.inner.parts.clock;
        let mut swept = clock.monotonic();
        while !self.inner.soft.is_cancelled() {
            let mut unbound = Vec::new();
            for (number, lane) in self.lanes().into_iter().enumerate() {
                // What is remembered is there at once, and the pump shares this task.
                if number % YIELD == YIELD - 1 {
                    tokio::task::yield_now().await;
                }
                if !self.refresh(&lane).await {
                    unbound.push(lane.function.clone());
                }
            }
            self.forget_idle(&unbound);
            self.tell_flows();
            if clock.monotonic().saturating_sub(swept) >= SWEEP {
                swept = clock.monotonic();
                if let Err(error) = self.sweep().await {
                    self.note_trouble("sweep", &error);
                }
            }
            tokio::select! {
                biased;
                () = self.inner.soft.cancelled() => (),
                () = tokio::time::sleep(PERIOD) => (),
            }
        }
    }

    /// Forgets the lanes of these functions that nobody uses, but not what the last calls came to of those that were
    /// called last.
    pub(super) fn forget_idle(&self, functions: &[FunctionRef]) {
        let mut lanes = lock(&self.inner.lanes);
        let mut called = Vec::new();
        for function in functions {
            // Held by the map alone; and while the map is locked, nobody else can take it.
            let unused = |lane: &&Arc<Lane>| Arc::strong_count(lane) == 1 && lane.is_idle();
            let Some(lane) = lanes.get(function).filter(unused) else { continue };
            match lane.called_at() {
                Some(at) => called.push((Reverse(at), function)),
                None => drop(lanes.remove(function)),
            }
        }
        called.sort_unstable();
        for (_, function) in called.drain(CALLED.min(called.len())..) {
            lanes.remove(function);
        }
        for (_, function) in called {
            if let Some(anew) = lanes.get(function).and_then(|lane| lane.begun_anew()) {
                lanes.insert(function.clone(), anew);
            }
        }
    }

    /// Asks what the bindings of a lane's function allow; whether there are any.
    pub(super) async fn refresh(&self, lane: &Lane) -> bool {
        let parts = &self.inner.parts;
        let Some(mut limits) = parts.bindings.function_limits(&lane.function).await else { return false };
        limits.concurrency = self.limit(limits.concurrency);
        lane.set_limits(limits, parts.clock.monotonic());
        true
    }

    /// Takes note of what the queue holds and nobody may have told of.
    pub(super) async fn sweep(&self) -> Result<(), QueueError> {
        self.release_strays().await?;
        self.note_backlog().await
    }

    /// Tells each lane what is due in its function, and the operator how much waits.
    pub(super) async fn note_backlog(&self) -> Result<(), QueueError> {
        let parts = &self.inner.parts;
        let now = parts.clock.now();
        let mut waiting = self.by_platform();
        for backlog in parts.queue.backlog().await? {
            let (count, age) = waiting.entry(Arc::clone(&backlog.function.platform)).or_default();
            *count += gauge(backlog.parked + backlog.held + backlog.awaiting);
            *age = age.max(backlog.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
            if self.bring_forward(&backlog, now).await? {
                self.lane(&backlog.function, 1).note_parked(now);
            }
            if let Some(due) = backlog.earliest_due {
                self.lane(&backlog.function, 1).note_parked(due);
            }
        }
        for (platform, (count, age)) in waiting {
            let labels = [("platform", platform.to_string())];
            Metric::ParkedDeliveries.set(count, &labels);
            Metric::ParkedOldest.set(age, &labels);
        }
        Ok(())
    }

    /// Has what is due later than any wait of its function can last be due now; whether there was anything. A jump of the
    /// wall clock while nobody looked makes such moments, and a binding whose longest wait was shortened.
    async fn bring_forward(&self, backlog: &Backlog, now: Timestamp) -> Result<bool, QueueError> {
        let parts = &self.inner.parts;
        let wait = backlog.latest_due.map_or(Duration::ZERO, |latest| latest.since(now));
        if wait <= RetryPolicy::LEAST_LONGEST {
            return Ok(false);
        }
        // No binding fires a handler function; it is asked once an hour, at least.
        let limits = parts.bindings.function_limits(&backlog.function).await;
        let longest = limits.map_or(RetryPolicy::LEAST_LONGEST, |limits| limits.longest_wait);
        if wait <= longest {
            return Ok(false);
        }
        let count = parts.queue.bring_forward(&backlog.function, now.plus(longest), now).await?;
        tracing::warn!(function = %backlog.function, count,
            "deliveries were due later than any wait can last, and are due now; was the clock set back?");
        Ok(count > 0)
    }

    /// Tells how many functions of each platform are away or shrunk.
    fn tell_flows(&self) {
        let mut flows = self.by_platform();
        for flow in self.flows() {
            let (open, shrunk) = flows.entry(Arc::clone(&flow.function.platform)).or_default();
            *open += gauge(u64::from(flow.breaker != "closed"));
            *shrunk += gauge(u64::from(flow.concurrency < flow.concurrency_limit));
        }
        for (platform, (open, shrunk)) in flows {
            let labels = [("platform", platform.to_string())];
            Metric::BreakersOpen.set(open, &labels);
            Metric::FunctionsShrunk.set(shrunk, &labels);
        }
    }

    /// Two numbers for each platform of the config, from nothing.
    fn by_platform(&self) -> BTreeMap<Arc<str>, (f64, f64)> {
        self.inner.parts.drivers.keys().map(|platform| (Arc::clone(platform), (0.0, 0.0))).collect()
    }

    /// Notes that a breaker turned.
    pub(super) fn note_turn(&self, function: &FunctionRef, turn: Turn, outcome: &Outcome) {
        let (open_for, first) = match turn {
            Turn::Opened { wait, first } => (Some(wait), first),
            Turn::Closed => (None, false),
        };
        BreakerTurned { function, open_for, first, outcome }.tell();
        lock(&self.inner.turned).insert(function.clone());
        self.inner.turn.notify_one();
    }

    /// Writes the breakers that turned; at the soft stop once more, and ends.
    pub(super) async fn keep_breakers(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.inner.turn.notified() => (),
                () = self.inner.soft.cancelled() => (),
            }
            let stopping = self.inner.soft.is_cancelled();
            let turned = mem::take(&mut *lock(&self.inner.turned));
            let turned: Vec<FunctionRef> = turned.into_iter().collect();
            let mut failed = false;
            for functions in turned.chunks(WRITES) {
                for (function, written) in functions.iter().zip(self.write_breakers(functions).await) {
                    if let Err(error) = written {
                        self.note_trouble("keep a breaker", &error);
                        lock(&self.inner.turned).insert(function.clone());
                        failed = true;
                    }
                }
            }
            if stopping {
                return;
            }
            if failed {
                self.inner.turn.notify_one();
                tokio::time::sleep(PERIOD).await;
            }
        }
    }

    async fn write_breakers(&self, functions: &[FunctionRef]) -> Vec<Result<(), QueueError>> {
        let parts = &self.inner.parts;
        let (now, monotonic) = (parts.clock.now(), parts.clock.monotonic());
        let writes = functions.iter().map(|function| {
            let lane = lock(&self.inner.lanes).get(function).cloned();
            let state = lane.and_then(|lane| lane.to_keep(now, monotonic));
            parts.queue.keep_function_state(function.clone(), state)
        });
        join_all(writes).await
    }
}

/// A count as a gauge shows it.
fn gauge(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
