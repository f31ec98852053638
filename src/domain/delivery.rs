//! One event on its way to one binding's function.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    clock::Timestamp,
    event::Event,
    ids::{BindingId, DeliveryId},
    outcome::Attempt,
};

/// A function on a configured platform. Permits and pacing are per function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FunctionRef {
    /// The platform's name in the config.
    pub platform: Arc<str>,
    /// The function's name on that platform.
    pub name: Arc<str>,
}

impl fmt::Display for FunctionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.platform, self.name)
    }
}

/// A delivery that is not settled.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same on every attempt.
    pub id: DeliveryId,
    /// What happened.
    pub event: Arc<Event>,
    /// To which binding.
    pub binding: BindingId,
    /// That binding's function, which never changes.
    pub function: FunctionRef,
    /// When the event reached this node; its age is counted from here.
    pub accepted_at: Timestamp,
    /// Attempts that failed by the function's own fault.
    pub attempts: u32,
    /// All attempts that did not succeed, whoever was at fault; what backoff grows with. A replay begins anew.
    pub tries: u32,
    /// How many numbers the calls before the last replay may have had; those of this life are numbered after them. Each
    /// life has another.
    pub earlier: u32,
    /// The dead letter that a handler function is given by this delivery; none for an ordinary one. Whatever becomes of
    /// it, it never becomes a dead letter itself.
    pub letter: Option<DeliveryId>,
    /// When the call was made that was accepted, and whose result it waits for; none when it waits for no result.
    pub awaiting: Option<Timestamp>,
}

impl Delivery {
    /// A delivery that nothing was tried for yet.
    pub fn new(event: Arc<Event>, binding: BindingId, function: FunctionRef, accepted_at: Timestamp) -> Self {
        let id = DeliveryId::of(event.id, binding);
        Self {
            id,
            event,
            binding,
            function,
            accepted_at,
            attempts: 0,
            tries: 0,
            earlier: 0,
            letter: None,
            awaiting: None,
        }
    }

    /// The number of the attempt that is under way or comes next, as the platform is told it: from 1, and never again the
    /// number of a call from before a replay. A call that a crash interrupted is made again under its number.
    pub fn number(&self) -> u32 {
        self.earlier.saturating_add(self.tries).saturating_add(1)
    }
}

/// What a handler function is told of a dead letter, beside its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obituary {
    /// The delivery that was given up.
    pub delivery: DeliveryId,
    /// The function that it was for.
    pub function: FunctionRef,
    /// Why it was given up.
    pub reason: DeadReason,
    /// The last words about it.
    pub detail: String,
    /// When.
    pub died_at: Timestamp,
    /// Its attempts, oldest first; bounded.
    pub attempts: Vec<Attempt>,
}

/// Why a delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The function failed as often as its binding allows.
    AttemptsExhausted,
    /// The event grew older than its binding allows.
    TooOld,
    /// An answer that another try cannot change.
    Permanent,
    /// The binding was removed while the delivery waited.
    Unbound,
    /// The function filled its share of the queue.
    Overflow,
}

impl DeadReason {
    /// All reasons.
    pub const ALL: [Self; 5] =
        [Self::AttemptsExhausted, Self::TooOld, Self::Permanent, Self::Unbound, Self::Overflow];

    /// The word for it in logs, metrics and databases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::TooOld => "too_old",
            Self::Permanent => "permanent",
            Self::Unbound => "unbound",
            Self::Overflow => "overflow",
        }
    }

    /// The reason of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}
