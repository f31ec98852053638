//! What requests and answers look like; used by the handlers and by the client.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        binding::{BindingView, Mode, Payload, State},
        clock::Timestamp,
        delivery::DeadReason,
        event::Event,
        event_name::EventName,
        ids::{BindingId, DeliveryId},
        outcome::Attempt,
        retry::RetryPolicy,
    },
    queue::DeadLetter,
    relations::Node,
    telemetry::RecentOutcome,
};

use super::ports::Part;

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
    /// Events caused by these principals do not fire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_principals: Vec<String>,
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
    /// What to give as `before` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<DeliveryId>,
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
