//! Dispatch moves deliveries: a permit, an attempt, a verdict, and then settle or park.
//!
//! It decides nothing: `platform` says what came of an attempt, `settle` what becomes of the delivery, `queue` records it.
//!
//! **First attempts** (`first`) come from intake and are made from memory. A delivery that settles within its source's
//! `ack_within` costs no database write at all. One that does not is parked while its attempt goes on; the attempt owns
//! the row and removes or puts it off when it ends. Of a source that never redelivers, the delivery is parked first.
//!
//! **Parked deliveries** (`parked`) are taken up by one pump, oldest due first, per function and only for free permits.
//! A function with due deliveries gets new events parked at once, so that they keep their order.
//!
//! **What runs now** is known in memory only: [`Running`] holds every delivery that an attempt owns, and keeps the pump
//! (and a repeat of the event) from it. After a crash nothing runs, and every row is due at its time: at least once.
//! What the pump passed over because it ran is looked at again when its attempt ends, however it ends.
//!
//! **Flow per function** (`lane`): concurrency that shrinks and grows by what a function answers (`concurrency`), a rate
//! (`rate`), a circuit breaker (`breaker`). Lanes share nothing but the pump, which waits for no function: it looks at
//! those that have something to do (`agenda`), one batch each in turn. What is slow beside it (sweeps, limits, the record
//! of breakers) has loops of its own (`upkeep`).
//!
//! **Results** (`results`) of asynchronous calls are waited for where a binding asks for them: the row waits, nothing else
//! does.
//!
//! **Handler functions** (`handlers`) are given dead letters by parked deliveries of their own, which never become dead
//! letters.
//!
//! **Stopping.** Soft: the pump takes nothing up any more, running attempts go on. Hard: attempts are cut off, which
//! costs them nothing; what was not yet parked is parked, due at once.
//!
//! **When the disk fails**, functions that are well go on from memory; a delivery that cannot be parked is let go
//! unacknowledged, so that its source keeps it (of a source that never redelivers it is fired all the same: parked it
//! cannot be, and let go it would be lost). What was delivered and cannot be recorded is not called again meanwhile: its
//! attempt owns it until the record is made. The pump waits a second between its looks.

#[cfg(test)]
mod age_tests;
mod agenda;
mod attempt;
#[cfg(test)]
mod bench;
mod breaker;
pub mod callback;
mod concurrency;
mod custody;
#[cfg(test)]
pub(crate) mod fakes;
mod first;
#[cfg(test)]
mod flow_tests;
mod handlers;
#[cfg(test)]
mod handlers_tests;
mod lane;
mod meter;
mod parked;
#[cfg(test)]
mod races;
mod rate;
mod results;
#[cfg(test)]
mod results_tests;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{agenda::Agenda, lane::Lane};
pub use self::{
    custody::{Custodian, Custody},
    lane::{Flow, LastCalls},
    results::{Report, Taken},
};
use crate::{
    domain::{
        binding::Binding,
        clock::{Clock, Timestamp},
        delivery::{Delivery, FunctionRef},
        entropy::Entropy,
        ids::{BindingId, DeliveryId},
        spec::FunctionLimits,
    },
    platform::Driver,
    queue::{Disposal, Queue, QueueError},
    telemetry::{Recent, Seldom, happening::troubles, letters::ParkedCleared},
};

/// What dispatch asks of the catalog.
#[async_trait]
pub trait Bindings: Send + Sync + std::fmt::Debug {
    /// The binding as the mirror has it now, in whatever state; none when it is gone.
    async fn binding(&self, id: BindingId) -> anyhow::Result<Option<Arc<Binding>>>;

    /// What the bindings of this function allow together; none when no binding calls it.
    async fn function_limits(&self, function: &FunctionRef) -> Option<FunctionLimits>;
}

/// What others may ask of dispatch: the handle that the reconciler and the admin API get.
#[async_trait]
pub trait Deliveries: Send + Sync + std::fmt::Debug {
    /// Something of this function became due (a replay, for example).
    fn wake(&self, function: &FunctionRef);

    /// The deliveries of a binding whose attempt is running now.
    fn running(&self, binding: BindingId) -> Vec<DeliveryId>;

    /// How every function flows that was called or has deliveries parked, in the order of their names.
    fn flows(&self) -> Vec<Flow>;

    /// Holds or releases a binding's parked deliveries; how many.
    async fn hold(&self, binding: BindingId, held: bool) -> Result<u64, QueueError>;

    /// Clears a binding's parked deliveries; how many are left (those that run now).
    async fn clear(&self, binding: BindingId, disposal: Disposal) -> Result<u64, QueueError>;
}

/// How a source's deliveries are to be handled.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long the acknowledgement may wait for a first attempt, permit included.
    pub ack_within: Duration,
    /// The source never redelivers: on disk first, then fired.
    pub park_first: bool,
    /// The source is over its bound: parked without a first attempt.
    pub pressed: bool,
}

/// A new delivery, from intake.
#[derive(Debug)]
pub struct Submission {
    /// What is to be delivered.
    pub delivery: Delivery,
    /// To which binding, as it matched.
    pub binding: Arc<Binding>,
    /// How.
    pub plan: Plan,
    /// To be used up when the delivery is safe.
    pub custody: Custody,
}

/// The parts that dispatch works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where deliveries are parked.
    pub queue: Arc<dyn Queue>,
    /// The bindings as the mirror has them.
    pub bindings: Arc<dyn Bindings>,
    /// The platforms' drivers, by the platforms' names.
    pub drivers: HashMap<Arc<str>, Arc<dyn Driver>>,
    /// Where results of asynchronous calls may be sent; none when there is no callbacks' listener.
    pub callbacks: Option<callback::Callbacks>,
    /// Most calls of one function at once, whatever its bindings ask for.
    pub max_concurrency: u32,
    /// The recent outcomes.
    pub recent: Arc<Recent>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Moves deliveries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    /// When this process began to dispatch.
    started: Timestamp,
    lanes: Mutex<BTreeMap<FunctionRef, Arc<Lane>>>,
    running: Mutex<BTreeMap<DeliveryId, Owned>>,
    /// The last inspection that found a binding in step.
    inspections: Mutex<BTreeMap<BindingId, InStep>>,
    suspicions: mpsc::Sender<BindingId>,
    agenda: Arc<Agenda>,
    /// Functions whose breaker turned and is not on disk yet.
    turned: Mutex<BTreeSet<FunctionRef>>,
    turn: Notify,
    /// A write to the queue failed since the pump's last round.
    trouble: std::sync::atomic::AtomicBool,
    troubles: Seldom<&'static str>,
    /// Deliveries that the disk refused since the soft stop.
    unparked: std::sync::atomic::AtomicUsize,
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
}

/// A delivery that an attempt owns.
#[derive(Debug)]
struct Owned {
    binding: BindingId,
    /// The pump looked at the function meanwhile and left it out.
    passed_over: bool,
}

/// An inspection that found a binding in step.
#[derive(Debug, Clone, Copy)]
struct InStep {
    revision: u64,
    began: Timestamp,
    ended: Timestamp,
}

/// Says that an attempt owns a delivery, until it is dropped.
#[derive(Debug)]
struct Running {
    inner: Arc<Inner>,
    lane: Arc<Lane>,
    id: DeliveryId,
    /// The lane's limits were never asked for.
    unlimited: bool,
}

impl Running {
    /// Whether the pump may have seen a row of this delivery and left it out.
    fn was_passed_over(&self) -> bool {
        lock(&self.inner.running).get(&self.id).is_some_and(|owned| owned.passed_over)
    }

    /// Ends, where it is known that no row is left, or the pump is told of it otherwise.
    fn end(self) {
        if self.remove().is_some_and(|owned| owned.passed_over) {
            // It may have been one too many to take up others.
            self.lane.look();
        }
    }

    fn remove(&self) -> Option<Owned> {
        let mut running = lock(&self.inner.running);
        self.lane.ended(self.id);
        running.remove(&self.id)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.remove().is_some_and(|owned| owned.passed_over) {
            self.lane.note_parked(self.inner.parts.clock.now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dispatcher {
    /// A dispatcher, and the bindings it grows suspicious of: those whose attempts came back *binding broken*. Whoever
    /// receives them inspects, and reports by [`Self::inspected`].
    pub fn new(parts: Parts) -> (Self, mpsc::Receiver<BindingId>) {
        let (suspicions, suspected) = mpsc::channel(256);
        let inner = Inner {
            started: parts.clock.now(),
            parts,
            lanes: Mutex::default(),
            running: Mutex::default(),
            inspections: Mutex::default(),
            suspicions,
            agenda: Arc::default(),
            turned: Mutex::default(),
            turn: Notify::new(),
            trouble: false.into(),
            unparked: 0.into(),
            troubles: troubles(),
            tracker: TaskTracker::new(),
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
        };
        (Self { inner: Arc::new(inner) }, suspected)
    }

    /// Takes a new delivery. Its custody is used up when it is safe.
    pub fn submit(&self, submission: Submission) {
        let dispatcher = self.clone();
        self.inner.tracker.spawn(async move { dispatcher.first(submission).await });
    }

    /// Notes that an inspection, begun then and ended now, found the binding in step at this revision.
    pub fn inspected(&self, binding: BindingId, revision: u64, began: Timestamp) {
        let ended = self.inner.parts.clock.now();
        let mut inspections = lock(&self.inner.inspections);
        // A suspicion is rare; a map that grew this large is of bindings long forgotten.
        if inspections.len() > 10_000 {
            inspections.clear();
        }
        inspections.insert(binding, InStep { revision, began, ended });
    }

    /// Whether an attempt owns this delivery now.
    pub fn is_running(&self, id: DeliveryId) -> bool {
        lock(&self.inner.running).contains_key(&id)
    }

    /// Attempts that run now.
    pub fn running_count(&self) -> usize {
        lock(&self.inner.running).len()
    }

    /// Deliveries that were to be parked since the soft stop and are not: refused by the disk, or still on their way.
    pub fn left_behind(&self) -> usize {
        self.inner.unparked.load(std::sync::atomic::Ordering::Acquire) + self.running_count()
    }

    /// Takes nothing up any more; running attempts go on.
    pub fn stop_soft(&self) {
        self.inner.soft.cancel();
        self.inner.tracker.close();
    }

    /// Cuts running attempts off.
    pub fn stop_hard(&self) {
        self.stop_soft();
        self.inner.hard.cancel();
    }

    /// Resolves when nothing runs any more, after a stop.
    pub async fn drained(&self) {
        self.inner.tracker.wait().await;
    }

    fn lane(&self, function: &FunctionRef, limit: u32) -> Arc<Lane> {
        let mut lanes = lock(&self.inner.lanes);
        if let Some(lane) = lanes.get(function) {
            return Arc::clone(lane);
        }
        let limit = self.limit(limit);
        let lane = Lane::new(function.clone(), limit, Arc::clone(&self.inner.agenda));
        lanes.insert(function.clone(), Arc::clone(&lane));
        lane
    }

    /// A function's limit within the bounds of all.
    fn limit(&self, wanted: u32) -> u32 {
        wanted.clamp(1, self.inner.parts.max_concurrency.max(1))
    }

    /// Claims a delivery of this lane for one attempt; none when another attempt owns it.
    fn claim(&self, lane: &Arc<Lane>, delivery: &Delivery) -> Option<Running> {
        let mut running = lock(&self.inner.running);
        if running.contains_key(&delivery.id) {
            return None;
        }
        running.insert(delivery.id, Owned { binding: delivery.binding, passed_over: false });
        let unlimited = lane.began(delivery.id);
        Some(Running { inner: Arc::clone(&self.inner), lane: Arc::clone(lane), id: delivery.id, unlimited })
    }

    /// For the pump: what runs of a function, to be left out of a look. Whatever ends after this is looked at again.
    fn pass_over(&self, lane: &Lane) -> Vec<DeliveryId> {
        let mut running = lock(&self.inner.running);
        let ids = lane.running();
        for id in &ids {
            if let Some(owned) = running.get_mut(id) {
                owned.passed_over = true;
            }
        }
        ids
    }
}

#[async_trait]
impl Deliveries for Dispatcher {
    fn wake(&self, function: &FunctionRef) {
        self.lane(function, 1).note_parked(self.inner.parts.clock.now());
    }

    fn running(&self, binding: BindingId) -> Vec<DeliveryId> {
        let running = lock(&self.inner.running);
        running.iter().filter(|(_, owned)| owned.binding == binding).map(|(id, _)| *id).collect()
    }

    fn flows(&self) -> Vec<Flow> {
        let clock = &self.inner.parts.clock;
        let (now, monotonic) = (clock.now(), clock.monotonic());
        self.lanes().iter().map(|lane| lane.flow(now, monotonic)).collect()
    }

    async fn hold(&self, binding: BindingId, held: bool) -> Result<u64, QueueError> {
        let parts = &self.inner.parts;
        let changed = parts.queue.hold(binding, held, parts.clock.now()).await?;
        if !held && changed > 0 {
            match parts.bindings.binding(binding).await {
                Ok(Some(binding)) => {
                    self.wake(&binding.spec.function.to_ref());
                    if let Some(handler) = self.handler(&binding) {
                        self.wake(&handler);
                    }
                }
                // Whose they are, the queue knows, too.
                Ok(None) | Err(_) => self.note_backlog().await?,
            }
        }
        Ok(changed)
    }

    async fn clear(&self, binding: BindingId, disposal: Disposal) -> Result<u64, QueueError> {
        let parts = &self.inner.parts;
        let running = Deliveries::running(self, binding);
        let cleared = parts.queue.dispose(binding, disposal, &running, parts.clock.now()).await?;
        ParkedCleared { binding, discarded: disposal == Disposal::Discard, deliveries: cleared }.tell();
        let left = parts.queue.parked_of(binding).await?;
        Ok(left.max(running.len() as u64))
    }
}
