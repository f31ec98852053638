//! One look: at bindings of one platform, their rules, their buckets, and what follows for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    InspectionVerdict, Parts, Settings,
    agenda::{Agenda, Suspects},
    bucket_step::{BucketLooked, Writers},
    decide::{self, Findings, Found},
    relapses::Relapses,
    rule_step::{Away, Looked, Over},
    schedule::Left,
};
use crate::{
    bucket::BucketRule,
    domain::{
        binding::{Binding, State, Wanted},
        event::StorageName,
        ids::BindingId,
    },
    relations::{Node, Progress, RelationsError},
    telemetry::{Chain, bindings::BindingTurned},
};

/// Rules looked at at once.
const RULES_AT_ONCE: usize = 16;

/// Buckets looked at at once.
const BUCKETS_AT_ONCE: usize = 4;

pub(super) type BucketKey = (StorageName, String);

/// What every step works with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) parts: Parts,
    pub(super) settings: Settings,
    pub(super) agenda: Arc<Agenda>,
    /// Which bindings fell lately.
    pub(super) relapses: Arc<Relapses>,
    /// The rules of others that were last seen in each bucket.
    pub(super) foreign: Mutex<BTreeMap<BucketKey, Vec<BucketRule>>>,
    /// Which buckets this daemon is writing.
    pub(super) writers: Writers,
}

/// What one look knows of the world.
struct World {
    nodes: Arc<Vec<Node>>,
    buckets: BTreeMap<BucketKey, BucketLooked>,
}

impl World {
    /// The rule's verdict, made worse by what was found in the bucket: now, or before and not recorded as mended yet.
    fn verdict(&self, looked: &Looked) -> InspectionVerdict {
        let binding = &looked.binding;
        let bucket = self.buckets.get(&key(binding));
        let now = bucket.and_then(|bucket| bucket.damaged.get(&binding.id));
        let before = binding.reason.as_ref().filter(|_| binding.state == State::Degraded);
        match (&looked.verdict, now.or(before)) {
            (InspectionVerdict::InStep { .. }, Some(reason)) => {
                InspectionVerdict::Damaged { reason: reason.clone() }
            }
            (verdict, _) => verdict.clone(),
        }
    }
}

impl Core {
    /// A look at bindings of one platform, to its end.
    pub(super) async fn look_at(
        &self,
        due: Vec<Binding>,
        suspects: Suspects,
        nodes: Arc<Vec<Node>>,
    ) -> Result<Vec<Over>, RelationsError> {
        let (present, absent): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|binding| binding.wanted == Wanted::Present);
        let mut verdicts: BTreeMap<_, _> =
            absent.iter().map(|binding| (binding.id, InspectionVerdict::Gone)).collect();
        let (rejected, present): (Vec<_>, Vec<_>) =
            present.into_iter().partition(|binding| binding.state == State::Rejected);
        let away = &Away::default();
        let looked: Vec<Result<Looked, Over>> = stream::iter(present)
            .map(|binding| self.look_at_rule(binding, away))
            .buffer_unordered(RULES_AT_ONCE)
            .try_collect()
            .await?;
        let bound = looked.iter().filter_map(whose_bucket);
        let keys: BTreeSet<BucketKey> = bound.chain(&rejected).chain(&absent).map(key).collect();
        let buckets = self.look_at_buckets(keys).await?;
        let world = World { nodes, buckets };

        let mut left: Vec<_> = rejected.into_iter().map(|binding| Over(binding, Left::Settled)).collect();
        for looked in looked {
            match looked {
                Ok(looked) => {
                    verdicts.insert(looked.binding.id, world.verdict(&looked));
                    left.push(self.conclude(looked, &world).await?);
                }
                Err(over) => left.push(over),
            }
        }
        for binding in absent {
            let bucket = world.buckets.get(&key(&binding));
            let how = self.take_back(&binding, bucket, &world.nodes, away).await?;
            left.push(Over(binding, how));
        }
        answer(suspects, |id| verdicts.remove(&id));
        Ok(left)
    }

    /// Looks at each of these buckets once, with the bindings as they are now: what was rejected since the pass
    /// began needs nothing any more.
    async fn look_at_buckets(
        &self,
        keys: BTreeSet<BucketKey>,
    ) -> Result<BTreeMap<BucketKey, BucketLooked>, RelationsError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let all = &self.parts.relations.snapshot().await?.bindings;
        stream::iter(keys)
            .map(|key| async move {
                let looked = self.look_at_bucket(&key, all).await?;
                Ok((key, looked))
            })
            .buffer_unordered(BUCKETS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Decides and records where a present binding stands now, and holds or releases its deliveries.
    async fn conclude(&self, looked: Looked, world: &World) -> Result<Over, RelationsError> {
        let Looked { binding, rule, confirmation, .. } = looked;
        let bucket = world.buckets.get(&key(&binding));
        if bucket.is_some_and(|bucket| bucket.damaged.contains_key(&binding.id)) {
            // It was recorded as degraded after we looked at its rule.
            return Ok(Over(binding, Left::Changed));
        }
        let findings = Findings {
            rule,
            bucket: bucket.map_or_else(after_rule, |bucket| bucket.found.clone()),
            confirmation,
            nodes: self.seen(&binding, &world.nodes),
        };
        let progress = decide::present(&binding, &findings, self.parts.clock.now());
        if !self.record(&binding, &progress).await? {
            return Ok(Over(binding, Left::Changed));
        }
        let mut held = true;
        if progress.state.matches() {
            self.agenda.forget_confirmation(binding.id);
            held = self.hold(&binding, progress.state).await;
        }
        let steps = [&findings.rule, &findings.bucket, &findings.confirmation];
        let rests = self.relapses.rests(binding.id, binding.state, self.parts.clock.monotonic());
        let left = if progress.state != binding.state {
            Left::Changed
        } else if let Some(until) = rests.filter(|_| held && findings.bucket.is_done()) {
            Left::Resting(until)
        } else if !held || steps.iter().any(|found| matches!(found, Found::Failed(_))) {
            Left::Failed
        } else if steps.iter().all(|found| found.is_done()) && progress.state != State::Armed {
            Left::Settled
        } else {
            Left::Waiting
        };
        Ok(Over(binding, left))
    }

    /// Records progress, and tells it when it is news; whether the binding was still as it was looked at.
    pub(super) async fn record(
        &self,
        binding: &Binding,
        progress: &Progress,
    ) -> Result<bool, RelationsError> {
        let recorded = self.parts.relations.record(binding.id, binding.revision, progress).await?;
        if recorded {
            BindingTurned { binding, to: progress.state, reason: progress.reason.as_deref() }.tell();
        }
        Ok(recorded)
    }

    /// Holds or releases this daemon's parked deliveries of the binding; whether that was possible.
    pub(super) async fn hold(&self, binding: &Binding, state: State) -> bool {
        let held = self.parts.deliveries.hold(binding.id, state.holds()).await;
        if let Err(error) = &held {
            tracing::warn!(binding = %binding.id, error = %Chain(error), "parked deliveries cannot be held or released");
        }
        held.is_ok()
    }

    /// Whether every daemon has what is recorded of the binding in force; asked only where the answer decides its
    /// state.
    fn seen(&self, binding: &Binding, nodes: &[Node]) -> Found {
        match binding.state {
            State::Active | State::Paused => Found::Done,
            State::Armed => decide::seen_by_all(nodes, &self.settings.node, binding.revision),
            // What is about to be recorded, nobody has seen yet.
            _ => decide::seen_by_all(nodes, &self.settings.node, u64::MAX),
        }
    }
}

/// The binding, if its bucket is to be looked at: its rule stands, or it fires, or it was rejected and may have
/// left rules.
fn whose_bucket(looked: &Result<Looked, Over>) -> Option<&Binding> {
    match looked {
        Ok(looked) if looked.rule.is_done() || looked.binding.state.matches() => Some(&looked.binding),
        Err(Over(binding, _)) if binding.state == State::Rejected => Some(binding),
        _ => None,
    }
}

/// Tells those who wait for an inspection; by the silence of a dropped sender, that nobody can tell.
pub(super) fn answer(suspects: Suspects, mut verdict: impl FnMut(BindingId) -> Option<InspectionVerdict>) {
    for (id, waiting) in suspects {
        let Some(verdict) = verdict(id) else { continue };
        for sender in waiting {
            // Who asked may have gone.
            drop(sender.send(verdict.clone()));
        }
    }
}

fn after_rule() -> Found {
    Found::Waiting("the bucket's rules are written when the platform holds the rule".to_owned())
}

fn key(binding: &Binding) -> BucketKey {
    (binding.spec.storage.clone(), binding.spec.bucket.clone())
}
