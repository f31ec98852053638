//! The platform's half of one binding: established, inspected, mended, confirmed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    decide::{self, Found},
    handle::InspectionVerdict,
    look::Core,
    schedule::Left,
};
use crate::{
    domain::binding::{Binding, State, StepName, StepState},
    platform::{Driver, Established, Inspection, PlatformError},
    relations::RelationsError,
    telemetry::{Chain, bindings::RuleNotPut},
};

/// A confirmation that has not come for so long is asked for again: platforms give up calling back.
const CONFIRM_AGAIN: Duration = Duration::from_mins(10);

/// A binding whose rule was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    /// As it is now: a fall to `degraded` is in it.
    pub(super) binding: Binding,
    pub(super) rule: Found,
    pub(super) confirmation: Found,
    /// What to tell those who wait for an inspection, as far as the rule goes.
    pub(super) verdict: InspectionVerdict,
}

/// The look at a binding is over for this pass.
#[derive(Debug)]
pub(super) struct Over(pub(super) Binding, pub(super) Left);

/// Platforms that did not answer in this pass, and how: the rest of their bindings need not wait for it too.
#[derive(Debug, Default)]
pub(super) struct Away(Mutex<BTreeMap<String, String>>);

impl Away {
    fn error(&self, platform: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(platform).cloned()
    }

    /// The error's words; noted when it is of a kind that the platform's other bindings would meet too.
    pub(super) fn note(&self, platform: &str, error: &PlatformError) -> String {
        let words = Chain(error).to_string();
        if matches!(error, PlatformError::Unreachable { .. }) {
            let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            away.insert(platform.to_owned(), words.clone());
        }
        words
    }
}

impl Core {
    /// Looks at the rule of a binding that is to be present, and does what is missing.
    pub(super) async fn look_at_rule(
        &self,
        binding: Binding,
        away: &Away,
    ) -> Result<Result<Looked, Over>, RelationsError> {
        let failed = |binding, error: String| {
            let (rule, confirmation) = (Found::Failed(error), waiting_for_confirmation(&binding));
            Ok(Ok(Looked { binding, rule, confirmation, verdict: InspectionVerdict::Unknown }))
        };
        let (clock, entropy) = (self.parts.clock.as_ref(), self.parts.entropy.next());
        if self.relapses.saw(binding.id, binding.state, clock, entropy).is_some() {
            return Ok(Ok(resting(binding)));
        }
        let driver = match self.driver(&binding, away) {
            Ok(driver) => driver,
            Err(error) => return failed(binding, error),
        };
        let known = binding.state != State::Pending || was_done(&binding, StepName::Rule);
        let inspection = if known { driver.inspect(&binding).await } else { Ok(Inspection::Missing) };
        let damage = match inspection {
            Err(error) => {
                let words = away.note(&binding.spec.function.platform, &error);
                return failed(binding, words);
            }
            Ok(Inspection::InStep { confirmed }) if confirmed || !self.must_ask_again(&binding) => {
                return Ok(Ok(self.in_step(binding, confirmed)));
            }
            Ok(Inspection::InStep { .. }) => None,
            Ok(Inspection::Missing) => Some("the platform no longer has the rule".to_owned()),
            Ok(Inspection::Changed(what)) => Some(what),
        };
        let Some(damage) = damage.filter(|_| known) else {
            return self.establish(binding, driver, InspectionVerdict::Unknown, away).await;
        };
        self.agenda.forget_confirmation(binding.id);
        let binding = match self.fall(binding, State::Degraded, StepName::Rule, &damage).await? {
            Ok(binding) => binding,
            Err(over) => return Ok(Err(over)),
        };
        if self.relapses.rests(binding.id, binding.state, self.parts.clock.monotonic()).is_some() {
            return Ok(Ok(resting(binding)));
        }
        // A platform keeps a changed rule against a new one of the same id. A crash after this leaves it missing.
        if binding.state != State::Pending
            && let Err(error) = driver.withdraw(binding.id).await
        {
            let words = away.note(&binding.spec.function.platform, &error);
            return failed(binding, words);
        }
        self.establish(binding, driver, InspectionVerdict::Damaged { reason: damage }, away).await
    }

    /// The driver of the binding's platform, unless there is none or it was found not to answer.
    pub(super) fn driver(&self, binding: &Binding, away: &Away) -> Result<&dyn Driver, String> {
        let platform = &binding.spec.function.platform;
        if let Some(error) = away.error(platform) {
            return Err(error);
        }
        let driver = self.parts.drivers.get(platform).map(AsRef::as_ref);
        driver.ok_or_else(|| {
            format!("platform `{platform}` is not configured on this daemon; add [platforms.{platform}], or unbind before removing it")
        })
    }

    fn in_step(&self, binding: Binding, confirmed: bool) -> Looked {
        // A platform marks its rule only after our answer to its call; what was armed once was confirmed.
        let once = matches!(binding.state, State::Armed | State::Active | State::Paused);
        let confirmation = if confirmed || once || self.agenda.is_confirmed(binding.id) {
            Found::Done
        } else {
            waiting_for_confirmation(&binding)
        };
        let verdict = InspectionVerdict::InStep { revision: binding.revision };
        Looked { binding, rule: Found::Done, confirmation, verdict }
    }

    fn must_ask_again(&self, binding: &Binding) -> bool {
        let step = binding.steps.iter().find(|step| step.name == StepName::Rule);
        let waits = matches!(binding.state, State::Pending | State::Degraded);
        waits
            && !self.agenda.is_confirmed(binding.id)
            && step.is_some_and(|step| self.parts.clock.now().since(step.at) >= CONFIRM_AGAIN)
    }

    async fn establish(
        &self,
        binding: Binding,
        driver: &dyn Driver,
        verdict: InspectionVerdict,
        away: &Away,
    ) -> Result<Result<Looked, Over>, RelationsError> {
        let base = self.settings.callback_url.as_deref().map(|url| url.trim_end_matches('/'));
        let confirm_url = base.map(|base| format!("{base}/v1/bindings/{}/confirm", binding.id));
        let (rule, confirmation) = match driver.establish(&binding, &confirm_url.unwrap_or_default()).await {
            Ok(Established::Confirmed) => (Found::Done, Found::Done),
            Ok(Established::Pending) if self.agenda.is_confirmed(binding.id) => (Found::Done, Found::Done),
            Ok(Established::Pending) => (Found::Done, waiting_for_confirmation(&binding)),
            Ok(Established::Rejected(why)) if binding.state == State::Pending => {
                let over = match self.fall(binding, State::Rejected, StepName::Rule, &why).await? {
                    Ok(binding) => Over(binding, Left::Settled),
                    Err(over) => over,
                };
                return Ok(Err(over));
            }
            Ok(Established::Rejected(words)) => {
                RuleNotPut { binding: &binding, words: &words, refused: true }.tell();
                (Found::Failed(words), waiting_for_confirmation(&binding))
            }
            Err(error) => {
                let words = away.note(&binding.spec.function.platform, &error);
                if binding.state != State::Pending {
                    let refused = match error {
                        PlatformError::Unreachable { .. } => false,
                        PlatformError::Unexpected { status, .. } => {
                            status < 500 && !matches!(status, 408 | 425 | 429)
                        }
                        PlatformError::Unauthorized { .. } => true,
                    };
                    RuleNotPut { binding: &binding, words: &words, refused }.tell();
                }
                (Found::Failed(words), waiting_for_confirmation(&binding))
            }
        };
        Ok(Ok(Looked { binding, rule, confirmation, verdict }))
    }

    /// Records that the binding is `degraded` or `rejected` and returns it as it is then. Where the state machine
    /// has no such way (it is degraded or paused already) it stays as it is.
    pub(super) async fn fall(
        &self,
        binding: Binding,
        state: State,
        broken: StepName,
        reason: &str,
    ) -> Result<Result<Binding, Over>, RelationsError> {
        if !binding.state.may_become(state) || binding.state == State::Paused {
            return Ok(Ok(binding));
        }
        let relapsed = (state == State::Degraded)
            .then(|| self.relapses.fell(binding.id, self.parts.clock.as_ref(), self.parts.entropy.next()));
        let told = match relapsed.flatten() {
            Some(rest) => format!("{reason}; {rest}"),
            None => reason.to_owned(),
        };
        let progress = decide::fallen(&binding, state, broken, &told, self.parts.clock.now());
        if !self.record(&binding, &progress).await? {
            return Ok(Err(Over(binding, Left::Changed)));
        }
        if state.matches() {
            // Held or not, the next look tries again; new deliveries are parked held by the state.
            self.hold(&binding, state).await;
        }
        match self.parts.relations.binding(binding.id).await? {
            Some(now) if now.state == state => Ok(Ok(now)),
            Some(now) => Ok(Err(Over(now, Left::Changed))),
            None => Ok(Err(Over(binding, Left::Changed))),
        }
    }
}

/// What is recorded of a binding that rests stays as it is, in words that are the same from pass to pass and from daemon to
/// daemon; it is not mended.
fn resting(binding: Binding) -> Looked {
    let step = binding.steps.iter().find(|step| step.name == StepName::Rule);
    let rule = match step.map(|step| (step.state, step.error.clone().unwrap_or_default())) {
        Some((StepState::Done, _)) => Found::Done,
        Some((StepState::Failed, error)) => Found::Failed(error),
        Some((StepState::Waiting, error)) => Found::Waiting(error),
        None => Found::Waiting(String::new()),
    };
    let confirmation =
        Found::Waiting("the binding rests before it is mended; its reason says until when".to_owned());
    let verdict = InspectionVerdict::Damaged { reason: binding.reason.clone().unwrap_or_default() };
    Looked { binding, rule, confirmation, verdict }
}

fn waiting_for_confirmation(binding: &Binding) -> Found {
    if matches!(binding.state, State::Armed | State::Active | State::Paused) {
        return Found::Done;
    }
    Found::Waiting(format!("platform `{}` has not confirmed the rule yet", binding.spec.function.platform))
}

fn was_done(binding: &Binding, name: StepName) -> bool {
    binding.steps.iter().any(|step| step.name == name && step.state == StepState::Done)
}
