//! One attempt, and the recording of what became of it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;

use super::{
    Dispatcher, Running,
    handlers::obituary,
    lane::{Count, LanePermit},
    lock,
    parked::PERIOD,
};
use crate::{
    domain::{
        binding::Binding,
        clock::Timestamp,
        delivery::{DeadReason, Delivery, Obituary},
        ids::DeliveryId,
        outcome::{Attempt, Class, Outcome},
    },
    platform::Call,
    queue::{DeadLetter, QueueError, Retry, Wait},
    settle::{Circumstances, Verdict, settle},
    telemetry::{
        happening::{AttemptMade, Buried, QueueTrouble},
        letters::HandlerGivenUp,
    },
};

/// A driver that has not come back this long after the binding's timeout is given up.
const OVERTIME: Duration = Duration::from_secs(5);

/// An attempt that was made.
#[derive(Debug)]
pub(super) struct Made {
    /// What came of it.
    pub outcome: Outcome,
    /// How it is kept.
    pub record: Attempt,
    /// What becomes of the delivery.
    pub verdict: Verdict,
}

impl Made {
    /// Whether the delivery is settled well.
    pub fn is_delivered(&self) -> bool {
        self.verdict == Verdict::Delivered
    }
}

impl Dispatcher {
    /// Calls the function once. Panics are caught and are the platform's fault; a hard stop interrupts. The permit goes
    /// back when the call has ended.
    pub(super) async fn attempt(
        &self,
        binding: &Binding,
        delivery: &Delivery,
        mut permit: LanePermit,
    ) -> Made {
        let parts = &self.inner.parts;
        let letter = self.letter_of(delivery).await;
        let (at, began) = (parts.clock.now(), parts.clock.monotonic());
        let outcome = match letter {
            Ok(letter) => {
                permit.begin(began);
                let outcome = tokio::select! {
                    biased;
                    outcome = self.invoke(binding, delivery, letter) => outcome,
                    () = self.inner.hard.cancelled() => Outcome::new(Class::Interrupted, None, "cut off by the shutdown"),
                };
                if let Some(turn) =
                    permit.end(&outcome, (began, parts.clock.monotonic()), || parts.entropy.next())
                {
                    self.note_turn(&delivery.function, turn, &outcome);
                }
                outcome
            }
            Err(outcome) => *outcome,
        };
        let took = parts.clock.monotonic().saturating_sub(began);
        drop(permit);
        let verdict = self.verdict(binding, delivery, &outcome, at).await;
        if outcome.class == Class::BindingBroken {
            // A full channel means that inspections are under way already.
            let _full = self.inner.suspicions.try_send(binding.id);
        }
        let delivered = verdict == Verdict::Delivered;
        AttemptMade { delivery, outcome: &outcome, at, took, delivered }.tell(&parts.recent);
        let record = Attempt {
            at,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            class: outcome.class,
            status: outcome.status,
            detail: outcome.detail.clone(),
        };
        Made { outcome, record, verdict }
    }

    /// The dead letter that a handler function is given, if this delivery is to give it; or what it came to without a call.
    async fn letter_of(&self, delivery: &Delivery) -> Result<Option<Obituary>, Box<Outcome>> {
        let Some(letter) = delivery.letter else { return Ok(None) };
        let outcome = match self.inner.parts.queue.dead_letter(letter).await {
            Ok(Some(dead)) if DeliveryId::of_letter(letter, dead.died_at) == delivery.id => {
                return Ok(Some(obituary(dead)));
            }
            // Somebody has replayed or discarded it: that is settled. Dead again, it has another delivery.
            Ok(_) => Outcome::new(Class::Ok, None, "the dead letter is no longer there"),
            Err(error) => Outcome::new(Class::PlatformFault, None, error.to_string()),
        };
        Err(Box::new(outcome))
    }

    async fn invoke(&self, binding: &Binding, delivery: &Delivery, letter: Option<Obituary>) -> Outcome {
        let parts = &self.inner.parts;
        let Some(driver) = parts.drivers.get(&delivery.function.platform) else {
            let detail = format!("platform `{}` is not in the config", delivery.function.platform);
            return Outcome::new(Class::PlatformFault, None, detail);
        };
        let callback_url = parts.callbacks.as_ref().and_then(|callbacks| callbacks.url(binding, delivery));
        let call = Call {
            binding,
            delivery,
            now: parts.clock.wall(),
            callback_url: callback_url.as_deref(),
            letter: letter.as_ref(),
        };
        let invoked = AssertUnwindSafe(driver.invoke(call)).catch_unwind();
        match tokio::time::timeout(binding.spec.timeout() + OVERTIME, invoked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => Outcome::new(Class::PlatformFault, None, "the driver panicked; see the log"),
            Err(_elapsed) => Outcome::new(Class::PlatformFault, None, "the driver did not end in time"),
        }
    }

    pub(super) async fn verdict(
        &self,
        binding: &Binding,
        delivery: &Delivery,
        outcome: &Outcome,
        began: Timestamp,
    ) -> Verdict {
        let parts = &self.inner.parts;
        let inspected =
            outcome.class == Class::BindingBroken && self.was_inspected(binding, delivery, began).await;
        let circumstances =
            Circumstances { now: parts.clock.now(), entropy: parts.entropy.next(), inspected };
        settle(delivery, outcome, &binding.spec, circumstances)
    }

    /// Whether an inspection found the binding in step between this delivery's last attempt, answered as if the binding
    /// were broken, and the one that began at `began`. An older inspection says nothing about what broke since.
    async fn was_inspected(&self, binding: &Binding, delivery: &Delivery, began: Timestamp) -> bool {
        let found = lock(&self.inner.inspections).get(&binding.id).copied();
        let Some(found) = found.filter(|found| found.revision == binding.revision && found.ended <= began)
        else {
            return false;
        };
        let attempts = self.inner.parts.queue.attempts(delivery.id).await.unwrap_or_else(|error| {
            self.note_trouble("read a delivery's attempts", &error);
            Vec::new()
        });
        attempts.last().is_some_and(|last| {
            let ended = last.at.plus(Duration::from_micros(last.took_us));
            last.class == Class::BindingBroken && ended <= found.began
        })
    }

    /// Records the verdict on a delivery that is parked, and gives it free. While the queue cannot be written it is tried
    /// again and again, so that nothing is called anew for want of a record; only what is to be called anyway is given
    /// free when its time has come. At a hard stop the row stays as it is: a repeat, not a loss.
    pub(super) async fn record_parked(&self, delivery: &Delivery, made: Made, running: Running) {
        loop {
            match self.record(delivery, &made).await {
                Ok(due) => return self.give_free(running, due),
                Err(error) => self.note_trouble("record an attempt", &error),
            }
            tokio::select! {
                biased;
                () = self.inner.hard.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => (),
            }
            let now = self.inner.parts.clock.now();
            if matches!(made.verdict, Verdict::RetryAt { due, .. } | Verdict::Await { until: due } if due <= now)
            {
                return self.give_free(running, Some(now));
            }
        }
    }

    /// What was to be recorded is; the delivery is due then, if it is parked still.
    pub(super) fn give_free(&self, running: Running, due: Option<Timestamp>) {
        let lane = Arc::clone(&running.lane);
        // Free before the pump is told: it does not look at what an attempt owns.
        running.end();
        match due {
            Some(due) => lane.note_parked(due),
            None => lane.count(Count::Settled, self.inner.parts.clock.monotonic()),
        }
    }

    /// Records the verdict on a parked delivery; when it is due next, if at all. One that is not there any more (its result
    /// came meanwhile) stays gone, and one that was replayed meanwhile stays as it is: the pump looks whether it is there.
    pub(super) async fn record(
        &self,
        delivery: &Delivery,
        made: &Made,
    ) -> Result<Option<Timestamp>, QueueError> {
        let queue = &self.inner.parts.queue;
        let gone = Some(self.inner.parts.clock.now());
        match made.verdict {
            Verdict::Delivered => self.settled(delivery.id).await?,
            Verdict::RetryAt { due, attempts, tries } => {
                let attempt = (made.outcome.class != Class::Interrupted).then(|| made.record.clone());
                let (id, earlier) = (delivery.id, delivery.earlier);
                let retry = Retry { id, due, held: false, attempts, tries, earlier, attempt };
                return Ok(if queue.retry(retry).await? { Some(due) } else { gone });
            }
            Verdict::Await { until } => {
                let wait = Wait::of(delivery, made.record.at, until);
                return Ok(if queue.wait_for_result(wait).await? { Some(until) } else { gone });
            }
            Verdict::GivenUp(reason) => {
                let buried = self.bury_parked(delivery, reason, Some(made)).await?;
                return Ok(if buried { None } else { gone });
            }
        }
        Ok(None)
    }

    /// Delivered: no delivery any more, nor a dead letter, should it have become one (cleared with its binding while the
    /// attempt began), nor a delivery again, should somebody have replayed that.
    pub(super) async fn settled(&self, id: DeliveryId) -> Result<(), QueueError> {
        let queue = &self.inner.parts.queue;
        if !queue.delivered(id).await? && !queue.discard(id).await? {
            queue.delivered(id).await?;
        }
        Ok(())
    }

    /// Makes a dead letter of a delivery, whether it is parked or not.
    pub(super) async fn bury(
        &self,
        delivery: &Delivery,
        reason: DeadReason,
        made: &Made,
    ) -> Result<(), QueueError> {
        let letter = self.letter(delivery, reason, Some(made)).await?;
        let buried = self.inner.parts.queue.bury(letter.clone()).await?;
        self.tell_buried(&letter, buried);
        Ok(())
    }

    /// Makes a dead letter of a delivery that is parked; whether it was there.
    pub(super) async fn bury_parked(
        &self,
        delivery: &Delivery,
        reason: DeadReason,
        made: Option<&Made>,
    ) -> Result<bool, QueueError> {
        let queue = &self.inner.parts.queue;
        if delivery.letter.is_some() {
            queue.delivered(delivery.id).await?;
            let tries = delivery.tries.saturating_add(u32::from(made.is_some()));
            HandlerGivenUp { delivery, reason, tries }.tell();
            return Ok(true);
        }
        let letter = self.letter(delivery, reason, made).await?;
        let buried = queue.bury_parked(letter.clone()).await?;
        self.tell_buried(&letter, buried);
        Ok(buried)
    }

    async fn letter(
        &self,
        delivery: &Delivery,
        reason: DeadReason,
        made: Option<&Made>,
    ) -> Result<DeadLetter, QueueError> {
        let parts = &self.inner.parts;
        let mut delivery = delivery.clone();
        // The queue keeps what it knows of earlier attempts.
        let (detail, attempts) = if let Some(made) = made {
            delivery.tries = delivery.tries.saturating_add(1);
            delivery.attempts += u32::from(made.outcome.class == Class::FunctionFault);
            (made.record.detail.clone(), vec![made.record.clone()])
        } else {
            let last = parts.queue.attempts(delivery.id).await?.pop();
            let none = if reason == DeadReason::Unbound {
                "its binding is not known to this daemon, or was taken back"
            } else {
                ""
            };
            (last.map_or_else(|| none.to_owned(), |last| last.detail), Vec::new())
        };
        let died_at = parts.clock.now();
        Ok(DeadLetter { delivery, reason, detail, died_at, attempts, replays: 0 })
    }

    fn tell_buried(&self, letter: &DeadLetter, buried: bool) {
        let DeadLetter { delivery, reason, died_at, .. } = letter;
        if buried {
            let now = self.inner.parts.clock.monotonic();
            self.lane(&delivery.function, 1).count(Count::Died, now);
            Buried { delivery, reason: *reason, at: *died_at }.tell(&self.inner.parts.recent);
        }
    }

    /// Tells that the queue could not do something.
    pub(crate) fn note_trouble(&self, verb: &'static str, error: &QueueError) {
        self.inner.trouble.store(true, Ordering::Release);
        let now = self.inner.parts.clock.monotonic();
        QueueTrouble { verb, error }.tell(&self.inner.troubles, now);
    }
}
