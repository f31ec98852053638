//! The stored trigger relation: what is wanted, where its handshake stands, and why.
//!
//! States and their ways: `pending → armed → active`, `pending → rejected`, `active → degraded → active`, any state →
//! `unbinding → gone` (gone is a row that is not there); `paused` by the operator. `armed`, `active`, `degraded` and
//! `paused` match events; the last two hold their deliveries without an attempt. A binding's filter and function never
//! change: another function is another binding.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::spec::{BindingSpec, FunctionLimits, InvalidSpec, Mode, Payload, Target};
use super::{clock::Timestamp, ids::BindingId, secret::SigningSecret};

/// What is wanted of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// It should be.
    Present,
    /// It should go.
    Absent,
}

/// Where a binding's handshake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Stored; the other sides are not yet in step.
    Pending,
    /// The platform said no. Ends here until it is unbound.
    Rejected,
    /// Everything is in step; not every daemon has been seen to know it.
    Armed,
    /// Everything is in step, everywhere.
    Active,
    /// Found damaged by an inspection; being mended.
    Degraded,
    /// Held by the operator.
    Paused,
    /// Being taken back.
    Unbinding,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Rejected,
        Self::Armed,
        Self::Active,
        Self::Degraded,
        Self::Paused,
        Self::Unbinding,
    ];

    /// The word for it in the API, logs, metrics and databases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Armed => "armed",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Paused => "paused",
            Self::Unbinding => "unbinding",
        }
    }

    /// The state of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether events match in this state.
    pub fn matches(self) -> bool {
        matches!(self, Self::Armed | Self::Active | Self::Degraded | Self::Paused)
    }

    /// Whether deliveries are held without an attempt in this state.
    pub fn holds(self) -> bool {
        matches!(self, Self::Degraded | Self::Paused)
    }

    /// Whether the state machine has a way from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use State::{Active, Armed, Degraded, Paused, Pending, Rejected, Unbinding};
        match (self, next) {
            (Unbinding, _) => false,
            (_, Unbinding)
            | (Pending, Armed | Rejected)
            | (Rejected, Pending)
            | (Armed, Active | Degraded | Paused)
            | (Active, Armed | Degraded | Paused)
            | (Degraded, Armed | Active | Paused)
            | (Paused, Armed | Active | Degraded) => true,
            _ => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The steps of the handshake, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The relation is stored here.
    Relation,
    /// The platform holds the rule.
    Rule,
    /// The bucket's notification configuration contains what the binding needs.
    Bucket,
    /// The platform has confirmed.
    Confirmation,
    /// Every registered daemon has seen the binding's revision.
    Nodes,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// In step.
    Done,
    /// Not yet done, nothing wrong.
    Waiting,
    /// The last try failed; `error` says how. It is tried again.
    Failed,
}

/// One step of a binding's handshake, as it was found last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How far.
    pub state: StepState,
    /// When that was found.
    pub at: Timestamp,
    /// What went wrong, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A binding as the relations hold it.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Its id, which is also the rule's.
    pub id: BindingId,
    /// What was asked for.
    pub spec: BindingSpec,
    /// Whether it should be.
    pub wanted: Wanted,
    /// Where it stands.
    pub state: State,
    /// Why it stands there, for a person.
    pub reason: Option<String>,
    /// What each step came to.
    pub steps: Vec<Step>,
    /// What signs its invocations.
    pub secret: SigningSecret,
    /// The revision of the relations at which it changed last.
    pub revision: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

impl Binding {
    /// Why it stands where it stands, and what its failed steps said, as [`BindingView::why`] has it.
    pub fn why(&self) -> Option<String> {
        why(self.reason.as_deref(), &self.steps)
    }
}

/// The reason, and behind it the errors of failed steps that it does not contain.
fn why(reason: Option<&str>, steps: &[Step]) -> Option<String> {
    let mut words = reason.unwrap_or_default().to_owned();
    for step in steps.iter().filter(|step| step.state == StepState::Failed) {
        let Some(error) = step.error.as_deref().filter(|error| !words.contains(error)) else { continue };
        if !words.is_empty() {
            words.push_str("; ");
        }
        words.push_str(error);
    }
    (!words.is_empty()).then_some(words)
}

/// A binding as the API shows it: everything but the secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BindingView {
    /// Its id.
    pub id: BindingId,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: BindingSpec,
    /// Where it stands.
    pub state: State,
    /// Why it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What each step came to.
    pub steps: Vec<Step>,
    /// The revision at which it changed last.
    pub revision: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

impl BindingView {
    /// Why it stands where it stands, for a person: its reason, and what its failed steps said (a platform's words, say)
    /// where the reason does not. The reason alone says why it fell, not why it is not mended.
    pub fn why(&self) -> Option<String> {
        why(self.reason.as_deref(), &self.steps)
    }
}

impl From<&Binding> for BindingView {
    fn from(binding: &Binding) -> Self {
        Self {
            id: binding.id,
            spec: binding.spec.clone(),
            state: binding.state,
            reason: binding.reason.clone(),
            steps: binding.steps.clone(),
            revision: binding.revision,
            created_at: binding.created_at,
            updated_at: binding.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_binding_stands_where_it_stands_ends_with_what_failed_since() {
        let step = |name, state, error: &str| Step {
            name,
            state,
            at: Timestamp::from_micros(0),
            error: Some(error.to_owned()),
        };
        let refused = step(StepName::Rule, StepState::Failed, "refused (404)");
        let waits = step(StepName::Bucket, StepState::Waiting, "waits");
        assert_eq!(why(None, std::slice::from_ref(&waits)), None);
        assert_eq!(why(Some("it differs"), std::slice::from_ref(&waits)).unwrap(), "it differs");
        assert_eq!(why(Some("it differs"), &[refused.clone(), waits]).unwrap(), "it differs; refused (404)");
        let once = why(Some("refused (404); so it rests"), &[refused]);
        assert_eq!(once.unwrap(), "refused (404); so it rests");
    }

    #[test]
    fn nothing_leads_out_of_unbinding() {
        for state in State::ALL {
            assert!(!State::Unbinding.may_become(state));
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert!(State::Pending.may_become(State::Armed) && !State::Pending.may_become(State::Active));
    }
}
