//! First attempts: from memory, with the queue as the way out when they take too long.
//!
//! Of each path this file asks: when is the delivery safe, and who has it if the process dies here? Before the custody
//! is used up the source has it; after, the function or the queue.

use std::sync::Arc;

use tokio::time::sleep;

use super::{
    Dispatcher, Running, Submission,
    attempt::Made,
    lane::{Count, Lane},
};
use crate::{
    dispatch::Custody,
    domain::{
        clock::Timestamp,
        delivery::{DeadReason, Delivery},
        outcome::Class,
    },
    queue::{Park, Parked, QueueError, Ticket},
    settle::Verdict,
    telemetry::happening::{Buried, DeliveryParked, ParkedBecause},
};

impl Dispatcher {
    pub(super) async fn first(&self, submission: Submission) {
        let lane = self.lane(&submission.delivery.function, submission.binding.spec.concurrency);
        let Some(running) = self.claim(&lane, &submission.delivery) else {
            // An attempt of the pump owns it: it is parked, and parking it again only confirms that.
            return self.park_only(submission, &lane, None, ParkedBecause::Repeat).await;
        };
        if running.unlimited {
            // Or else those that come first would be bound by nothing, after every restart.
            self.refresh(&lane).await;
        }
        let plan = submission.plan;
        let because = if submission.binding.state.holds() {
            Some(ParkedBecause::Held)
        } else if plan.pressed {
            Some(ParkedBecause::Pressed)
        } else if self.inner.soft.is_cancelled() {
            Some(ParkedBecause::Stopping)
        } else {
            let parks = lane.parks_at_once(plan.ack_within, self.inner.parts.clock.as_ref());
            // (A disk that takes nothing would refuse what the function can take.)
            parks.filter(|why| *why != ParkedBecause::Behind || self.inner.parts.queue.trouble().is_none())
        };
        match because {
            Some(because) => self.park_only(submission, &lane, Some(running), because).await,
            None if plan.park_first => {
                self.park_then_fire(submission, &lane, running, ParkedBecause::NoRedelivery).await;
            }
            None if submission.binding.spec.await_result().is_some() => {
                self.park_then_fire(submission, &lane, running, ParkedBecause::Awaited).await;
            }
            None => self.fire_then_park(submission, &lane, running).await,
        }
    }

    /// Parks without an attempt; the pump takes it up.
    async fn park_only(
        &self,
        submission: Submission,
        lane: &Arc<Lane>,
        running: Option<Running>,
        because: ParkedBecause,
    ) {
        let now = self.inner.parts.clock.now();
        let held = because == ParkedBecause::Held;
        let parked = self.park(&submission.delivery, now, held, Ticket::default()).await;
        let running = match (&parked, running) {
            (Err(error), Some(running)) if self.must_fire(&submission, because) => {
                self.note_trouble("park a delivery", error);
                return Box::pin(self.fire_then_park(submission, lane, running)).await;
            }
            (_, running) => running,
        };
        drop(running);
        let fresh = matches!(parked, Ok(Parked::Written));
        if !self.settle_park(parked, &submission.delivery, because, submission.custody) {
            return;
        }
        self.count_parked(lane, fresh);
        if because == ParkedBecause::RateLimited {
            lane.fall_behind(now);
        } else if !held {
            lane.note_parked(now);
        } else if fresh && let Err(error) = self.release_if_well(&submission.delivery, now).await {
            // The next sweep will.
            self.note_trouble("release a delivery", &error);
        }
    }

    /// Whether a delivery that the disk has just refused can only be fired or lost. (It waits for a permit as long as its
    /// source's others; a function that may not be called then gets no call, and the delivery is lost with its reason told.)
    fn must_fire(&self, submission: &Submission, because: ParkedBecause) -> bool {
        use ParkedBecause::{Behind, BreakerOpen, Pressed, RateLimited};
        submission.plan.park_first
            && may_go_without_a_row(submission)
            && matches!(because, Behind | BreakerOpen | Pressed | RateLimited)
            && !self.inner.hard.is_cancelled()
    }

    /// The source never redelivers, or the result is awaited: on disk first, then fired. Without a disk the former is fired
    /// all the same; the latter stays with its source, because a result would find nothing to settle.
    async fn park_then_fire(
        &self,
        submission: Submission,
        lane: &Arc<Lane>,
        running: Running,
        because: ParkedBecause,
    ) {
        let now = self.inner.parts.clock.now();
        let parked = self.park(&submission.delivery, now, false, Ticket::default()).await;
        if let Err(error) = &parked
            && may_go_without_a_row(&submission)
            && !self.inner.hard.is_cancelled()
        {
            self.note_trouble("park a delivery", error);
            return self.fire_then_park(submission, lane, running).await;
        }
        let Submission { delivery, custody, .. } = submission;
        let fresh = matches!(parked, Ok(Parked::Written));
        let there = self.settle_park(parked, &delivery, because, custody);
        self.count_parked(lane, fresh);
        let monotonic = self.inner.parts.clock.monotonic();
        let permit = if fresh { lane.try_permit(monotonic).ok() } else { None };
        let Some(permit) = permit else {
            drop(running);
            if there {
                lane.note_parked(now);
            }
            return;
        };
        // With the binding as it is now: the disk may have taken its time.
        self.parked(delivery, permit, running).await;
    }

    /// The source keeps its copy until we say so: fired first, parked when it takes too long or fails.
    async fn fire_then_park(&self, submission: Submission, lane: &Arc<Lane>, running: Running) {
        let ack_by = sleep(submission.plan.ack_within);
        tokio::pin!(ack_by);
        let permit = tokio::select! {
            biased;
            permit = lane.permit(self.inner.parts.clock.as_ref()) => permit,
            () = &mut ack_by => None,
        };
        let Some(permit) = permit else {
            return self.park_only(submission, lane, Some(running), ParkedBecause::NoPermit).await;
        };
        let Submission { delivery, binding, custody, .. } = submission;
        let attempt = self.attempt(&binding, &delivery, permit);
        tokio::pin!(attempt);
        let early = tokio::select! {
            biased;
            made = &mut attempt => Some(made),
            () = &mut ack_by => None,
        };
        if let Some(made) = early {
            return self.settle_unparked(&delivery, made, lane, (running, custody)).await;
        }

        // Late: parked while the attempt goes on and owns the row.
        let ticket = Ticket::default();
        let park = self.park(&delivery, self.inner.parts.clock.now(), false, ticket.clone());
        tokio::pin!(park);
        let (mut parked, mut made) = (None, None);
        let mut custody = Some(custody);
        while parked.is_none() || made.is_none() {
            tokio::select! {
                biased;
                ended = &mut attempt, if made.is_none() => {
                    // Withdrawn it is safe by itself, however long the disk takes to say so.
                    if ended.is_delivered() && ticket.withdraw() {
                        safe(custody.take());
                    }
                    made = Some(ended);
                }
                written = &mut park, if parked.is_none() => {
                    if matches!(written, Ok(Parked::Written | Parked::AlreadyThere | Parked::Overflow)) {
                        safe(custody.take());
                    }
                    parked = Some(written);
                }
            }
        }
        if let (Some(parked), Some(made)) = (parked, made) {
            self.settle_late(&delivery, parked, made, (running, custody)).await;
        }
    }

    /// An attempt ended in time: nothing is on disk yet.
    async fn settle_unparked(
        &self,
        delivery: &Delivery,
        made: Made,
        lane: &Arc<Lane>,
        (running, custody): (Running, Custody),
    ) {
        let verdict = match made.verdict {
            // Its binding did not ask for the result when it was submitted, or it would have been parked.
            Verdict::Await { until: due } => {
                Verdict::RetryAt { due, attempts: delivery.attempts, tries: delivery.tries }
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Delivered | Verdict::Await { .. } => {
                custody.safe();
                // A row from before a restart, if there is one. The pump left it out; nobody need call for it again.
                if running.was_passed_over()
                    && let Err(error) = self.inner.parts.queue.delivered(delivery.id).await
                {
                    self.note_trouble("remove a delivery", &error);
                }
            }
            Verdict::RetryAt { due, attempts, tries } => {
                let delivery = Delivery { attempts, tries, ..delivery.clone() };
                let attempt = (made.outcome.class != Class::Interrupted).then_some(made.record);
                let park =
                    Park { delivery: delivery.clone(), due, held: false, attempt, ticket: Ticket::default() };
                let parked = self.inner.parts.queue.park(park).await;
                drop(running);
                self.count_parked(lane, matches!(parked, Ok(Parked::Written)));
                if self.settle_park(parked, &delivery, ParkedBecause::Failed, custody) {
                    lane.note_parked(due);
                }
            }
            Verdict::GivenUp(reason) => match self.bury(delivery, reason, &made).await {
                Ok(()) => custody.safe(),
                Err(error) => self.note_trouble("bury a delivery", &error),
            },
        }
    }

    /// An attempt ended after its delivery was handed to the queue.
    async fn settle_late(
        &self,
        delivery: &Delivery,
        parked: Result<Parked, QueueError>,
        made: Made,
        (running, custody): (Running, Option<Custody>),
    ) {
        match parked {
            Ok(Parked::Written | Parked::AlreadyThere) => {
                DeliveryParked { delivery, because: ParkedBecause::Slow }.tell();
                self.count_parked(&running.lane, matches!(parked, Ok(Parked::Written)));
                self.record_parked(delivery, made, running).await;
            }
            Ok(Parked::Withdrawn) => safe(custody),
            Ok(Parked::Overflow) if made.is_delivered() => {
                if let Err(error) = self.settled(delivery.id).await {
                    self.note_trouble("discard a dead letter", &error);
                }
            }
            Ok(Parked::Overflow) => {
                let at = self.inner.parts.clock.now();
                Buried { delivery, reason: DeadReason::Overflow, at }.tell(&self.inner.parts.recent);
            }
            // Nothing is on disk: delivered is delivered, for dead letters there may still be room, anything else stays
            // with the source.
            Err(error) => {
                self.note_trouble("park a delivery", &error);
                if made.is_delivered() {
                    return safe(custody);
                }
                if let Verdict::GivenUp(reason) = made.verdict {
                    match self.bury(delivery, reason, &made).await {
                        Ok(()) => safe(custody),
                        Err(error) => self.note_trouble("bury a delivery", &error),
                    }
                }
            }
        }
    }

    /// Counts a delivery that is parked now and was not before.
    fn count_parked(&self, lane: &Lane, fresh: bool) {
        if fresh {
            lane.count(Count::Parked, self.inner.parts.clock.monotonic());
        }
    }

    async fn park(
        &self,
        delivery: &Delivery,
        due: Timestamp,
        held: bool,
        ticket: Ticket,
    ) -> Result<Parked, QueueError> {
        let park = Park { delivery: delivery.clone(), due, held, attempt: None, ticket };
        self.inner.parts.queue.park(park).await
    }

    /// Uses the custody up when the delivery is on disk; whether a row waits there.
    fn settle_park(
        &self,
        parked: Result<Parked, QueueError>,
        delivery: &Delivery,
        because: ParkedBecause,
        custody: Custody,
    ) -> bool {
        match parked {
            Ok(Parked::Written | Parked::AlreadyThere | Parked::Withdrawn) => {
                DeliveryParked { delivery, because }.tell();
                custody.safe();
                true
            }
            Ok(Parked::Overflow) => {
                let at = self.inner.parts.clock.now();
                Buried { delivery, reason: DeadReason::Overflow, at }.tell(&self.inner.parts.recent);
                custody.safe();
                false
            }
            Err(error) => {
                if self.inner.soft.is_cancelled() {
                    self.inner.unparked.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
                }
                self.note_trouble("park a delivery", &error);
                false
            }
        }
    }
}

fn safe(custody: Option<Custody>) {
    if let Some(custody) = custody {
        custody.safe();
    }
}

/// Whether what the disk has refused may be called all the same.
fn may_go_without_a_row(submission: &Submission) -> bool {
    submission.binding.spec.await_result().is_none()
}
