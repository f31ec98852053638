//! What others may ask of the reconciler.

use std::sync::Arc;

use http::HeaderMap;
use serde::Deserialize;

use super::{agenda::Agenda, relapses::Relapses};
use crate::{
    domain::{
        binding::{Binding, State, Wanted},
        clock::Clock,
        ids::BindingId,
    },
    platform::signature::{self, Signed, Unverified},
    relations::{Relations, RelationsError},
};

/// Asks the reconciler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) agenda: Arc<Agenda>,
    pub(super) relapses: Arc<Relapses>,
    pub(super) relations: Arc<dyn Relations>,
    pub(super) clock: Arc<dyn Clock>,
}

/// What an inspection found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InspectionVerdict {
    /// All is well, with the binding as of this revision: an attempt that begins from now on with this revision,
    /// and is told again that its binding is broken, has its final answer.
    InStep {
        /// The binding's revision when it was inspected.
        revision: u64,
    },
    /// The rule is missing or changed, or the bucket's rules are; the binding is `degraded` and being mended.
    Damaged {
        /// What is wrong.
        reason: String,
    },
    /// There is no such binding, or it is not wanted any more.
    Gone,
    /// Nobody could tell: the platform, the storage or the relations did not answer. Try the delivery again later.
    Unknown,
}

/// Why a confirmation was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// No such binding (404).
    #[error("there is no binding {0}")]
    NoSuchBinding(BindingId),
    /// Not signed by whom it says (401).
    #[error("the confirmation is not believed")]
    Unverified(#[source] Unverified),
    /// Signed, and saying something else (400).
    #[error("the body must be {{\"rule\":\"{0}\",\"state\":\"confirmed\"}}")]
    Malformed(BindingId),
    /// The binding is rejected or being taken back (409).
    #[error("binding {id} is {state} and waits for no confirmation")]
    NotWaiting {
        /// Which.
        id: BindingId,
        /// Where it stands.
        state: State,
    },
    /// The relations could not be asked (503).
    #[error("the confirmation cannot be checked now")]
    Unavailable(#[source] RelationsError),
}

#[derive(Deserialize)]
struct Confirmation {
    rule: String,
    state: String,
}

impl Handle {
    /// What is wanted has changed.
    pub fn wake(&self) {
        self.agenda.wake();
    }

    /// What is wanted of this binding has changed, or it should be looked at, and mended, now.
    pub fn wake_binding(&self, id: BindingId) {
        self.relapses.hasten(id);
        self.agenda.wake_binding(id);
    }

    /// The binding that a confirmation with these headers is of, if it can be right whatever its body says.
    pub async fn expects(&self, id: BindingId, headers: &HeaderMap) -> Result<Binding, ConfirmError> {
        let signed = Signed::read(headers).map_err(ConfirmError::Unverified)?;
        signature::could_be_right(signed, self.clock.wall()).map_err(ConfirmError::Unverified)?;
        let binding = self.relations.binding(id).await.map_err(ConfirmError::Unavailable)?;
        binding.ok_or(ConfirmError::NoSuchBinding(id))
    }

    /// Takes a platform's signed confirmation that it holds the rule of a binding that [expects](Self::expects) one.
    ///
    /// It is noted in memory and wakes the reconciler, which then takes the rule for confirmed. The platform marks
    /// the rule only after our answer, so asking it at once would come too early; later it says so itself, so that
    /// nothing is lost if we crash before the state is recorded, or if another daemon got the call. One that comes
    /// again is taken again.
    pub fn confirm(&self, binding: &Binding, headers: &HeaderMap, body: &[u8]) -> Result<(), ConfirmError> {
        let id = binding.id;
        let signed = Signed::read(headers).map_err(ConfirmError::Unverified)?;
        signature::verify(&binding.secret, signed, body, self.clock.wall())
            .map_err(ConfirmError::Unverified)?;
        let said = serde_json::from_slice::<Confirmation>(body).ok();
        let said = said.filter(|said| said.rule.parse() == Ok(id) && said.state == "confirmed");
        said.ok_or(ConfirmError::Malformed(id))?;
        if binding.wanted == Wanted::Absent || binding.state == State::Rejected {
            return Err(ConfirmError::NotWaiting { id, state: binding.state });
        }
        self.agenda.confirm(id);
        Ok(())
    }

    /// Has the binding inspected, by an inspection that begins after this call, and tells what it found. For
    /// dispatch, when an attempt was answered as if the binding were broken. Ends when the reconciler's next pass
    /// does.
    pub async fn inspect_now(&self, id: BindingId) -> InspectionVerdict {
        match self.agenda.suspect(id) {
            Some(verdict) => verdict.await.unwrap_or(InspectionVerdict::Unknown),
            None => InspectionVerdict::Unknown,
        }
    }
}
