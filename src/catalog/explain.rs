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
