//! The simulated relations and their mirror: what intake matches by and dispatch asks for, some time behind what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::sleep;
use triggerd::{
    bucket::Configuration,
    dispatch::Bindings,
    domain::{
        binding::{Binding, State},
        delivery::FunctionRef,
        event::Event,
        ids::{BindingId, DeliveryId},
        retry::RetryPolicy,
        spec::FunctionLimits,
    },
    intake::Matcher,
};

use crate::{
    scenario::{Family, Scenario},
    source::number_of,
    world::World,
};

/// What is known of bindings, here and elsewhere. It survives crashes.
#[derive(Debug)]
pub(crate) struct Relating {
    /// As they are.
    pub(crate) authority: BTreeMap<BindingId, Binding>,
    pub(crate) revision: u64,
    /// The revision that this daemon has reported.
    pub(crate) reported: Option<u64>,
    /// The platforms' rules: digests of their secrets.
    pub(crate) rules: BTreeMap<BindingId, String>,
    pub(crate) bucket: Configuration,
    /// Leave to write the bucket is given.
    pub(crate) locked: bool,
    mirror: BTreeMap<BindingId, Arc<Binding>>,
    pub(crate) mirror_revision: u64,
    mirror_at: Option<Duration>,
    /// Since when the mirror says that a binding is not to be called.
    unfit: BTreeMap<BindingId, Duration>,
    known: BTreeSet<BindingId>,
}

impl Relating {
    pub(crate) fn new(plan: &Scenario) -> Self {
        let authority: BTreeMap<BindingId, Binding> =
            plan.bindings.iter().map(|one| (one.binding.id, one.binding.clone())).collect();
        let active = authority.values().filter(|binding| binding.state == State::Active);
        let rules = active.map(|binding| (binding.id, binding.secret.digest()));
        Self {
            revision: authority.len() as u64,
            reported: None,
            rules: rules.collect(),
            bucket: Configuration::of(Vec::new()),
            locked: false,
            mirror: BTreeMap::new(),
            mirror_revision: 0,
            mirror_at: Some(Duration::ZERO),
            unfit: BTreeMap::new(),
            known: authority.keys().copied().collect(),
            authority,
        }
    }

    /// Something changed; the mirror has it at `visible`.
    pub(crate) fn changed(&mut self, visible: Duration) {
        self.mirror_at.get_or_insert(visible);
    }

    /// Takes over what has become visible; all of it when `now` is none.
    pub(crate) fn follow(&mut self, now: Option<Duration>, elapsed: Duration) {
        if self.mirror_at.is_none_or(|at| now.is_some_and(|now| at > now)) {
            return;
        }
        self.mirror_at = None;
        self.mirror_revision = self.revision;
        self.mirror = self.authority.iter().map(|(id, one)| (*id, Arc::new(one.clone()))).collect();
        for id in &self.known {
            let fit = |one: &Arc<Binding>| matches!(one.state, State::Armed | State::Active);
            if self.mirror.get(id).is_some_and(fit) {
                self.unfit.remove(id);
            } else {
                self.unfit.entry(*id).or_insert(elapsed);
            }
        }
    }

    /// For how long the mirror has said that the binding is not to be called.
    pub(crate) fn unfit_for(&self, id: BindingId, elapsed: Duration) -> Option<Duration> {
        self.unfit.get(&id).map(|since| elapsed.saturating_sub(*since))
    }
}

impl World {
    /// A binding gets another state, as the reconciler or the operator records it.
    pub(crate) fn change(&self, id: BindingId, to: State) {
        self.note(format_args!("b{} becomes {to}", id.as_bytes()[0]));
        let state = &mut *self.state();
        let visible = state.elapsed() + state.chance.millis((0, self.plan.lag));
        let relating = &mut state.relating;
        relating.revision += 1;
        if let Some(binding) = relating.authority.get_mut(&id) {
            (binding.state, binding.revision) = (to, relating.revision);
        }
        relating.changed(visible);
    }
}

/// The catalog of one life.
#[derive(Debug)]
pub(crate) struct SimCatalog(pub(crate) Arc<World>);

/// How a look goes.
enum Look {
    Well,
    Unreadable,
    Panic,
}

impl SimCatalog {
    async fn look(&self) -> Look {
        self.0.step("a look at the bindings").await;
        let (lingers, look) = {
            let state = &mut *self.0.state();
            let look = match (state.sick(self.0.plan.unreadable), state.chance.percent(30)) {
                (false, _) => Look::Well,
                (true, false) => Look::Unreadable,
                (true, true) => Look::Panic,
            };
            (state.sick(10), look)
        };
        if lingers {
            sleep(Duration::from_millis(2)).await;
        }
        let state = &mut *self.0.state();
        let elapsed = state.elapsed();
        state.relating.follow(Some(elapsed), elapsed);
        look
    }
}

#[async_trait]
impl Matcher for SimCatalog {
    async fn matching(&self, event: &Event) -> anyhow::Result<Vec<Arc<Binding>>> {
        match self.look().await {
            Look::Well => (),
            Look::Unreadable => anyhow::bail!("simulated"),
            Look::Panic => std::panic::panic_any(crate::Simulated),
        }
        let number = number_of(&event.key);
        let state = &mut *self.0.state();
        let hits = |one: &&Arc<Binding>| {
            one.state.matches() && !(number + u32::from(one.id.as_bytes()[0])).is_multiple_of(4)
        };
        let found: Vec<Arc<Binding>> = state.relating.mirror.values().filter(hits).cloned().collect();
        for binding in &found {
            state.books.expect(DeliveryId::of(event.id, binding.id), number, binding.id);
        }
        state.books.matched(number, found.iter().map(|one| one.id));
        Ok(found)
    }
}

#[async_trait]
impl Bindings for SimCatalog {
    async fn binding(&self, id: BindingId) -> anyhow::Result<Option<Arc<Binding>>> {
        match self.look().await {
            Look::Well => Ok(self.0.state().relating.mirror.get(&id).cloned()),
            // A panic of a task of dispatch's own is the process's end; it is tried in dispatch's tests.
            Look::Unreadable | Look::Panic => anyhow::bail!("simulated"),
        }
    }

    async fn function_limits(&self, function: &FunctionRef) -> Option<FunctionLimits> {
        let state = self.0.state();
        let of_it = state.relating.mirror.values().filter(|one| one.spec.function.to_ref() == *function);
        let (mut limits, mut waits) = (Vec::new(), Vec::new());
        for one in of_it {
            limits.push((one.spec.concurrency, one.spec.rate_limit));
            waits.push(one.spec.retry.max_wait_ms);
        }
        let longest_wait = RetryPolicy::longest(waits.into_iter().max()?);
        // All bindings of a function have the same rate here.
        let (concurrency, rate) = limits.into_iter().min_by_key(|(concurrency, _)| *concurrency)?;
        Some(FunctionLimits { concurrency, rate, longest_wait })
    }
}

/// The operator of a storm: pauses and damages bindings, and lets them go, as the reconciler would.
pub(crate) async fn operate(world: Arc<World>, deliveries: Arc<dyn triggerd::dispatch::Deliveries>) {
    if world.plan.family != Family::Storm {
        return;
    }
    let ids: Vec<BindingId> = world.plan.bindings.iter().map(|one| one.binding.id).collect();
    loop {
        let (wait, id, next) = {
            let state = &mut *world.state();
            let id = *state.chance.pick(&ids);
            let next = *state.chance.pick(&[State::Degraded, State::Paused, State::Armed, State::Active]);
            (state.chance.millis((200, 10_000)), id, next)
        };
        sleep(wait).await;
        if world.state().calm {
            return;
        }
        world.step("a change of a binding").await;
        world.change(id, next);
        world.step("holding").await;
        let held = deliveries.hold(id, next.holds()).await;
        world.note(format_args!("b{} held={}: {held:?}", id.as_bytes()[0], next.holds()));
    }
}

/// The storm is over: bindings are well again, save those that stay paused.
pub(crate) async fn mend(world: &World, deliveries: &dyn triggerd::dispatch::Deliveries) {
    if world.plan.family != Family::Storm {
        return;
    }
    for one in &world.plan.bindings {
        let next = if one.stays_paused { State::Paused } else { State::Active };
        world.change(one.binding.id, next);
        let held = deliveries.hold(one.binding.id, next.holds()).await;
        world.note(format_args!("b{} held={}: {held:?}", one.binding.id.as_bytes()[0], next.holds()));
    }
}
