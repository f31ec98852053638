//! What requests for dead letters and the quarantine look like, and what is answered.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        clock::Timestamp,
        delivery::DeadReason,
        event::Event,
        event_name::EventName,
        ids::{BindingId, DeliveryId},
        outcome::Attempt,
    },
    queue::{DeadLetter, Item},
    telemetry::excerpt,
};

/// A dead letter in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// The delivery's id.
    pub id: DeliveryId,
    /// Its binding.
    pub binding: BindingId,
    /// The function's platform.
    pub platform: String,
    /// The function.
    pub function: String,
    /// Why it was given up.
    pub reason: DeadReason,
    /// The last words about it.
    pub detail: String,
    /// When it was given up.
    pub died_at: Timestamp,
    /// How many attempts were kept.
    pub attempts: usize,
    /// How many attempts were charged to the function: those that it failed itself.
    #[serde(default)]
    pub charged: u32,
    /// How many calls were made without success, those that were no fault of the function included.
    #[serde(default)]
    pub tries: u32,
    /// Whether its function has succeeded after all, after it was given up waiting for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub succeeded_late: bool,
    /// How often it was replayed before.
    pub replays: u32,
    /// The event's storage.
    pub storage: String,
    /// The event's bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// What happened to it.
    pub event: EventName,
}

impl From<&DeadLetter> for DeadLetterSummary {
    fn from(letter: &DeadLetter) -> Self {
        let (delivery, event) = (&letter.delivery, &letter.delivery.event);
        Self {
            id: delivery.id,
            binding: delivery.binding,
            platform: delivery.function.platform.to_string(),
            function: delivery.function.name.to_string(),
            reason: letter.reason,
            detail: letter.detail.clone(),
            died_at: letter.died_at,
            attempts: letter.attempts.len(),
            charged: delivery.attempts,
            tries: delivery.tries,
            succeeded_late: letter.succeeded_late(),
            replays: letter.replays,
            storage: event.storage.to_string(),
            bucket: event.bucket.clone(),
            key: event.key.clone(),
            event: event.name.clone(),
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetters {
    /// Newest first.
    pub dead_letters: Vec<DeadLetterSummary>,
    /// What to give as `cursor` for the next page; none when all were looked at. A page may be short, or empty, and have
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which dead letters: in the query of a list, in the body of a batch. Those that fit everything that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterRequest {
    /// Of this binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingId>,
    /// Of functions of this platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Of this function: its name, or PLATFORM/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Given up for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DeadReason>,
    /// Died at this moment or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Died before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Of events in this bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Of objects whose key begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
    /// All there are. A batch asks for this or for something of the above, so that nothing left out means everything.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
    /// The `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// At most this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Why they are discarded; for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What one batch has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterBatch {
    /// The deliveries that were replayed or discarded, oldest first.
    pub done: Vec<DeliveryId>,
    /// How many could not be replayed because their binding is gone.
    pub skipped: u64,
    /// How many were not replayed because their functions have succeeded since, of which a late report told. Asked for by
    /// their ids they are.
    #[serde(default)]
    pub succeeded_late: u64,
    /// How many dead letters are still to be looked at, at most; counted up to 100,000.
    pub left: u64,
    /// What to give as `cursor` to go on; none when all were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A dead letter, whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// The delivery's id.
    pub id: DeliveryId,
    /// Its binding.
    pub binding: BindingId,
    /// The function's platform.
    pub platform: String,
    /// The function.
    pub function: String,
    /// Why it was given up.
    pub reason: DeadReason,
    /// The last words about it.
    pub detail: String,
    /// From when its age was counted: when its event reached this node, or it was replayed; later by as long as its binding
    /// held it.
    pub accepted_at: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// How often it was replayed before.
    pub replays: u32,
    /// What happened.
    pub event: Event,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        let delivery = letter.delivery;
        Self {
            id: delivery.id,
            binding: delivery.binding,
            platform: delivery.function.platform.to_string(),
            function: delivery.function.name.to_string(),
            reason: letter.reason,
            detail: letter.detail,
            accepted_at: delivery.accepted_at,
            died_at: letter.died_at,
            attempts: letter.attempts,
            replays: letter.replays,
            event: (*delivery.event).clone(),
        }
    }
}

/// A dead letter that is on its way again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The delivery's id, the same as before.
    pub id: DeliveryId,
    /// The function's platform.
    pub platform: String,
    /// The function that is called.
    pub function: String,
    /// It was on its way before, and nothing changed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub already: bool,
}

/// What could never be processed, in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineSummary {
    /// Its number.
    pub id: u64,
    /// The source that brought it; `queue` for a row of the queue itself that could not be read.
    pub source: String,
    /// When.
    pub received_at: Timestamp,
    /// Why it cannot be processed.
    pub reason: String,
    /// Its whole length in bytes.
    pub length: u64,
    /// How it begins, control characters escaped.
    pub beginning: String,
    /// How often it was tried again in vain.
    pub tries: u32,
    /// When last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<Timestamp>,
}

impl From<&Item> for QuarantineSummary {
    fn from(item: &Item) -> Self {
        let what = &item.what;
        Self {
            id: item.id,
            source: what.source.clone(),
            received_at: what.received_at,
            reason: what.reason.clone(),
            length: what.length,
            beginning: excerpt(&what.bytes, 200),
            tries: item.tries,
            tried_at: item.tried_at,
        }
    }
}

/// A page of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinePage {
    /// Newest first.
    pub quarantine: Vec<QuarantineSummary>,
    /// What to give as `before` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What could never be processed, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineView {
    /// What the list shows.
    #[serde(flatten)]
    pub item: QuarantineSummary,
    /// How many of its bytes are kept: the first ones.
    pub kept: usize,
    /// These, in base64.
    pub bytes: String,
}

/// An item that is out of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Its number.
    pub id: u64,
    /// Events that it brought.
    pub events: usize,
    /// Deliveries that they cause, all of them settled or parked.
    pub deliveries: usize,
}
