//! Happenings of dead letters and of the quarantine. What somebody forgets for good is logged item by item: the log is
//! the audit, beside the relations, which may be away and know nothing of this daemon's own letters.

use super::Metric;
use crate::domain::{
    delivery::{DeadReason, Delivery},
    ids::BindingId,
};

/// Somebody sent a dead letter on its way again.
#[derive(Debug)]
pub struct LetterReplayed<'a> {
    /// Which.
    pub delivery: &'a Delivery,
    /// Who.
    pub by: &'a str,
}

impl LetterReplayed<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let delivery = self.delivery;
        Metric::LettersReplayed.count(&[("platform", delivery.function.platform.to_string())]);
        tracing::info!(
            delivery = %delivery.id, function = %delivery.function, key = %delivery.event.key, by = self.by,
            "a dead letter is replayed"
        );
    }
}

/// Somebody discarded a dead letter.
#[derive(Debug)]
pub struct LetterDiscarded<'a> {
    /// Which.
    pub delivery: &'a Delivery,
    /// Why it had been given up.
    pub reason: DeadReason,
    /// Who.
    pub by: &'a str,
    /// Why it is discarded.
    pub why: Option<&'a str>,
}

impl LetterDiscarded<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let delivery = self.delivery;
        Metric::LettersDiscarded.count(&[("platform", delivery.function.platform.to_string())]);
        tracing::info!(
            delivery = %delivery.id, binding = %delivery.binding, function = %delivery.function,
            storage = %delivery.event.storage, bucket = %delivery.event.bucket, key = %delivery.event.key,
            event = %delivery.event.name, reason = self.reason.as_str(), by = self.by,
            why = self.why.unwrap_or("not said"), "a dead letter is discarded"
        );
    }
}

/// What was in quarantine is understood now.
#[derive(Debug)]
pub struct ItemTaken<'a> {
    /// Its number.
    pub id: u64,
    /// The source that had brought it.
    pub source: &'a str,
    /// Events that it brought.
    pub events: usize,
    /// Deliveries that they cause.
    pub deliveries: usize,
    /// Who asked for it.
    pub by: &'a str,
}

impl ItemTaken<'_> {
    /// Tells it.
    pub fn tell(&self) {
        Metric::QuarantineLeft.count(&[("how", "taken".to_owned())]);
        tracing::info!(
            item = self.id,
            source = self.source,
            events = self.events,
            deliveries = self.deliveries,
            by = self.by,
            "what was in quarantine is taken in"
        );
    }
}

/// Somebody discarded what was in quarantine.
#[derive(Debug)]
pub struct ItemDiscarded<'a> {
    /// Its number.
    pub id: u64,
    /// The source that had brought it.
    pub source: &'a str,
    /// Why it could not be processed.
    pub reason: &'a str,
    /// Its length in bytes.
    pub length: u64,
    /// Who.
    pub by: &'a str,
    /// Why.
    pub why: Option<&'a str>,
}

impl ItemDiscarded<'_> {
    /// Tells it.
    pub fn tell(&self) {
        Metric::QuarantineLeft.count(&[("how", "discarded".to_owned())]);
        tracing::info!(
            item = self.id,
            source = self.source,
            reason = self.reason,
            length = self.length,
            by = self.by,
            why = self.why.unwrap_or("not said"),
            "an item of the quarantine is discarded"
        );
    }
}

/// The oldest items of the quarantine made room for newer ones.
#[derive(Debug)]
pub struct ItemsEvicted<'a> {
    /// How many since it was last told.
    pub count: u64,
    /// The source that had brought them.
    pub source: &'a str,
    /// The bound that was reached.
    pub bound: u64,
    /// The key of `[queue]` that sets it.
    pub setting: &'static str,
}

impl ItemsEvicted<'_> {
    /// Tells it; they are counted where they go.
    pub fn tell(&self) {
        let Self { count, source, bound, setting } = self;
        tracing::warn!(
            count,
            source,
            bound,
            "the oldest items of the quarantine were dropped for newer ones: try again or discard what is there, or raise \
             `{setting}` in [queue] (told once a minute)"
        );
    }
}

/// The parked deliveries of a binding that is taken back were cleared.
#[derive(Debug)]
pub struct ParkedCleared {
    /// The binding.
    pub binding: BindingId,
    /// Whether they were forgotten, as whoever unbound it wanted; else they are dead letters (*unbound*).
    pub discarded: bool,
    /// How many.
    pub deliveries: u64,
}

impl ParkedCleared {
    /// Tells it, if there were any.
    pub fn tell(&self) {
        let Self { binding, deliveries, .. } = self;
        match (deliveries, self.discarded) {
            (0, _) => {}
            (_, true) => {
                tracing::warn!(%binding, deliveries, "parked deliveries were discarded with their binding");
            }
            (_, false) => {
                tracing::info!(%binding, deliveries, "parked deliveries became dead letters with their binding");
            }
        }
    }
}

/// How many dead letters there are, and how many of them will be dropped before long.
#[derive(Debug)]
pub struct LettersExpiring {
    /// All there are.
    pub kept: u64,
    /// Those that reach the greatest age within a day.
    pub ageing: u64,
    /// Those that are among the oldest, where there are nearly as many as there may be.
    pub crowding: u64,
    /// Whether to tell of it, or only to show it.
    pub is_due: bool,
}

impl LettersExpiring {
    /// Tells it.
    pub fn tell(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53 letters")]
        let shown = |number: u64| number as f64;
        Metric::LettersKept.set(shown(self.kept), &[]);
        for (number, because) in [(self.ageing, Because::Age), (self.crowding, Because::Count)] {
            Metric::LettersExpiring.set(shown(number), &[("because", because.as_str().to_owned())]);
        }
        if self.is_due {
            tracing::warn!(
                by_age = self.ageing,
                by_count = self.crowding,
                kept = self.kept,
                "dead letters will be dropped before long: replay or discard them, or raise `retention_s` or \
                 `max_count` in [dead_letters] (told once an hour)"
            );
        }
    }
}

/// Why dead letters are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// They are too old.
    Age,
    /// They are too many.
    Count,
}

impl Because {
    fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Count => "count",
        }
    }
}

/// Dead letters were dropped.
#[derive(Debug)]
pub struct LettersDropped {
    /// How many.
    pub count: u64,
    /// Why.
    pub because: Because,
}

impl LettersDropped {
    /// Tells it.
    pub fn tell(&self) {
        let because = self.because.as_str();
        Metric::LettersDropped.add(self.count, &[("because", because.to_owned())]);
        tracing::warn!(count = self.count, because, "dead letters were dropped, as [dead_letters] says");
    }
}

/// A handler function could not be given a dead letter. The letter lies where it lay.
#[derive(Debug)]
pub struct HandlerGivenUp<'a> {
    /// The delivery to the handler.
    pub delivery: &'a Delivery,
    /// Why it was given up.
    pub reason: DeadReason,
    /// How often it was called about it.
    pub tries: u32,
}

impl HandlerGivenUp<'_> {
    /// Tells it.
    pub fn tell(&self) {
        let (delivery, reason) = (self.delivery, self.reason.as_str());
        let platform = delivery.function.platform.to_string();
        Metric::HandlersGivenUp.count(&[("platform", platform), ("reason", reason.to_owned())]);
        let letter = delivery.letter.map(|letter| letter.to_string()).unwrap_or_default();
        tracing::error!(
            letter, handler = %delivery.function, key = %delivery.event.key, reason, tries = self.tries,
            "the handler function was not given a dead letter; it is not called about it again"
        );
    }
}
