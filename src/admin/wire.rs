//! What requests and answers look like; used by the handlers and by the client.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        binding::{BindingView, Mode, Payload, State},
        clock::Timestamp,
        delivery::DeadReason,
        event::Event,
        event_name::EventName,
        ids::{BindingId, DeliveryId},
        outcome::{Attempt, Class},
        retry::RetryPolicy,
    },
    queue::{DeadLetter, Item},
    relations::Node,
    telemetry::{RecentOutcome, excerpt},
};

use super::ports::{LISTENERS, Part};

/// A binding that is asked for. What is left out has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingRequest {
    /// The storage; the only one when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// Names and groups of events, such as `s3:ObjectCreated:*`.
    pub events: Vec<String>,
    /// What keys begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What keys end with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// A pattern over whole keys, in the place of prefix and suffix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// The platform; its own when a platform asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The function on that platform.
    pub function: String,
    /// How it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How long the result of an asynchronous call is waited for, in seconds; not at all when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub await_result_s: Option<u64>,
    /// What it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// How it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Longest time of one attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Age at which an event is given up, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_event_age_s: Option<u64>,
    /// Most calls at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Most calls in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<f64>,
    /// Events caused by these principals do not fire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_principals: Vec<String>,
    /// The function, on the same platform, that is given its dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_function: Option<String>,
    /// Whether the storage's fast targets are to bring its events too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twin: bool,
}

/// A page of bindings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bindings {
    /// In the order in which they were made.
    pub bindings: Vec<BindingView>,
    /// What to give as `after` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<BindingId>,
}

/// What becomes of parked deliveries when a binding is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pending {
    /// They become dead letters (*unbound*).
    #[default]
    DeadLetter,
    /// Those that this daemon has parked are forgotten.
    Discard,
}

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
            succeeded_late: letter.attempts.iter().any(|attempt| attempt.class == Class::Ok),
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
    /// When its event reached this node.
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

/// What is to be matched: an event as dead letters show it, or just its outlines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchRequest {
    /// A whole event. Then nothing else is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<Event>>,
    /// The storage; the only one when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The object's key, as users know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The event's name; `s3:ObjectCreated:Put` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

/// Whether a binding would fire for an event, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The binding.
    pub binding: BindingId,
    /// The function's platform.
    pub platform: String,
    /// Its function.
    pub function: String,
    /// Where the binding stands.
    pub state: State,
    /// Whether it would fire.
    pub fires: bool,
    /// Every reason why it would not; what else there is to know when it would.
    pub reasons: Vec<String>,
}

/// Which bindings would fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    /// How many would.
    pub fires: usize,
    /// Those that would first, then those that would not.
    pub bindings: Vec<Explanation>,
}

/// The last outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcomes {
    /// Newest first.
    pub outcomes: Vec<RecentOutcome>,
}

/// How functions flow on this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Functions {
    /// By platform and name.
    pub functions: Vec<FunctionView>,
}

/// How one function flows on this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionView {
    /// Its platform.
    pub platform: String,
    /// Its name.
    pub function: String,
    /// Deliveries parked that wait for their time or a permit.
    pub parked: u64,
    /// Deliveries parked that are held, because their binding is degraded, paused or being taken back.
    pub held: u64,
    /// Deliveries parked whose call was accepted, and whose result is awaited.
    #[serde(default)]
    pub awaiting: u64,
    /// Age of the delivery that is parked longest, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_s: Option<u64>,
    /// Deliveries parked in a second, over the last minute.
    pub parked_per_s: f64,
    /// Parked deliveries settled in a second, over the last minute: delivered, or given up.
    pub drained_per_s: f64,
    /// Deliveries that became dead letters in a second, over the last minute.
    #[serde(default)]
    pub died_per_s: f64,
    /// What its last calls came to; none when it was not called since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastCallsView>,
    /// Estimated seconds until nothing is parked, held and awaiting ones aside; none when it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_in_s: Option<u64>,
    /// Attempts that run now.
    pub running: u32,
    /// How many may run at once now; less than the limit after the function refused calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How many its bindings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// How many calls in a second its bindings allow; none without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<f64>,
    /// Its circuit breaker.
    pub breaker: BreakerView,
}

/// What a function's last calls came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCallsView {
    /// What the last one came to.
    pub class: Class,
    /// How many failed in a row up to it, whatever the fault; 0 when it went well.
    pub failed_in_a_row: u32,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many seconds ago that was.
    pub ago_s: u64,
}

/// A circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerView {
    /// `closed`, `open`, or `half_open`: the next delivery, or the one on its way, is a probe.
    pub state: String,
    /// Until when no call goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<Timestamp>,
    /// How many milliseconds that is from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for_ms: Option<u64>,
    /// Why it opened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl BreakerView {
    /// One that is closed.
    pub(super) fn closed() -> Self {
        Self { state: "closed".to_owned(), open_until: None, open_for_ms: None, reason: String::new() }
    }
}

/// A daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The revision that its catalog has in force.
    pub revision: u64,
    /// Where its admin API is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_url: Option<String>,
    /// How long ago it was heard of, in seconds.
    pub silent_for_s: u64,
    /// Whether it is the one that answers.
    pub this: bool,
}

impl NodeView {
    /// A node as the one named `this` shows it.
    pub fn new(node: Node, this: &str) -> Self {
        let silent_for_s = node.silent_for.as_secs();
        let this = node.name == this;
        Self { name: node.name, revision: node.revision, admin_url: node.admin_url, silent_for_s, this }
    }
}

/// All daemons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<NodeView>,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// Whether all parts are well.
    pub ok: bool,
    /// Each part.
    pub parts: Vec<Part>,
}

impl HealthView {
    /// The addresses at which the daemon listens, of its liveness.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let part = self.parts.iter().find(|part| part.name == LISTENERS);
        let addresses = part.into_iter().flat_map(|part| part.detail.split(' '));
        addresses.filter_map(|address| address.parse().ok()).collect()
    }
}
