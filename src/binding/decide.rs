//! From what was found at each step to the binding's state. Pure.

use crate::{
    domain::{
        binding::{Binding, State, Step, StepName, StepState},
        clock::Timestamp,
    },
    relations::{Node, Progress},
};

/// Most daemons that are named in a reason.
const MAX_NAMED: usize = 8;

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

/// The progress of a binding that is to be present. Never `rejected` or `degraded`, which are recorded when they
/// are found.
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

/// Whether every registered daemon, this one among them, has the revision in force.
///
/// The words must be the same from pass to pass: words that change are news, news is a new revision, and that would
/// have to be seen by all again. So only daemons that have been silent for a while are named, and their silence is
/// rounded.
pub(super) fn seen_by_all(nodes: &[Node], own: &str, revision: u64) -> Found {
    let registered = nodes.iter().any(|node| node.name == own);
    if registered && nodes.iter().all(|node| node.revision >= revision) {
        return Found::Done;
    }
    let behind = nodes.iter().filter(|node| node.revision < revision && node.name != own);
    let mut silent: Vec<String> = behind.filter_map(silence).collect();
    if silent.is_empty() {
        return Found::Waiting("not every daemon has taken it over yet".to_owned());
    }
    silent.sort();
    let more = silent.len().saturating_sub(MAX_NAMED);
    silent.truncate(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Found::Waiting(format!(
        "waits for daemons that are silent: {}{more}; forget those that will not return",
        silent.join(", ")
    ))
}

fn silence(node: &Node) -> Option<String> {
    let silent = match node.silent_for.as_secs() {
        0..10 => return None,
        10..60 => "ten seconds",
        60..600 => "a minute",
        600..3_600 => "ten minutes",
        3_600..86_400 => "an hour",
        _ => "a day",
    };
    Some(format!("`{}` (more than {silent})", node.name))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(name: &str, revision: u64, silent_for: u64) -> Node {
        Node { name: name.into(), revision, admin_url: None, silent_for: Duration::from_secs(silent_for) }
    }

    #[test]
    fn silent_daemons_are_named_in_words_that_do_not_change_with_every_second() {
        let words = |nodes: &[Node]| seen_by_all(nodes, "a", 5).words().map(str::to_owned);
        assert_eq!(words(&[node("a", 5, 0), node("b", 9, 99)]), None);
        assert!(
            words(&[node("b", 9, 0)]).unwrap().contains("not every daemon"),
            "this one has not registered"
        );
        let lagging = words(&[node("a", 5, 0), node("b", 4, 1)]);
        assert_eq!(lagging, words(&[node("a", 4, 0), node("b", 4, 2)]));
        let silent = words(&[node("a", 5, 0), node("b", 4, 61), node("c", 4, 1)]);
        assert_eq!(silent, words(&[node("a", 4, 3), node("b", 4, 599)]));
        assert!(silent.unwrap().contains("`b` (more than a minute)"));
        let many: Vec<_> = (0..20).map(|at| node(&format!("n{at}"), 0, 100)).collect();
        assert!(words(&many).unwrap().contains("and 12 more"));
    }
}
