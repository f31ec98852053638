//! What requests for bindings and matches look like, and what is answered.

use serde::{Deserialize, Serialize};

use crate::domain::{
    binding::{BindingView, Mode, Payload, State},
    event::Event,
    ids::BindingId,
    retry::RetryPolicy,
};

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
