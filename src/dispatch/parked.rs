//! The pump: takes up parked deliveries that are due, per function, only for free permits.
//!
//! **In turn.** In one round each function gets one batch at most, so that none waits for the backlog of another.
//!
//! **What wakes it:** a lane's next due time, something newly parked or due again, a permit that comes back to a lane
//! that is behind, the end of an attempt whose delivery it had passed over. Beside that a sweep, now and then, asks the
//! queue itself: for what is due and nobody told of, and for deliveries that are held though their binding is well (it
//! was released while the mirror was behind) or gone (they become dead letters).

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use super::{Dispatcher, Running, lane::Lane, lane::LanePermit, lock};
use crate::{
    domain::{
        binding::{Binding, State},
        clock::Timestamp,
        delivery::{DeadReason, Delivery},
        ids::BindingId,
    },
    queue::{QueueError, Retry},
    settle::is_too_old,
    telemetry::Chain,
};

/// Longest time between two looks; also how soon a changed concurrency is in force.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(30);

/// Most deliveries taken up by one look at one function.
const BATCH: usize = 64;

/// Whether a delivery that came due can be tried.
enum Fit {
    /// With this binding.
    Try(Arc<Binding>),
    /// Not now; when it is due again, if at all.
    Later(Option<Timestamp>),
}

impl Dispatcher {
    /// Runs the pump until a soft stop, with a `beat` in each round. An error is the queue's, at start.
    pub async fn run(&self, beat: impl Fn() + Send) -> Result<(), QueueError> {
        let parts = &self.inner.parts;
        self.sweep().await?;
        let mut swept = parts.clock.monotonic();
        while !self.inner.soft.is_cancelled() {
            self.round().await;
            if parts.clock.monotonic().saturating_sub(swept) >= SWEEP {
                swept = parts.clock.monotonic();
                if let Err(error) = self.sweep().await {
                    self.note_trouble("sweep", &error);
                }
            }
            beat();
            if self.inner.trouble.swap(false, Ordering::AcqRel) {
                self.pause(PERIOD, false).await;
                continue;
            }
            let now = parts.clock.now();
            let wait = self.lanes().iter().filter_map(|lane| lane.next_due()).map(|due| due.since(now)).min();
            // What a lane has beyond its turn is taken up after the least pause.
            self.pause(wait.unwrap_or(PERIOD).clamp(Duration::from_millis(5), PERIOD), true).await;
        }
        Ok(())
    }

    async fn pause(&self, wait: Duration, wakeable: bool) {
        tokio::select! {
            biased;
            () = self.inner.soft.cancelled() => (),
            () = self.inner.pump.notified(), if wakeable => (),
            () = tokio::time::sleep(wait) => (),
        }
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.inner.lanes).values().cloned().collect()
    }

    /// Looks at every lane that may have something due.
    async fn round(&self) {
        // Asked each round, so that a jump is noticed while nothing else happens.
        self.inner.ages.in_doubt(self.inner.parts.clock.as_ref());
        for lane in self.lanes() {
            if self.inner.soft.is_cancelled() {
                return;
            }
            if let Some(limit) = self.inner.parts.bindings.function_limit(&lane.function).await {
                lane.set_limit(self.limit(limit));
            }
            let now = self.inner.parts.clock.now();
            if lane.take_due(now)
                && let Err(error) = self.serve(&lane, now).await
            {
                lane.looked(false, Some(now.plus(PERIOD)));
                self.note_trouble("take up due deliveries", &error);
            }
        }
    }

    async fn serve(&self, lane: &Arc<Lane>, now: Timestamp) -> Result<(), QueueError> {
        let queue = &self.inner.parts.queue;
        let mut permits: Vec<LanePermit> = Vec::new();
        while permits.len() < BATCH
            && let Some(permit) = lane.try_permit()
        {
            permits.push(permit);
        }
        if permits.is_empty() {
            // Woken by the permit that comes back; one that has just done so wakes it by going once more.
            lane.looked(true, None);
            drop(lane.try_permit());
            return Ok(());
        }
        let running = self.pass_over(&lane.function);
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let due = queue.due(&lane.function, now, &running, limit).await?;
        let all = due.len() < permits.len();
        for delivery in due {
            let (Some(permit), Some(running)) = (permits.pop(), self.claim(&delivery)) else { continue };
            let dispatcher = self.clone();
            self.inner.tracker.spawn(async move { dispatcher.parked(delivery, permit, running).await });
        }
        if all {
            let running = self.pass_over(&lane.function);
            lane.looked(false, queue.next_due(&lane.function, &running).await?);
        } else {
            lane.looked(true, Some(now));
        }
        Ok(())
    }

    /// Takes note of what the queue holds and nobody may have told of.
    async fn sweep(&self) -> Result<(), QueueError> {
        self.release_strays().await?;
        self.note_backlog().await
    }

    /// Releases deliveries that nothing holds any more; how many. They became held a moment too late: after their
    /// binding was well again, or gone (while we were away, for example). The pump makes dead letters of the latter.
    pub async fn release_strays(&self) -> Result<u64, QueueError> {
        let parts = &self.inner.parts;
        let mut released = 0;
        for binding in parts.queue.held_bindings().await? {
            if self.may_go(binding).await {
                released += parts.queue.hold(binding, false, parts.clock.now()).await?;
            }
        }
        if released > 0 {
            self.note_backlog().await?;
        }
        Ok(released)
    }

    /// Tells each lane what is due in its function.
    pub(super) async fn note_backlog(&self) -> Result<(), QueueError> {
        for backlog in self.inner.parts.queue.backlog().await? {
            if let Some(due) = backlog.earliest_due {
                self.lane(&backlog.function, 1).note_parked(due);
            }
        }
        Ok(())
    }

    /// Whether deliveries of a binding are to be held no longer: it is well, or gone.
    async fn may_go(&self, binding: BindingId) -> bool {
        match self.inner.parts.bindings.binding(binding).await {
            Ok(Some(binding)) => matches!(binding.state, State::Armed | State::Active),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Releases a delivery that was parked as held, if its binding became well (and was released) just before.
    pub(super) async fn release_if_well(
        &self,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<(), QueueError> {
        if self.may_go(delivery.binding).await
            && let Fit::Later(Some(due)) = self.put_off(delivery, now, false).await?
        {
            self.lane(&delivery.function, 1).note_parked(due);
        }
        Ok(())
    }

    /// Tries a parked delivery, or holds or buries it, as its binding is now.
    pub(super) async fn parked(&self, delivery: Delivery, permit: LanePermit, running: Running) {
        let due = match self.fit_to_try(&delivery).await {
            Ok(Fit::Try(binding)) => {
                let made = self.attempt(&binding, &delivery).await;
                drop(permit);
                return self.record_parked(&delivery, made, running).await;
            }
            Ok(Fit::Later(due)) => due,
            Err(error) => {
                self.note_trouble("put a delivery off", &error);
                Some(self.inner.parts.clock.now())
            }
        };
        drop((running, permit));
        if let Some(due) = due {
            self.lane(&delivery.function, 1).note_parked(due);
        }
    }

    /// The binding to try a delivery with, or what was recorded in its stead.
    async fn fit_to_try(&self, delivery: &Delivery) -> Result<Fit, QueueError> {
        let parts = &self.inner.parts;
        let now = parts.clock.now();
        let binding = match parts.bindings.binding(delivery.binding).await {
            Ok(Some(binding)) => binding,
            Ok(None) => {
                self.bury(delivery, DeadReason::Unbound, None).await?;
                return Ok(Fit::Later(None));
            }
            Err(error) => {
                tracing::error!(error = %Chain(error.as_ref()), binding = %delivery.binding,
                    "the local relations cannot be read; its deliveries wait");
                return self.put_off(delivery, now.plus(PERIOD), false).await;
            }
        };
        if !matches!(binding.state, State::Armed | State::Active) {
            return self.hold_back(delivery, now).await;
        }
        if is_too_old(delivery, &binding.spec, now) && !self.inner.ages.in_doubt(parts.clock.as_ref()) {
            self.bury(delivery, DeadReason::TooOld, None).await?;
            return Ok(Fit::Later(None));
        }
        Ok(Fit::Try(binding))
    }

    /// Held: degraded and paused until the binding is well again, unbinding until the reconciler clears it.
    async fn hold_back(&self, delivery: &Delivery, now: Timestamp) -> Result<Fit, QueueError> {
        let held = self.put_off(delivery, now, true).await?;
        // The binding may have become well, and its deliveries released, between our look and our write.
        if self.may_go(delivery.binding).await { self.put_off(delivery, now, false).await } else { Ok(held) }
    }

    async fn put_off(&self, delivery: &Delivery, due: Timestamp, held: bool) -> Result<Fit, QueueError> {
        let (attempts, tries) = (delivery.attempts, delivery.tries);
        let retry = Retry { id: delivery.id, due, held, attempts, tries, attempt: None };
        let there = self.inner.parts.queue.retry(retry).await?;
        Ok(Fit::Later((there && !held).then_some(due)))
    }
}
