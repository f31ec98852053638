//! The loop and its passes.
//!
//! A pass reads everything that is wanted and sorts the bindings that are due by their platform. Each platform gets a
//! *look* of its own, which goes on while the loop waits for the next pass: it looks at the rules (several at once; a
//! platform that does not answer is asked once a look), then at the buckets of those bindings, each once, concludes for
//! each binding, and records it if the binding is still as it was. A platform has one look at a time, and what comes
//! due meanwhile waits for its end: so a platform that hangs delays its own bindings and no others. Whoever waits for
//! an inspection is answered at the look's end, or told `Unknown` when the look fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Handle, InspectionVerdict, Parts, Settings,
    agenda::{Agenda, Suspects},
    bucket_step::Writers,
    look::{Core, answer},
    relapses::Relapses,
    rule_step::Over,
    schedule::{self, Pace, Schedule},
};
use crate::{
    domain::{
        binding::{Binding, State},
        ids::BindingId,
    },
    relations::{Node, RelationsError},
    telemetry::{Chain, Metric},
};

/// What comes in a burst is looked at together: so long after its first sign,
const GATHER: Duration = Duration::from_millis(10);

/// and so long after the pass before.
const REST: Duration = Duration::from_millis(100);

/// Makes what is, what is wanted.
pub struct Reconciler {
    core: Arc<Core>,
    schedule: Schedule,
    /// Tasks, since a look may hold a connection that the next pass needs; they end with the reconciler.
    looks: JoinSet<Ended>,
    /// Platforms with a look under way.
    busy: BTreeSet<String>,
    /// The last pass left something to be done when a look has ended.
    left_over: bool,
    /// Passes or looks that failed since the last that did not.
    failures: u32,
    /// After a failure: when the timer makes the next pass, on the monotonic clock.
    retry_at: Option<Duration>,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("busy", &self.busy).finish_non_exhaustive()
    }
}

/// A look that has ended.
struct Ended {
    platform: String,
    /// Which bindings it was about.
    ids: Vec<BindingId>,
    result: Result<Vec<Over>, RelationsError>,
}

impl Reconciler {
    /// A reconciler, which does nothing until it runs, and the handle for everybody else.
    pub fn new(parts: Parts, settings: Settings) -> (Self, Handle) {
        let agenda = Arc::new(Agenda::default());
        let relapses = Arc::new(Relapses::default());
        let handle = Handle {
            agenda: Arc::clone(&agenda),
            relapses: Arc::clone(&relapses),
            relations: Arc::clone(&parts.relations),
            clock: Arc::clone(&parts.clock),
        };
        let core = Core {
            parts,
            settings,
            agenda,
            relapses,
            foreign: Mutex::default(),
            writers: Writers::default(),
        };
        let reconciler = Self {
            core: Arc::new(core),
            schedule: Schedule::default(),
            looks: JoinSet::new(),
            busy: BTreeSet::new(),
            left_over: false,
            failures: 0,
            retry_at: None,
        };
        (reconciler, handle)
    }

    /// Makes passes, when woken and by its timer, until it is stopped. Stopping it at any point is safe.
    pub async fn run(mut self, stop: CancellationToken) {
        let core = Arc::clone(&self.core);
        loop {
            let begun = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                begun = self.begin() => begun,
            };
            if let Err(error) = begun {
                self.note_failure(&error);
            }
            let every = schedule::around(core.settings.look_every, core.parts.entropy.next());
            let begun_at = core.parts.clock.monotonic();
            let look_at = begun_at.saturating_add(every);
            loop {
                let now = core.parts.clock.monotonic();
                let wait = match self.retry_at {
                    Some(at) => at.saturating_sub(now),
                    None => self.schedule.wait(now, look_at.saturating_sub(now)),
                };
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    Some(ended) = ended(&mut self.looks) => {
                        if let Err(error) = self.finish(ended) {
                            self.note_failure(&error);
                        }
                        if self.left_over {
                            break;
                        }
                    }
                    () = core.agenda.woken() => break,
                    () = tokio::time::sleep(wait.max(GATHER)) => break,
                }
            }
            let rested = core.parts.clock.monotonic().saturating_sub(begun_at);
            tokio::time::sleep(REST.saturating_sub(rested).max(GATHER)).await;
        }
    }

    /// One pass over everything that is due, with all its looks.
    pub async fn pass(&mut self) -> Result<(), RelationsError> {
        let mut result = self.begin().await;
        while let Some(ended) = ended(&mut self.looks).await {
            result = result.and(self.finish(ended));
        }
        result
    }

    fn note_failure(&mut self, error: &RelationsError) {
        if self.failures == 0 {
            tracing::warn!(error = %Chain(error), "bindings cannot be reconciled; trying again");
        }
        let wait = Duration::from_secs(1) * 2_u32.pow(self.failures.min(5));
        self.retry_at = Some(self.core.parts.clock.monotonic().saturating_add(wait));
        self.failures = self.failures.saturating_add(1);
    }

    /// Begins a look for each platform that has something due and no look under way.
    async fn begin(&mut self) -> Result<(), RelationsError> {
        Metric::ReconcilerPasses.count(&[]);
        self.retry_at = None;
        let mut asked = self.core.agenda.take();
        let read = async {
            let relations = &self.core.parts.relations;
            Ok((relations.snapshot().await?.bindings, Arc::new(relations.nodes().await?)))
        };
        let (all, nodes) = match read.await {
            Ok(read) => read,
            Err(error) => {
                // Those who wait for an inspection are told that nobody can tell.
                self.core.agenda.put_back(asked.ids, Suspects::new());
                return Err(error);
            }
        };
        count_states(&all);
        self.schedule.keep(&all);
        let now = self.core.parts.clock.monotonic();
        self.core.relapses.keep(&all, now);
        self.left_over = false;
        let mut due: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
        let mut later = (BTreeSet::new(), Suspects::new());
        for binding in all {
            let suspects = asked.suspects.remove(&binding.id);
            let is_asked = asked.ids.contains(&binding.id) || suspects.is_some();
            let platform = &binding.spec.function.platform;
            if !is_asked && !self.schedule.is_due(&binding, now) {
                continue;
            }
            if self.busy.contains(platform) {
                self.left_over = true;
                later.0.extend(is_asked.then_some(binding.id));
                later.1.extend(suspects.map(|suspects| (binding.id, suspects)));
                continue;
            }
            if let Some(suspects) = suspects {
                asked.suspects.insert(binding.id, suspects);
            }
            due.entry(platform.clone()).or_default().push(binding);
        }
        self.core.agenda.put_back(later.0, later.1);
        for (platform, bindings) in due {
            let of_these = bindings.iter().filter_map(|binding| {
                asked.suspects.remove(&binding.id).map(|suspects| (binding.id, suspects))
            });
            let suspects = of_these.collect();
            self.look(platform, bindings, suspects, &nodes);
        }
        answer(asked.suspects, |_| Some(InspectionVerdict::Gone));
        if self.looks.is_empty() {
            self.failures = 0;
        }
        Ok(())
    }

    fn look(&mut self, platform: String, bindings: Vec<Binding>, suspects: Suspects, nodes: &Arc<Vec<Node>>) {
        let ids: Vec<BindingId> = bindings.iter().map(|binding| binding.id).collect();
        for id in &ids {
            self.schedule.set_aside(*id);
        }
        self.busy.insert(platform.clone());
        let (core, nodes) = (Arc::clone(&self.core), Arc::clone(nodes));
        let look = async move {
            let result = core.look_at(bindings, suspects, nodes).await;
            Ended { platform, ids, result }
        };
        self.looks.spawn(look);
    }

    fn finish(&mut self, ended: Ended) -> Result<(), RelationsError> {
        self.busy.remove(&ended.platform);
        let now = self.core.parts.clock.monotonic();
        match ended.result {
            Ok(left) => {
                self.failures = 0;
                for Over(binding, how) in left {
                    let entropy = self.core.parts.entropy.next();
                    let pace = Pace { inspect_every: self.core.settings.inspect_every, entropy };
                    self.schedule.note(&binding, how, now, pace);
                }
                Ok(())
            }
            Err(error) => {
                self.core.agenda.put_back(ended.ids.into_iter().collect(), Suspects::new());
                Err(error)
            }
        }
    }
}

/// The next look that ends; its panic is ours. None when no look is under way.
async fn ended(looks: &mut JoinSet<Ended>) -> Option<Ended> {
    match looks.join_next().await? {
        Ok(ended) => Some(ended),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels a look.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

fn count_states(bindings: &[Binding]) {
    for state in State::ALL {
        let count = bindings.iter().filter(|binding| binding.state == state).count();
        // Exact up to 2^53 bindings.
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
        Metric::Bindings.set(count as f64, &[("state", state.as_str().to_owned())]);
    }
}
