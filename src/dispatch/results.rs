//! The end of an asynchronous call whose binding asks for the result (`await_result_s`).
//!
//! **On its way.** Such a delivery is parked before its function is called, whatever its source (`first`); without a row
//! it is not called at all. The call is accepted: one write makes the row await its result, due when the wait is over.
//! Nothing is held meanwhile, no permit, no task, no memory. A crash before that write leaves a row that is due, and the
//! call is made again under the same attempt number, by which the platform knows it; after it, the row waits as before.
//!
//! **A report** ([`Dispatcher::result`]), believed by whoever hands it in, is of one attempt.
//!
//! * *Succeeded*, whichever attempt it is of: the delivery is settled, its row removed. An attempt that runs meanwhile
//!   finds no row to record anything on, and changes nothing.
//! * *Failed*: the answer to the attempt that is waited for, or was under way when the process ended: settled as any fault of
//!   the function. Of any other it changes nothing: that was given up waiting for and charged, or is of before a replay,
//!   over which the numbers of calls go on. While an attempt owns the delivery (its call's own answer may be on the way) it is
//!   refused for a moment, and comes again.
//! * The delivery is a *dead letter*: a success is noted with the letter, which stays for the operator to judge.
//!
//! An answer is given when what it says is on disk. A crash before leaves the row, and the report is sent again; after,
//! the report finds nothing, which is as good.
//!
//! **No report in time**: the pump takes the row up as every other, and the attempt is recorded as the function's fault.
//! What was awaited when the process ended is awaited for [`GRACE`] after the next start, however late that is: that
//! nobody was there to be told is not the function's fault, and its platform asks again only now and then.
//!
//! Reports and the pump exclude each other by the claim; a row that the pump has read is read again under it.

use std::{sync::Arc, time::Duration};

use super::{
    Dispatcher,
    attempt::Made,
    lane::Count,
    parked::{Fit, PERIOD},
};
use crate::{
    domain::{
        binding::Binding,
        clock::Timestamp,
        delivery::Delivery,
        ids::DeliveryId,
        outcome::{Attempt, Class, Outcome},
    },
    queue::QueueError,
    telemetry::results::{Awaited, ResultCame},
};

/// How long after a start the results of calls from before it are awaited, at least.
pub(super) const GRACE: Duration = Duration::from_mins(1);

/// What a platform reports of a call that it had accepted. It was checked that the report is the platform's.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// Of which attempt, counted from 1 as the call said it.
    pub attempt: u32,
    /// `Ok`, or the function's fault.
    pub outcome: Outcome,
    /// How long the function ran, as the platform says.
    pub took: Duration,
}

impl Report {
    /// Whether it is of the attempt that is under way, or comes next.
    fn is_of(&self, delivery: &Delivery) -> bool {
        self.attempt == delivery.number()
    }
}

/// What became of a report. Whatever it says is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The function has succeeded: the delivery is settled.
    Delivered,
    /// The function has failed: its delivery is tried again, or given up, as its binding says.
    Failed,
    /// A failure of an attempt that was given up waiting for, or of before a replay: nothing changed.
    Outdated,
    /// The function has succeeded after its delivery was given up: the dead letter says so.
    Late,
    /// An attempt owns the delivery: to be reported again in a moment.
    Busy,
    /// There is no such delivery (any more).
    Unknown,
}

impl Dispatcher {
    /// Takes a report of a call for this binding. An error means that nothing is recorded, and that the report should come
    /// again. Goes on to its end, even if its caller does not.
    pub async fn result(&self, binding: Arc<Binding>, report: Report) -> Result<Taken, QueueError> {
        let dispatcher = self.clone();
        let taking = self.inner.tracker.spawn(async move { dispatcher.take(&binding, &report).await });
        // It panicked, and whether it did anything a repeat will tell.
        taking.await.unwrap_or(Ok(Taken::Busy))
    }

    async fn take(&self, binding: &Binding, report: &Report) -> Result<Taken, QueueError> {
        let taken = if report.outcome.class == Class::Ok {
            self.succeeded(binding, report).await
        } else {
            self.failed(binding, report).await
        };
        taken.inspect_err(|error| self.note_trouble("record a result", error))
    }

    async fn succeeded(&self, binding: &Binding, report: &Report) -> Result<Taken, QueueError> {
        let parts = &self.inner.parts;
        let delivery = parts.queue.parked(report.delivery).await?;
        match delivery {
            Some(delivery) if parts.queue.delivered(report.delivery).await? => {
                self.tell(&delivery, Awaited::Succeeded, report);
                let lane = self.lane(&delivery.function, binding.spec.concurrency);
                lane.count(Count::Settled, parts.clock.monotonic());
                lane.reported(Class::Ok, parts.clock.monotonic());
                Ok(Taken::Delivered)
            }
            _ => self.not_parked(report).await,
        }
    }

    async fn failed(&self, binding: &Binding, report: &Report) -> Result<Taken, QueueError> {
        let queue = &self.inner.parts.queue;
        let Some(seen) = queue.parked(report.delivery).await? else { return self.not_parked(report).await };
        if !report.is_of(&seen) {
            return Ok(Taken::Outdated);
        }
        let lane = self.lane(&seen.function, binding.spec.concurrency);
        let Some(running) = self.claim(&lane, &seen) else { return Ok(Taken::Busy) };
        // As it is now, when nobody else can change it.
        let Some(delivery) = queue.parked(report.delivery).await? else { return Ok(Taken::Busy) };
        // One that awaits nothing was called when the process ended: this is what came of that call.
        if !report.is_of(&delivery) {
            return Ok(Taken::Outdated);
        }
        let made = self.ended(binding, &delivery, report.outcome.clone(), report.took).await;
        let due = self.record(&delivery, &made).await?;
        self.tell(&delivery, Awaited::Failed, report);
        self.give_free(running, due);
        Ok(Taken::Failed)
    }

    /// The delivery was settled before, or given up.
    async fn not_parked(&self, report: &Report) -> Result<Taken, QueueError> {
        let parts = &self.inner.parts;
        let Some(letter) = parts.queue.dead_letter(report.delivery).await? else { return Ok(Taken::Unknown) };
        if report.outcome.class != Class::Ok {
            return Ok(Taken::Outdated);
        }
        let note = Attempt {
            at: parts.clock.now(),
            took_us: u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX),
            class: Class::Ok,
            status: None,
            detail: format!("attempt {} succeeded late: {}", report.attempt, report.outcome.detail),
        };
        if !parts.queue.came_late(report.delivery, note).await? {
            // It was replayed meanwhile.
            return Ok(Taken::Busy);
        }
        if !letter.attempts.iter().any(|attempt| attempt.class == Class::Ok) {
            self.tell(&letter.delivery, Awaited::Late, report);
        }
        Ok(Taken::Late)
    }

    /// Until when a result that is awaited since then may come, because its call was made before this process began.
    pub(super) fn grace(&self, since: Timestamp) -> Option<Timestamp> {
        let started = self.inner.started;
        (since < started).then(|| started.plus(GRACE))
    }

    /// The wait for a delivery's result is over, and nothing has come.
    pub(super) async fn overdue(&self, binding: &Binding, delivery: &Delivery) -> Result<Fit, QueueError> {
        let wait = binding.spec.await_result().unwrap_or(PERIOD);
        let detail = format!("no result came within {} s", wait.as_secs());
        let outcome = Outcome::new(Class::FunctionFault, None, detail);
        let report = Report { delivery: delivery.id, attempt: delivery.number(), outcome, took: wait };
        let made = self.ended(binding, delivery, report.outcome.clone(), wait).await;
        self.tell(delivery, Awaited::Nothing, &report);
        Ok(Fit::Overdue(Box::new(made)))
    }

    /// An attempt that was accepted has ended so.
    async fn ended(&self, binding: &Binding, delivery: &Delivery, outcome: Outcome, took: Duration) -> Made {
        let now = self.inner.parts.clock.now();
        let (at, took) = delivery.awaiting.map_or((now, took), |since| (since, now.since(since)));
        let lane = self.lane(&delivery.function, binding.spec.concurrency);
        lane.reported(outcome.class, self.inner.parts.clock.monotonic());
        let verdict = self.verdict(binding, delivery, &outcome, at).await;
        let record = Attempt {
            at,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            class: outcome.class,
            status: outcome.status,
            detail: outcome.detail.clone(),
        };
        Made { outcome, record, verdict }
    }

    fn tell(&self, delivery: &Delivery, awaited: Awaited, report: &Report) {
        let parts = &self.inner.parts;
        let (took, detail) = (report.took, report.outcome.detail.as_str());
        ResultCame { delivery, awaited, took, detail, at: parts.clock.now() }.tell(&parts.recent);
    }
}
