//! Happenings of bindings: where they go, and what a platform says no to.
//!
//! Told when it is news to the relations, so once for each change and not at each pass that finds it unchanged.

use super::{Metric, excerpt};
use crate::domain::binding::{Binding, State, StepName};

/// Most that is logged of what a platform says.
const WORDS: usize = 1_000;

/// Something new was recorded of a binding.
#[derive(Debug)]
pub struct BindingTurned<'a> {
    /// As it was.
    pub binding: &'a Binding,
    /// Where it stands now; perhaps where it stood.
    pub to: State,
    /// Why it stands there now.
    pub reason: Option<&'a str>,
}

impl BindingTurned<'_> {
    /// Tells it, unless neither state nor reason are new.
    pub fn tell(&self) {
        let (binding, from, to) = (self.binding.id, self.binding.state, self.to);
        let reason = self.reason.unwrap_or_default();
        if from != to {
            Metric::BindingTransitions.count(&[("state", to.as_str().to_owned())]);
        } else if self.reason == self.binding.reason.as_deref() {
            return;
        }
        let function = &self.binding.spec.function;
        let (platform, function) = (&function.platform, &function.function);
        match to {
            _ if from == to => {
                tracing::info!(%binding, state = %to, reason, "a binding stands where it stood");
            }
            State::Degraded => tracing::warn!(
                %binding, %from, %to, %platform, %function, reason,
                "a binding is damaged: its deliveries are held until it is mended"
            ),
            State::Rejected => {
                tracing::warn!(%binding, %from, %to, %platform, %function, reason, "a binding is refused");
            }
            _ => tracing::info!(%binding, %from, %to, reason, "a binding's state changed"),
        }
    }
}

/// The platform does not take the rule of a binding that was in force: it is not mended.
#[derive(Debug)]
pub struct RuleNotPut<'a> {
    /// The binding, with what was recorded of its steps before.
    pub binding: &'a Binding,
    /// The platform's words, or why there are none.
    pub words: &'a str,
    /// Whether it said no, and would again; not that it is away or too busy.
    pub refused: bool,
}

impl RuleNotPut<'_> {
    /// Tells it, unless the same words are recorded already.
    pub fn tell(&self) {
        let mut steps = self.binding.steps.iter();
        let step = steps.find(|step| step.name == StepName::Rule);
        if step.is_some_and(|step| step.error.as_deref() == Some(self.words)) {
            return;
        }
        let (binding, state) = (self.binding.id, self.binding.state);
        let function = &self.binding.spec.function;
        let (platform, function) = (&function.platform, &function.function);
        let error = excerpt(self.words.as_bytes(), WORDS);
        if self.refused {
            tracing::error!(
                %binding, %state, %platform, %function, error,
                "the platform does not take the rule again: deliveries are held, not lost, until it does (`triggerd \
                 bindings {binding}`)"
            );
        } else {
            tracing::warn!(
                %binding, %state, %platform, %function, error,
                "the rule could not be given to the platform again: deliveries are held until it can"
            );
        }
    }
}
