//! From what was found at each step to the binding's state. Pure.

use crate::{
    domain::{
        binding::{Binding, State, Step, StepName, StepState},
        clock::Timestamp,
    },
    relations::Progress,
};

/// What one step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// In step.
    Done,
    /// Not yet, for this reason; nothing is wrong.
    Waiting(String),
    /// It failed, with this error; tried again later.
    Failed(String),
}

impl Found {
    pub(super) fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// What a person should read about it.
    pub(super) fn words(&self) -> Option<&str> {
        match self {
            Self::Done => None,
            Self::Waiting(words) | Self::Failed(words) => Some(words),
        }
    }
}

/// What all steps came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) rule: Found,
    pub(super) bucket: Found,
    pub(super) confirmation: Found,
    pub(super) nodes: Found,
}

/// The progress of a binding that is to be present. Never `rejected` or `degraded`, which are recorded when they are found.
pub(super) fn present(binding: &Binding, found: &Findings, now: Timestamp) -> Progress {
    let state = binding.state;
    let whole = [&found.rule, &found.bucket, &found.confirmation].into_iter().all(Found::is_done);
    let next = match state {
        State::Pending | State::Degraded if whole => State::Armed,
        State::Armed if found.nodes.is_done() => State::Active,
        _ => state,
    };
    let steps = [&found.rule, &found.bucket, &found.confirmation, &found.nodes];
    let open = || {
        let failed = steps.iter().find(|found| matches!(found, Found::Failed(_)));
        failed.or_else(|| steps.iter().find(|found| !found.is_done())).and_then(|found| found.words())
    };
    let reason = match next {
        State::Pending | State::Armed => open().map(str::to_owned),
        State::Active | State::Unbinding => None,
        State::Degraded | State::Paused | State::Rejected => binding.reason.clone(),
    };
    Progress { state: next, reason, steps: written(found, now), now }
}

/// The progress of a binding that is being taken back.
pub(super) fn absent(found: &[(StepName, Found)], now: Timestamp) -> Progress {
    let open = found.iter().find_map(|(_, found)| found.words());
    Progress {
        state: State::Unbinding,
        reason: open.map(str::to_owned),
        steps: found.iter().map(|(name, found)| step(*name, found, now)).collect(),
        now,
    }
}

fn written(found: &Findings, now: Timestamp) -> Vec<Step> {
    vec![
        step(StepName::Relation, &Found::Done, now),
        step(StepName::Rule, &found.rule, now),
        step(StepName::Bucket, &found.bucket, now),
        step(StepName::Confirmation, &found.confirmation, now),
        step(StepName::Nodes, &found.nodes, now),
    ]
}

pub(super) fn step(name: StepName, found: &Found, at: Timestamp) -> Step {
    let state = match found {
        Found::Done => StepState::Done,
        Found::Waiting(_) => StepState::Waiting,
        Found::Failed(_) => StepState::Failed,
    };
    Step { name, state, at, error: found.words().map(str::to_owned) }
}

/// The same binding in another state, with the steps it had; one of them replaced.
pub(super) fn fallen(
    binding: &Binding,
    state: State,
    broken: StepName,
    reason: &str,
    now: Timestamp,
) -> Progress {
    let failed = step(broken, &Found::Failed(reason.to_owned()), now);
    let mut steps = binding.steps.clone();
    match steps.iter_mut().find(|step| step.name == broken) {
        Some(step) => *step = failed,
        None => steps.push(failed),
    }
    Progress { state, reason: Some(reason.to_owned()), steps, now }
}
