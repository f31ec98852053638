//! The loop and its passes.
//!
//! A pass: read everything that is wanted; look at the rules of the bindings that are due (several at once; a
//! platform that does not answer is asked once a pass); look at the buckets of those bindings, each once; conclude
//! for each binding, and record it if the binding is still as it was. Whoever waits for an inspection is answered
//! at the end, or told `Unknown` when the pass ends before.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{
    Handle, InspectionVerdict, Parts, Settings,
    agenda::{Agenda, Wanted as Asked},
    bucket_step::BucketLooked,
    decide::{self, Findings, Found},
    rule_step::{Away, Looked, Over},
    schedule::{self, Left, Pace, Schedule},
};
use crate::{
    bucket::BucketRule,
    domain::{
        binding::{Binding, State, Wanted},
        event::StorageName,
        ids::BindingId,
    },
    relations::{Node, Progress, RelationsError},
    telemetry::{Chain, Metric},
};

/// Rules looked at at once.
const RULES_AT_ONCE: usize = 16;

/// Buckets looked at at once.
const BUCKETS_AT_ONCE: usize = 4;

/// What comes in a burst is looked at together.
const GATHER: Duration = Duration::from_millis(10);

pub(super) type BucketKey = (StorageName, String);

/// Makes what is, what is wanted.
#[derive(Debug)]
pub struct Reconciler {
    core: Core,
    schedule: Schedule,
}

/// What every step works with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) parts: Parts,
    pub(super) settings: Settings,
    pub(super) agenda: Arc<Agenda>,
    /// The rules of others that were last seen in each bucket.
    pub(super) foreign: Mutex<HashMap<BucketKey, Vec<BucketRule>>>,
}

/// What one pass knows of the world.
struct World {
    nodes: Vec<Node>,
    buckets: HashMap<BucketKey, BucketLooked>,
}

impl Reconciler {
    /// A reconciler, which does nothing until it runs, and the handle for everybody else.
    pub fn new(parts: Parts, settings: Settings) -> (Self, Handle) {
        let agenda = Arc::new(Agenda::default());
        let handle = Handle {
            agenda: Arc::clone(&agenda),
            relations: Arc::clone(&parts.relations),
            clock: Arc::clone(&parts.clock),
        };
        let core = Core { parts, settings, agenda, foreign: Mutex::default() };
        (Self { core, schedule: Schedule::default() }, handle)
    }

    /// Makes passes, when woken and by its timer, until it is stopped. Stopping it at any point is safe.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let pass = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pass = self.pass() => pass,
            };
            let entropy = self.core.parts.entropy.next();
            let mut wait = schedule::around(self.core.settings.look_every, entropy);
            match pass {
                Ok(()) => {
                    failures = 0;
                    wait = self.schedule.wait(self.core.parts.clock.monotonic(), wait);
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(error = %Chain(&error), "bindings cannot be reconciled; trying again");
                    }
                    wait = wait.min(Duration::from_secs(1) * 2_u32.pow(failures.min(5)));
                    failures = failures.saturating_add(1);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.core.agenda.woken() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(wait.max(GATHER)) => {}
            }
        }
    }

    /// One pass over everything that is due.
    pub async fn pass(&mut self) -> Result<(), RelationsError> {
        let asked = self.core.agenda.take();
        let result = self.look_at(&asked).await;
        let mut verdicts = match result {
            Ok(verdicts) => verdicts,
            Err(error) => {
                self.core.agenda.put_back(asked.ids);
                return Err(error);
            }
        };
        for (id, waiting) in asked.suspects {
            let verdict = verdicts.remove(&id).unwrap_or(InspectionVerdict::Unknown);
            for sender in waiting {
                // Who asked may have gone.
                drop(sender.send(verdict.clone()));
            }
        }
        Ok(())
    }

    async fn look_at(
        &mut self,
        asked: &Asked,
    ) -> Result<HashMap<BindingId, InspectionVerdict>, RelationsError> {
        let all = self.core.parts.relations.snapshot().await?.bindings;
        let nodes = self.core.parts.relations.nodes().await?;
        count_states(&all);
        self.schedule.keep(&all);
        let now = self.core.parts.clock.monotonic();
        let is_due = |binding: &&Binding| {
            let asked = asked.ids.contains(&binding.id) || asked.suspects.contains_key(&binding.id);
            asked || self.schedule.is_due(binding, now)
        };
        let due: Vec<Binding> = all.iter().filter(is_due).cloned().collect();
        let (present, absent): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|binding| binding.wanted == Wanted::Present);

        let away = Away::default();
        let (core, away) = (&self.core, &away);
        let (rejected, present): (Vec<_>, Vec<_>) =
            present.into_iter().partition(|binding| binding.state == State::Rejected);
        let looked: Vec<Result<Looked, Over>> = stream::iter(present)
            .map(|binding| core.look_at_rule(binding, away))
            .buffer_unordered(RULES_AT_ONCE)
            .try_collect()
            .await?;
        let bound = looked.iter().filter_map(whose_bucket);
        let keys: HashSet<BucketKey> = bound.chain(&rejected).chain(&absent).map(key).collect();
        let buckets = core.look_at_buckets(keys).await?;
        let world = World { nodes, buckets };

        let gone = |id: &&BindingId| {
            !all.iter().any(|binding| binding.id == **id && binding.wanted == Wanted::Present)
        };
        let mut verdicts: HashMap<_, _> =
            asked.suspects.keys().filter(gone).map(|id| (*id, InspectionVerdict::Gone)).collect();
        let mut left: Vec<_> = rejected.into_iter().map(|binding| Over(binding, Left::Settled)).collect();
        for looked in looked {
            match looked {
                Ok(looked) => {
                    let (id, verdict) = (looked.binding.id, world.verdict(&looked));
                    left.push(core.conclude(looked, &world).await?);
                    verdicts.insert(id, verdict);
                }
                Err(over) => left.push(over),
            }
        }
        for binding in absent {
            let bucket = world.buckets.get(&key(&binding));
            let how = core.take_back(&binding, bucket, &world.nodes, away).await?;
            left.push(Over(binding, how));
        }
        for Over(binding, how) in left {
            let pace =
                Pace { inspect_every: core.settings.inspect_every, entropy: core.parts.entropy.next() };
            self.schedule.note(&binding, how, now, pace);
        }
        Ok(verdicts)
    }
}

impl World {
    /// The rule's verdict, made worse by what was found in the bucket: now, or before and not mended yet.
    fn verdict(&self, looked: &Looked) -> InspectionVerdict {
        let binding = &looked.binding;
        let bucket = self.buckets.get(&key(binding));
        let now = bucket.and_then(|bucket| bucket.damaged.get(&binding.id));
        let still = bucket.is_some_and(|bucket| !bucket.found.is_done()) && binding.state == State::Degraded;
        let before = binding.reason.as_ref().filter(|_| still);
        match (&looked.verdict, now.or(before)) {
            (InspectionVerdict::InStep { .. }, Some(reason)) => {
                InspectionVerdict::Damaged { reason: reason.clone() }
            }
            (verdict, _) => verdict.clone(),
        }
    }
}

impl Core {
    /// Looks at each of these buckets once, with the bindings as they are now: what was rejected since the pass
    /// began needs nothing any more.
    async fn look_at_buckets(
        &self,
        keys: HashSet<BucketKey>,
    ) -> Result<HashMap<BucketKey, BucketLooked>, RelationsError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
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
        let left = if progress.state != binding.state {
            Left::Changed
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
        if recorded && progress.state != binding.state {
            Metric::BindingTransitions.count(&[("state", progress.state.as_str().to_owned())]);
            tracing::info!(
                binding = %binding.id, from = %binding.state, to = %progress.state,
                reason = progress.reason.as_deref().unwrap_or_default(), "a binding's state changed"
            );
        } else if recorded && progress.reason != binding.reason {
            tracing::info!(
                binding = %binding.id, state = %progress.state,
                reason = progress.reason.as_deref().unwrap_or_default(), "a binding stands where it stood"
            );
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

fn after_rule() -> Found {
    Found::Waiting("the bucket's rules are written when the platform holds the rule".to_owned())
}

fn key(binding: &Binding) -> BucketKey {
    (binding.spec.storage.clone(), binding.spec.bucket.clone())
}

fn count_states(bindings: &[Binding]) {
    for state in State::ALL {
        let count = bindings.iter().filter(|binding| binding.state == state).count();
        // Exact up to 2^53 bindings.
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
        Metric::Bindings.set(count as f64, &[("state", state.as_str().to_owned())]);
    }
}
