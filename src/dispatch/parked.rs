//! The pump: takes up parked deliveries that are due, per function, only for free permits.
//!
//! **In turn.** The pump works off the agenda in its order, one batch for each lane at most; what a lane has beyond that
//! stands behind the others. So none waits for the backlog of another, and none for another's function: the pump hands
//! deliveries on to tasks of their own.
//!
//! **What wakes it:** a lane that lists itself (something newly parked or due again, a permit that comes back to a lane
//! that is behind, the end of an attempt whose delivery it had passed over), and a lane's alarm (the next due time, the
//! rate's next token, the end of the breaker's time). Once a second it looks at every lane; so an alarm is set for no
//! longer than that.
//!
//! While a breaker is open, the pump takes up only the probe: the delivery that is due longest.

use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering, time::Duration};

use super::{
    Dispatcher, Running,
    attempt::Made,
    lane::{Count, Lane, LanePermit, Refused},
    lock,
};
use crate::{
    domain::{
        binding::{Binding, State},
        clock::Timestamp,
        delivery::{DeadReason, Delivery, FunctionRef},
        ids::BindingId,
    },
    queue::{QueueError, Retry, Wait},
    settle::is_too_old,
    telemetry::Chain,
};

/// Longest time between two looks at a lane; also how soon changed limits are in force.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Least time between two looks for alarms, so that many that ring one after the other are answered together.
const PAUSE: Duration = Duration::from_millis(5);

/// Most deliveries taken up by one look at one function.
const BATCH: usize = 64;

/// Deliveries of one function that attempts may own beside those that can run at once: their outcome is still to be written
/// down. A function that fails faster than that is not called more often, and the file's other users need not wait.
pub(super) const UNRECORDED: usize = 4 * BATCH;

/// Whether a delivery that came due can be tried.
pub(super) enum Fit {
    /// With this binding, by this permit.
    Try(Arc<Binding>, LanePermit),
    /// It awaited the result of an attempt, which has ended so.
    Overdue(Box<Made>),
    /// Not now; when it is due again, if at all.
    Later(Option<Timestamp>),
}

/// When which lane is to be looked at without being told.
type Alarms = BTreeSet<(Duration, FunctionRef)>;

impl Dispatcher {
    /// Runs the pump, and what goes on beside it, until a soft stop, with a `beat` in each round of the pump. An error is
    /// the queue's, at start.
    pub async fn run(&self, beat: impl Fn() + Send) -> Result<(), QueueError> {
        self.sweep().await?;
        tokio::join!(biased; self.pump(beat), self.upkeep(), self.keep_breakers());
        Ok(())
    }

    async fn pump(&self, beat: impl Fn() + Send) {
        let parts = &self.inner.parts;
        let (mut alarms, mut all_at) = (Alarms::new(), parts.clock.monotonic());
        while !self.inner.soft.is_cancelled() {
            let now = parts.clock.monotonic();
            if all_at <= now {
                all_at = now + PERIOD;
                self.lanes().iter().for_each(Lane::look);
            }
            self.ring(&mut alarms, now);
            self.round(&mut alarms).await;
            beat();
            if self.inner.trouble.swap(false, Ordering::AcqRel) {
                self.pause(PERIOD, false).await;
                continue;
            }
            let next = alarms.first().map_or(all_at, |(at, _)| all_at.min(*at));
            let wait = next.saturating_sub(parts.clock.monotonic());
            self.pause(wait.clamp(PAUSE, PERIOD), true).await;
        }
    }

    async fn pause(&self, wait: Duration, wakeable: bool) {
        tokio::select! {
            biased;
            () = self.inner.soft.cancelled() => (),
            () = self.inner.agenda.listed(), if wakeable => (),
            () = tokio::time::sleep(wait) => (),
        }
    }

    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.inner.lanes).values().cloned().collect()
    }

    /// Lists the lanes whose alarm rings.
    fn ring(&self, alarms: &mut Alarms, now: Duration) {
        while let Some(alarm) = alarms.pop_first() {
            if alarm.0 > now {
                alarms.insert(alarm);
                return;
            }
            let lane = lock(&self.inner.lanes).get(&alarm.1).cloned();
            if let Some(lane) = lane {
                lane.rang();
            }
        }
    }

    /// Looks once at every lane that is listed.
    async fn round(&self, alarms: &mut Alarms) {
        let clock = self.inner.parts.clock.as_ref();
        for lane in self.inner.agenda.take() {
            if self.inner.soft.is_cancelled() {
                return;
            }
            if lane.unlist() {
                self.refresh(&lane).await;
            }
            let now = clock.now();
            if lane.take_due(now, clock.monotonic())
                && let Err(error) = self.serve(&lane, now).await
            {
                lane.looked(false, Some(now.plus(PERIOD)));
                self.note_trouble("take up due deliveries", &error);
            }
            if let Some(at) = lane.set_alarm(clock.now(), clock.monotonic(), PERIOD) {
                alarms.insert((at, lane.function.clone()));
            }
        }
    }

    /// Takes permits, and as many due deliveries as there are.
    async fn serve(&self, lane: &Arc<Lane>, now: Timestamp) -> Result<(), QueueError> {
        let queue = &self.inner.parts.queue;
        let monotonic = self.inner.parts.clock.monotonic();
        let most = lane.at_once().saturating_add(UNRECORDED);
        let room = most.saturating_sub(self.pass_over(lane).len());
        if room == 0 {
            // Woken by the end of any of them.
            lane.looked(true, None);
            return Ok(());
        }
        let mut permits: Vec<LanePermit> = Vec::new();
        let mut refused = None;
        while permits.len() < BATCH.min(room) && refused.is_none() {
            match lane.try_permit(monotonic) {
                Ok(permit) => permits.push(permit),
                Err(why) => refused = Some(why),
            }
        }
        if permits.is_empty() {
            if let Some(Refused::Until(until)) = refused {
                lane.blocked(until, monotonic);
            } else {
                // Woken by the permit that comes back; one that has just done so wakes it by going once more.
                lane.looked(true, None);
                drop(lane.try_permit(monotonic));
            }
            return Ok(());
        }
        let running = self.pass_over(lane);
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let due = queue.due(&lane.function, now, &running, limit).await?;
        let all = due.len() < permits.len();
        for delivery in due {
            let (Some(permit), Some(running)) = (permits.pop(), self.claim(lane, &delivery)) else {
                continue;
            };
            let dispatcher = self.clone();
            self.inner.tracker.spawn(async move { dispatcher.parked(delivery, permit, running).await });
        }
        if all {
            let running = self.pass_over(lane);
            lane.looked(false, queue.next_due(&lane.function, &running).await?);
        } else {
            // Its next turn comes after those of the others.
            lane.looked(true, Some(now));
            lane.look();
        }
        Ok(())
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
        let due = match self.fit_to_try(&delivery, permit).await {
            Ok(Fit::Try(binding, permit)) => {
                let made = self.attempt(&binding, &delivery, permit).await;
                return self.record_parked(&delivery, made, running).await;
            }
            Ok(Fit::Overdue(made)) => {
                return self.record_parked(&delivery, *made, running).await;
            }
            Ok(Fit::Later(due)) => due,
            Err(error) => {
                self.note_trouble("put a delivery off", &error);
                Some(self.inner.parts.clock.now())
            }
        };
        let lane = Arc::clone(&running.lane);
        drop(running);
        match due {
            Some(due) => lane.note_parked(due),
            None => lane.count(Count::Settled, self.inner.parts.clock.monotonic()),
        }
    }

    /// The binding to try a delivery with, or what was recorded in its stead: without the permit, which others can use
    /// while the disk takes its time.
    async fn fit_to_try(&self, delivery: &Delivery, permit: LanePermit) -> Result<Fit, QueueError> {
        let parts = &self.inner.parts;
        let now = parts.clock.now();
        let binding = match parts.bindings.binding(delivery.binding).await {
            Ok(Some(binding)) => binding,
            Ok(None) => {
                drop(permit);
                self.bury_parked(delivery, DeadReason::Unbound, None).await?;
                return Ok(Fit::Later(None));
            }
            Err(error) => {
                drop(permit);
                tracing::error!(error = %Chain(error.as_ref()), binding = %delivery.binding,
                    "the local relations cannot be read; its deliveries wait");
                return self.put_off(delivery, now.plus(PERIOD), false).await;
            }
        };
        if delivery.awaiting.is_some() || binding.spec.await_result().is_some() {
            let as_read =
                |now: &Delivery| (now.number(), now.awaiting) == (delivery.number(), delivery.awaiting);
            match parts.queue.parked(delivery.id).await? {
                Some(row) if as_read(&row) => (),
                // A report was recorded before this attempt owned it.
                row => return Ok(Fit::Later(row.map(|_| now))),
            }
        }
        if let Some(since) = delivery.awaiting {
            drop(permit);
            return match self.grace(since).filter(|until| *until > now) {
                Some(until) => self.put_off(delivery, until, false).await,
                None => self.overdue(&binding, delivery).await,
            };
        }
        if !matches!(binding.state, State::Armed | State::Active) {
            drop(permit);
            return self.hold_back(delivery, now).await;
        }
        if is_too_old(delivery, &binding.spec, now) {
            drop(permit);
            self.bury_parked(delivery, DeadReason::TooOld, None).await?;
            return Ok(Fit::Later(None));
        }
        Ok(Fit::Try(binding, permit))
    }

    /// Held: degraded and paused until the binding is well again, unbinding until the reconciler clears it.
    async fn hold_back(&self, delivery: &Delivery, now: Timestamp) -> Result<Fit, QueueError> {
        let held = self.put_off(delivery, now, true).await?;
        // The binding may have become well, and its deliveries released, between our look and our write.
        if self.may_go(delivery.binding).await { self.put_off(delivery, now, false).await } else { Ok(held) }
    }

    /// Puts it off; one that awaits its result goes on awaiting it.
    pub(super) async fn put_off(
        &self,
        delivery: &Delivery,
        due: Timestamp,
        held: bool,
    ) -> Result<Fit, QueueError> {
        if let Some(since) = delivery.awaiting {
            let wait = Wait::of(delivery, since, due);
            let there = self.inner.parts.queue.wait_for_result(wait).await?;
            return Ok(Fit::Later(there.then_some(due)));
        }
        let Delivery { id, attempts, tries, earlier, .. } = *delivery;
        let retry = Retry { id, due, held, attempts, tries, earlier, attempt: None };
        let there = self.inner.parts.queue.retry(retry).await?;
        Ok(Fit::Later((there && !held).then_some(due)))
    }
}
