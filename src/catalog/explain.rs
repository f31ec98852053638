//! Why an event fires a binding, or does not.

use std::{fmt, sync::Arc};

use crate::domain::{
    binding::{Binding, State},
    filter::Mismatch,
};

/// One reason why an event does not fire a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The binding does not match in this state.
    State(State),
    /// The binding asks for other events or keys.
    Mismatch(Mismatch),
    /// The storage ignores whoever caused the event.
    IgnoredByStorage(String),
    /// The binding ignores whoever caused the event.
    IgnoredByBinding(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(State::Unbinding) => {
                f.write_str("the binding is unbinding: it is being taken back, and matches nothing any more")
            }
            Self::State(State::Rejected) => {
                f.write_str("the binding is rejected: the platform refused it, and it matches nothing")
            }
            Self::State(state) => write!(f, "the binding is {state}, and matches only once it is armed"),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::IgnoredByStorage(principal) => {
                write!(f, "`{principal}` caused it, which the storage's ignore_principals names")
            }
            Self::IgnoredByBinding(principal) => {
                write!(f, "`{principal}` caused it, which the binding's ignore_principals names")
            }
        }
    }
}

/// What an event means to one binding of its bucket.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Which binding.
    pub binding: Arc<Binding>,
    /// Whether it fires.
    pub fires: bool,
    /// Every reason why not; empty when it fires.
    pub reasons: Vec<Reason>,
}

impl Explanation {
    /// What a person should read about it: every reason why it does not fire, or that what fires is held, and why the
    /// binding stands where it stands.
    pub fn words(&self) -> Vec<String> {
        let state = self.binding.state;
        let why = || self.binding.why().map(|why| format!(": {why}")).unwrap_or_default();
        if self.fires && state.holds() {
            return vec![format!("its deliveries are held, since the binding is {state}{}", why())];
        }
        let words = |reason: &Reason| match reason {
            Reason::State(_) => format!("{reason}{}", why()),
            _ => reason.to_string(),
        };
        self.reasons.iter().map(words).collect()
    }
}
