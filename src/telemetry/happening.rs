//! Happenings: one type each, which logs and counts and remembers together.
//!
//! What happens to every event is logged at `debug`; what an operator may want to act on at `info` and above.

use std::{error::Error, sync::Arc, time::Duration};

use super::{Chain, Metric, Recent, RecentOutcome, Seldom};
use crate::domain::{
    clock::Timestamp,
    delivery::{DeadReason, Delivery, FunctionRef},
    event::Event,
    outcome::{Class, Outcome},
};

/// A function was called.
#[derive(Debug)]
pub struct AttemptMade<'a> {
    /// For what.
    pub delivery: &'a Delivery,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Whether it settled the delivery well.
    pub delivered: bool,
}

impl AttemptMade<'_> {
    /// Tells it.
    pub fn tell(&self, recent: &Recent) {
        let (delivery, outcome) = (self.delivery, self.outcome);
        let platform = &*delivery.function.platform;
        let class = outcome.class.as_str();
        Metric::Attempts.count_often([("platform", platform), ("class", class)]);
        Metric::AttemptSeconds.observe_often(self.took.as_secs_f64(), [("platform", platform)]);
        if self.delivered {
            let age = self.at.plus(self.took).since(delivery.accepted_at);
            Metric::DeliverySeconds.observe_often(age.as_secs_f64(), [("platform", platform)]);
        }
        // Tenths at most: what is finer is noise.
        let took_ms = (self.took.as_secs_f64() * 10_000.0).round() / 10.0;
        let (binding, function) = (delivery.binding, &delivery.function);
        match outcome.class {
            Class::Accepted if !self.delivered => tracing::debug!(
                delivery = %delivery.id, %binding, %function, key = %delivery.event.key, class, took_ms,
                "accepted; its result is awaited"
            ),
            Class::Ok | Class::Accepted => tracing::debug!(
                delivery = %delivery.id, %binding, %function, key = %delivery.event.key, class, took_ms,
                "delivered"
            ),
            _ => tracing::warn!(
                delivery = %delivery.id, %binding, %function, key = %delivery.event.key, class, took_ms,
                status = outcome.status, detail = %outcome.detail, tries = delivery.tries + 1,
                "attempt failed"
            ),
        }
        if delivery.letter.is_some() {
            let outcome_word = format!("handler_{class}");
            return recent.note(outcome_of(delivery, self.at, &outcome_word, self.took, &outcome.detail));
        }
        recent.note(outcome_of(delivery, self.at, class, self.took, &outcome.detail));
    }
}

/// A delivery became a dead letter.
#[derive(Debug)]
pub struct Buried<'a> {
    /// Which.
    pub delivery: &'a Delivery,
    /// Why.
    pub reason: DeadReason,
    /// When.
    pub at: Timestamp,
}

impl Buried<'_> {
    /// Tells it.
    pub fn tell(&self, recent: &Recent) {
        let delivery = self.delivery;
        let reason = self.reason.as_str();
        let platform = delivery.function.platform.to_string();
        Metric::DeadLetters.count(&[("platform", platform), ("reason", reason.to_owned())]);
        tracing::error!(
            delivery = %delivery.id, binding = %delivery.binding, function = %delivery.function,
            key = %delivery.event.key, reason, attempts = delivery.attempts, tries = delivery.tries,
            "given up: it is a dead letter now (`triggerd dead-letters show {}`)", delivery.id
        );
        recent.note(outcome_of(delivery, self.at, "dead", Duration::ZERO, reason));
    }
}

/// Why a delivery was parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedBecause {
    /// Its attempt failed.
    Failed,
    /// Its attempt took longer than its source waits.
    Slow,
    /// No permit came free in time.
    NoPermit,
    /// Its function has due deliveries waiting, or is slow of late.
    Behind,
    /// Its function's circuit breaker is open.
    BreakerOpen,
    /// Its function is called as often as it may be.
    RateLimited,
    /// Its binding is being mended, or was paused.
    Held,
    /// Its source is over its bound.
    Pressed,
    /// Its source never redelivers.
    NoRedelivery,
    /// Its result will be awaited.
    Awaited,
    /// An attempt already owns it.
    Repeat,
    /// The daemon is stopping.
    Stopping,
}

/// A delivery was parked.
#[derive(Debug)]
pub struct DeliveryParked<'a> {
    /// Which.
    pub delivery: &'a Delivery,
    /// Why.
    pub because: ParkedBecause,
}

impl DeliveryParked<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let because = match self.because {
            ParkedBecause::Failed => "failed",
            ParkedBecause::Slow => "slow",
            ParkedBecause::NoPermit => "no_permit",
            ParkedBecause::Behind => "behind",
            ParkedBecause::BreakerOpen => "breaker_open",
            ParkedBecause::RateLimited => "rate_limited",
            ParkedBecause::Held => "held",
            ParkedBecause::Pressed => "pressed",
            ParkedBecause::NoRedelivery => "no_redelivery",
            ParkedBecause::Awaited => "awaited",
            ParkedBecause::Repeat => "repeat",
            ParkedBecause::Stopping => "stopping",
        };
        Metric::Parked.count_often([("because", because)]);
        let delivery = self.delivery;
        tracing::debug!(delivery = %delivery.id, function = %delivery.function, because, "parked");
    }
}

/// A function's circuit breaker opened or closed.
#[derive(Debug)]
pub struct BreakerTurned<'a> {
    /// Which function.
    pub function: &'a FunctionRef,
    /// For how long it is open; none when it closed.
    pub open_for: Option<Duration>,
    /// Whether it was closed before, and not a probe that failed.
    pub first: bool,
    /// The outcome that turned it.
    pub outcome: &'a Outcome,
}

impl BreakerTurned<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let (function, class) = (self.function, self.outcome.class.as_str());
        let Some(open_for) = self.open_for else {
            tracing::info!(%function, "the function is back: its circuit breaker is closed");
            return;
        };
        let open_ms = open_for.as_millis();
        if self.first {
            Metric::BreakerTrips
                .count(&[("platform", function.platform.to_string()), ("class", class.to_owned())]);
            tracing::warn!(
                %function, class, status = self.outcome.status, detail = %self.outcome.detail, open_ms,
                "the function is away: its circuit breaker is open, its deliveries wait (`triggerd functions`)"
            );
        } else {
            tracing::debug!(%function, class, detail = %self.outcome.detail, open_ms, "a probe failed");
        }
    }
}

/// The queue could not be written or read.
#[derive(Debug)]
pub struct QueueTrouble<'a> {
    /// What was wanted of it.
    pub verb: &'static str,
    /// What it said.
    pub error: &'a dyn Error,
}

/// A disk that takes nothing has this said of every event.
const TROUBLE: Duration = Duration::from_secs(1);

/// For whoever meets [`QueueTrouble`].
pub fn troubles() -> Seldom<&'static str> {
    Seldom::once_in(TROUBLE)
}

impl QueueTrouble<'_> {
    /// Tells it: counts it, and logs it once a second for each thing that was wanted. `now` is monotonic.
    pub fn tell(&self, troubles: &Seldom<&'static str>, now: Duration) {
        Metric::QueueTrouble.count(&[]);
        if let Some(untold) = troubles.is_due(self.verb, now) {
            let error = Chain(self.error);
            tracing::error!(%error, untold, "the queue could not {}", self.verb);
        }
    }
}

/// An event came in.
#[derive(Debug)]
pub struct EventReceived<'a> {
    /// Which.
    pub event: &'a Event,
    /// The source that brought it.
    pub source: &'a str,
    /// Bindings that it matched.
    pub matched: usize,
    /// When.
    pub at: Timestamp,
}

impl EventReceived<'_> {
    /// Tells it.
    pub fn tell(&self, recent: &Recent) {
        let event = self.event;
        let matched = if self.matched > 0 { "yes" } else { "no" };
        Metric::Events.count_often([("source", self.source), ("matched", matched)]);
        tracing::debug!(
            event = %event.id, source = self.source, bucket = %event.bucket, key = %event.key,
            name = %event.name, matched = self.matched, "event"
        );
        if self.matched == 0 {
            recent.note(RecentOutcome {
                at: self.at,
                event: event.id,
                delivery: None,
                binding: None,
                platform: None,
                function: None,
                bucket: event.bucket.clone(),
                key: event.key.clone(),
                name: event.name.to_string(),
                outcome: "unmatched".into(),
                took_us: 0,
                detail: String::new(),
            });
        }
    }
}

/// A binding's own function seems to have caused the event that fires it.
#[derive(Debug)]
pub struct LoopSuspected<'a> {
    /// What the event fires.
    pub delivery: &'a Delivery,
    /// How many events in a row came of one another.
    pub depth: u32,
    /// Name of the object that the function ran for before.
    pub parent: &'a str,
    /// When.
    pub at: Timestamp,
    /// Whether to tell of it, or only to count it.
    pub is_due: bool,
}

impl LoopSuspected<'_> {
    /// Tells it.
    pub fn tell(&self, recent: &Recent) {
        let delivery = self.delivery;
        Metric::LoopsSuspected.count(&[("platform", delivery.function.platform.to_string())]);
        if !self.is_due {
            return;
        }
        tracing::warn!(
            binding = %delivery.binding, function = %delivery.function, bucket = %delivery.event.bucket,
            key = %delivery.event.key, came_of = self.parent, depth = self.depth,
            principal = %delivery.event.principal,
            "a function seems to write what fires it again; name its principal in `ignore_principals`, or give the \
             binding a narrower filter (nothing is dropped; told once a minute)"
        );
        let detail = format!(
            "came of `{}`, {} events in a row; name the function's principal in `ignore_principals`, or narrow the filter",
            self.parent, self.depth
        );
        recent.note(outcome_of(delivery, self.at, "loop_suspected", Duration::ZERO, &detail));
    }
}

/// An event came in again.
#[derive(Debug)]
pub struct EventRepeated<'a> {
    /// The source that brought it.
    pub source: &'a str,
    /// Whether the first copy is still on its way (this one joins it) or settled.
    pub in_flight: bool,
}

impl EventRepeated<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let copy = if self.in_flight { "joined" } else { "settled" };
        Metric::Repeats.count_often([("source", self.source), ("copy", copy)]);
    }
}

/// Something that came in can never be processed, and is kept.
#[derive(Debug)]
pub struct MessageQuarantined<'a> {
    /// Under which number.
    pub item: u64,
    /// The source that brought it.
    pub source: &'a str,
    /// Why it cannot be processed.
    pub reason: &'a str,
    /// Its length in bytes.
    pub length: u64,
}

impl MessageQuarantined<'_> {
    /// Tells it.
    pub fn tell(&self) {
        Metric::Quarantined.count(&[("source", self.source.to_owned())]);
        tracing::error!(
            item = self.item,
            source = self.source,
            reason = self.reason,
            length = self.length,
            "a notification that can never be processed is in quarantine: see `triggerd quarantine show {}`",
            self.item
        );
    }
}

fn outcome_of(
    delivery: &Delivery,
    at: Timestamp,
    outcome: &str,
    took: Duration,
    detail: &str,
) -> RecentOutcome {
    RecentOutcome {
        at,
        event: delivery.event.id,
        delivery: Some(delivery.id),
        binding: Some(delivery.binding),
        platform: Some(Arc::clone(&delivery.function.platform)),
        function: Some(Arc::clone(&delivery.function.name)),
        bucket: delivery.event.bucket.clone(),
        key: delivery.event.key.clone(),
        name: delivery.event.name.to_string(),
        outcome: outcome.to_owned(),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        detail: detail.to_owned(),
    }
}
