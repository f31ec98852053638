//! Dispatch on a real queue file, with a function that does as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    domain::{
        binding::{BindingSpec, State, Wanted},
        clock::SystemClock,
        entropy::SeededEntropy,
        event::{Event, StorageName},
        event_name::EventName,
        ids::EventId,
        outcome::{Class, Outcome},
        secret::SigningSecret,
    },
    platform::{Call, Established, Inspection, PlatformError},
    queue::{LetterOffice, LetterQuery, Park, QueueOptions, SqliteQueue, Ticket},
};

pub(super) const SOON: Duration = Duration::from_secs(30);

/// What the function does with one call.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Answer(Class),
    /// Waits before it answers.
    After(Duration, Class),
    /// Waits until it is let go.
    Wait(Class),
    Panic,
}

/// A function that follows a script and then succeeds for ever.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) acts: Mutex<VecDeque<Act>>,
    /// More calls than this at once are throttled; none without a bound.
    pub(super) capacity: AtomicUsize,
    pub(super) calls: Mutex<Vec<DeliveryId>>,
    pub(super) gate: tokio::sync::Semaphore,
    pub(super) now: AtomicUsize,
    pub(super) most: AtomicUsize,
    /// What was parked when a call began.
    pub(super) seen_parked: Mutex<Vec<u64>>,
    pub(super) queue: Mutex<Option<Arc<SqliteQueue>>>,
}

#[async_trait]
impl Driver for Script {
    async fn establish(&self, _: &Binding, _: &str) -> Result<Established, PlatformError> {
        Ok(Established::Confirmed)
    }

    async fn inspect(&self, _: &Binding) -> Result<Inspection, PlatformError> {
        Ok(Inspection::Missing)
    }

    async fn withdraw(&self, _: BindingId) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn invoke(&self, call: Call<'_>) -> Outcome {
        lock(&self.calls).push(call.delivery.id);
        if call.delivery.function.name.starts_with("hanging") {
            return std::future::pending().await;
        }
        let running = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if running > self.capacity.load(Ordering::SeqCst) {
            self.now.fetch_sub(1, Ordering::SeqCst);
            return Outcome::new(Class::Throttled, Some(429), "too many at once");
        }
        let queue = lock(&self.queue).clone();
        if let Some(queue) = queue {
            let parked = queue.parked_of(call.binding.id).await.unwrap();
            lock(&self.seen_parked).push(parked);
        }
        let act = lock(&self.acts).pop_front().unwrap_or(Act::Answer(Class::Ok));
        let class = match act {
            Act::Answer(class) => class,
            Act::After(wait, class) => {
                tokio::time::sleep(wait).await;
                class
            }
            Act::Wait(class) => {
                self.gate.acquire().await.unwrap().forget();
                class
            }
            Act::Panic => panic!("on purpose"),
        };
        self.now.fetch_sub(1, Ordering::SeqCst);
        Outcome::new(class, None, "as told")
    }
}

/// The bindings as the mirror has them, and looks at them that go wrong.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub(super) bindings: Mutex<HashMap<BindingId, Arc<Binding>>>,
    pub(super) wrong: Mutex<VecDeque<Wrong>>,
}

/// How a look goes wrong.
#[derive(Debug)]
pub(super) enum Wrong {
    Unreadable,
    Panic,
}

#[async_trait]
impl Bindings for Mirror {
    async fn binding(&self, id: BindingId) -> anyhow::Result<Option<Arc<Binding>>> {
        let wrong = lock(&self.wrong).pop_front();
        match wrong {
            None => Ok(lock(&self.bindings).get(&id).cloned()),
            Some(Wrong::Unreadable) => anyhow::bail!("the file is gone"),
            Some(Wrong::Panic) => panic!("on purpose"),
        }
    }

    async fn function_limits(&self, function: &FunctionRef) -> Option<FunctionLimits> {
        let bindings = lock(&self.bindings);
        let (platform, name) = (&*function.platform, &*function.name);
        let is_its = |binding: &&Arc<Binding>| {
            let target = &binding.spec.function;
            target.function == name && target.platform == platform
        };
        let of_it = || bindings.values().filter(is_its);
        let concurrency = of_it().map(|binding| binding.spec.concurrency).min()?;
        let rate = of_it().filter_map(|binding| binding.spec.rate_limit).min_by(f64::total_cmp);
        Some(FunctionLimits { concurrency, rate, longest_wait: Duration::from_hours(1) })
    }
}

pub(super) struct Bench {
    pub(super) dispatcher: Dispatcher,
    suspected: mpsc::Receiver<BindingId>,
    pub(super) script: Arc<Script>,
    pub(super) mirror: Arc<Mirror>,
    pub(super) queue: Arc<SqliteQueue>,
    pub(super) binding: Arc<Binding>,
    events: AtomicUsize,
    _writer: JoinHandle<()>,
    pub(super) folder: TempDir,
}

/// Tells by its channel whether the delivery became safe.
struct Tell(Mutex<Option<oneshot::Sender<bool>>>);

impl Custodian for Tell {
    fn safe(&self) {
        let _gone = lock(&self.0).take().unwrap().send(true);
    }

    fn abandoned(&self) {
        let _gone = lock(&self.0).take().unwrap().send(false);
    }
}

impl Bench {
    pub(super) async fn new(acts: impl IntoIterator<Item = Act>, concurrency: u32) -> Self {
        let bench = Self::still(acts, concurrency, QueueOptions::default()).await;
        bench.start_pump();
        bench
    }

    pub(super) fn start_pump(&self) {
        let pump = self.dispatcher.clone();
        tokio::spawn(async move { pump.run(|| ()).await.unwrap() });
    }

    /// One whose pump does not run yet.
    pub(super) async fn still(
        acts: impl IntoIterator<Item = Act>,
        concurrency: u32,
        options: QueueOptions,
    ) -> Self {
        Self::still_at(acts, concurrency, options, Arc::new(SystemClock::new())).await
    }

    /// Likewise, by this clock.
    pub(super) async fn still_at(
        acts: impl IntoIterator<Item = Act>,
        concurrency: u32,
        options: QueueOptions,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (queue, writer) = SqliteQueue::open(&folder.path().join("queue.db"), &options).await.unwrap();
        let queue = Arc::new(queue);
        let spec: BindingSpec = serde_json::from_value(serde_json::json!({
            "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*"],
            "platform": "local", "function": "thumb", "concurrency": concurrency,
            "retry": {"max_attempts": 3, "first_wait_ms": 1, "max_wait_ms": 5},
        }))
        .unwrap();
        let binding = Arc::new(Binding {
            id: BindingId::from_bytes([7; 16]),
            spec,
            wanted: Wanted::Present,
            state: State::Active,
            reason: None,
            steps: Vec::new(),
            secret: SigningSecret::generate(&SeededEntropy::new(1)),
            revision: 1,
            created_at: clock.now(),
            updated_at: clock.now(),
        });
        let script = Arc::new(Script {
            acts: Mutex::new(acts.into_iter().collect()),
            calls: Mutex::default(),
            capacity: AtomicUsize::new(usize::MAX),
            gate: tokio::sync::Semaphore::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            seen_parked: Mutex::default(),
            queue: Mutex::default(),
        });
        let mirror = Arc::new(Mirror::default());
        lock(&mirror.bindings).insert(binding.id, Arc::clone(&binding));
        let driver: Arc<dyn Driver> = script.clone();
        let (dispatcher, suspected) = Dispatcher::new(Parts {
            queue: queue.clone(),
            bindings: mirror.clone(),
            drivers: HashMap::from([("local".into(), driver)]),
            callbacks: None,
            max_concurrency: 512,
            recent: Arc::new(Recent::new(10)),
            clock,
            entropy: Arc::new(SeededEntropy::new(2)),
        });
        let writer = tokio::spawn(writer.run());
        let events = AtomicUsize::new(0);
        Self { dispatcher, suspected, script, mirror, queue, binding, events, _writer: writer, folder }
    }

    pub(super) fn submit(&self, plan: Plan) -> (DeliveryId, oneshot::Receiver<bool>) {
        self.submit_as(Arc::clone(&self.binding), plan)
    }

    /// Submits to a binding as it was when it matched.
    pub(super) fn submit_as(
        &self,
        binding: Arc<Binding>,
        plan: Plan,
    ) -> (DeliveryId, oneshot::Receiver<bool>) {
        self.hand(&self.dispatcher, binding, plan)
    }

    /// Submits to another dispatcher, as after a restart.
    pub(super) fn submit_to(
        &self,
        dispatcher: &Dispatcher,
        plan: Plan,
    ) -> (DeliveryId, oneshot::Receiver<bool>) {
        self.hand(dispatcher, Arc::clone(&self.binding), plan)
    }

    fn hand(
        &self,
        dispatcher: &Dispatcher,
        binding: Arc<Binding>,
        plan: Plan,
    ) -> (DeliveryId, oneshot::Receiver<bool>) {
        let delivery = self.delivery(&binding);
        let id = delivery.id;
        let (told, safe) = oneshot::channel();
        let custody = Custody::new(Arc::new(Tell(Mutex::new(Some(told)))));
        dispatcher.submit(Submission { delivery, binding, plan, custody });
        (id, safe)
    }

    /// The next event comes as the first did.
    pub(super) fn begin_again(&self) {
        self.events.store(0, Ordering::SeqCst);
    }

    /// Parks the delivery of a new event, past the dispatcher, as another run of the daemon would have.
    pub(super) async fn park(&self, binding: &Binding, held: bool) -> DeliveryId {
        let delivery = self.delivery(binding);
        let (id, due) = (delivery.id, delivery.accepted_at);
        let park = Park { delivery, due, held, attempt: None, ticket: Ticket::default() };
        self.queue.park(park).await.unwrap();
        id
    }

    pub(super) fn delivery(&self, binding: &Binding) -> Delivery {
        let number = self.events.fetch_add(1, Ordering::SeqCst);
        let event = Event {
            id: EventId::of_record("default", &number.to_be_bytes()),
            storage: StorageName::new("default"),
            bucket: "photos".into(),
            key: format!("in/{number}.jpg"),
            name: EventName::new("s3:ObjectCreated:Put"),
            time: Timestamp::default(),
            size: None,
            etag: None,
            content_type: None,
            version_id: None,
            sequencer: None,
            principal: String::new(),
            user_metadata: BTreeMap::new(),
            record: serde_json::value::RawValue::from_string("{}".into()).unwrap(),
        };
        let now = self.dispatcher.inner.parts.clock.now();
        Delivery::new(Arc::new(event), binding.id, binding.spec.function.to_ref(), now)
    }

    pub(super) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        timeout(SOON, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    pub(super) async fn parked(&self) -> u64 {
        self.queue.parked_of(self.binding.id).await.unwrap()
    }

    pub(super) fn calls(&self) -> usize {
        lock(&self.script.calls).len()
    }
}

pub(super) fn redelivers(ack_within_ms: u64) -> Plan {
    Plan { ack_within: Duration::from_millis(ack_within_ms), park_first: false, pressed: false }
}

pub(super) async fn is_safe(safe: oneshot::Receiver<bool>) -> bool {
    timeout(SOON, safe).await.expect("neither safe nor abandoned").unwrap()
}

#[tokio::test]
async fn a_fast_function_costs_no_write() {
    let bench = Bench::new([], 4).await;
    let before = bench.queue.commits();
    for _ in 0..20 {
        assert!(is_safe(bench.submit(redelivers(5_000)).1).await);
    }
    assert_eq!((bench.calls(), bench.queue.commits() - before), (20, 0));
}

#[tokio::test]
async fn a_slow_function_is_parked_once_called_once_and_removed() {
    let bench = Bench::new([Act::After(Duration::from_millis(300), Class::Ok)], 4).await;
    let (_, safe) = bench.submit(redelivers(1));
    assert!(is_safe(safe).await);
    assert_eq!((bench.parked().await, bench.script.now.load(Ordering::SeqCst)), (1, 1), "safe while it runs");
    bench.until("the row is removed", async || bench.parked().await == 0).await;
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn a_failed_delivery_keeps_its_id_across_retries_and_ends_as_a_dead_letter() {
    let bench = Bench::new(vec![Act::Answer(Class::FunctionFault); 3], 4).await;
    let (id, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("a dead letter", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
    let letter = bench.queue.dead_letter(id).await.unwrap().unwrap();
    assert_eq!(letter.reason, crate::domain::delivery::DeadReason::AttemptsExhausted);
    assert_eq!((letter.attempts.len(), letter.delivery.attempts), (3, 3));
    assert_eq!(*lock(&bench.script.calls), [id; 3]);
    assert_eq!(bench.parked().await, 0);
}

#[tokio::test]
async fn what_is_not_the_functions_fault_costs_it_no_attempt() {
    let acts = [Class::Throttled, Class::PlatformFault, Class::Throttled, Class::PlatformFault];
    let bench = Bench::new(acts.map(Act::Answer).into_iter().chain([Act::Panic]), 4).await;
    let (id, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("delivered", async || bench.calls() == 6 && bench.parked().await == 0).await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
}

#[tokio::test]
async fn from_a_source_that_never_redelivers_it_is_on_disk_before_it_is_tried() {
    let bench = Bench::new([], 4).await;
    *lock(&bench.script.queue) = Some(Arc::clone(&bench.queue));
    let (_, safe) = bench.submit(Plan { park_first: true, ..redelivers(5_000) });
    assert!(is_safe(safe).await);
    bench.until("delivered", async || bench.parked().await == 0 && bench.calls() == 1).await;
    assert_eq!(*lock(&bench.script.seen_parked), [1]);
}

#[tokio::test]
async fn concurrency_is_held_over_first_attempts_and_parked_ones() {
    let act = Act::After(Duration::from_millis(5), Class::Ok);
    let bench = Bench::new(vec![act; 60], 3).await;
    let safe: Vec<_> = (0..60).map(|_| bench.submit(redelivers(1)).1).collect();
    for safe in safe {
        assert!(is_safe(safe).await);
    }
    bench.until("all delivered", async || bench.calls() == 60 && bench.parked().await == 0).await;
    assert!(bench.script.most.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_broken_binding_is_suspected_and_believed_after_an_inspection() {
    let mut bench = Bench::new(vec![Act::Answer(Class::BindingBroken); 100], 4).await;
    let (id, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    let suspected = timeout(SOON, bench.suspected.recv()).await.unwrap();
    assert_eq!(suspected, Some(bench.binding.id));
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    let now = || bench.dispatcher.inner.parts.clock.now();
    bench.until("the attempt is recorded", async || bench.parked().await == 1).await;
    bench.dispatcher.inspected(bench.binding.id, bench.binding.revision, now());
    bench.until("a dead letter", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
}

#[tokio::test]
async fn what_became_held_a_moment_too_late_is_released() {
    let bench = Bench::new([Act::Answer(Class::FunctionFault)], 4).await;
    let (id, safe) = bench.submit(Plan { pressed: true, ..redelivers(5_000) });
    assert!(is_safe(safe).await);
    let now = bench.dispatcher.inner.parts.clock.now();
    bench.queue.hold(bench.binding.id, true, now).await.unwrap();
    bench
        .until("released and delivered", async || {
            bench.dispatcher.release_strays().await.unwrap();
            bench.parked().await == 0
        })
        .await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    assert!(bench.queue.held_bindings().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_inspection_from_before_the_damage_condemns_no_delivery() {
    let mut bench =
        Bench::new([Act::Answer(Class::BindingBroken), Act::Answer(Class::BindingBroken)], 4).await;
    bench.dispatcher.inspected(
        bench.binding.id,
        bench.binding.revision,
        bench.dispatcher.inner.parts.clock.now(),
    );
    let (id, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("delivered", async || bench.calls() == 3 && bench.parked().await == 0).await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    for _ in 0..2 {
        assert_eq!(
            bench.suspected.try_recv().ok(),
            Some(bench.binding.id),
            "each answer calls for an inspection"
        );
    }
}

#[tokio::test]
async fn without_a_queue_success_is_safe_and_failure_stays_with_the_source() {
    let bench =
        Bench::new([Class::Ok, Class::FunctionFault, Class::Ok, Class::FunctionFault].map(Act::Answer), 4)
            .await;
    bench.queue.close().await;
    assert!(is_safe(bench.submit(redelivers(5_000)).1).await);
    assert!(!is_safe(bench.submit(redelivers(5_000)).1).await);
    let no_redelivery = Plan { park_first: true, ..redelivers(5_000) };
    assert!(is_safe(bench.submit(no_redelivery).1).await, "it was fired though it could not be parked");
    assert!(!is_safe(bench.submit(no_redelivery).1).await);
    assert_eq!(bench.calls(), 4);
    // A source over its bound has its events parked, which here would lose the one that never comes again.
    assert!(is_safe(bench.submit(Plan { pressed: true, ..no_redelivery }).1).await);
    assert!(!is_safe(bench.submit(Plan { pressed: true, ..redelivers(5_000) }).1).await);
    assert_eq!(bench.calls(), 5);
}

#[tokio::test]
async fn a_hard_stop_parks_what_it_interrupts_and_charges_nothing() {
    let bench = Bench::new([Act::After(Duration::from_hours(1), Class::Ok)], 4).await;
    let (id, safe) = bench.submit(redelivers(3_600_000));
    bench.until("called", async || bench.calls() == 1).await;
    bench.dispatcher.stop_soft();
    bench.dispatcher.stop_hard();
    assert!(is_safe(safe).await);
    timeout(SOON, bench.dispatcher.drained()).await.unwrap();
    let now = bench.dispatcher.inner.parts.clock.now();
    let due = bench.queue.due(&bench.binding.spec.function.to_ref(), now, &[], 10).await.unwrap();
    assert_eq!((due.len(), due[0].id, due[0].attempts, due[0].tries), (1, id, 0, 0));
}

#[tokio::test]
async fn an_event_that_comes_again_while_its_delivery_waits_is_parked_once() {
    let bench = Bench::new([Act::After(Duration::from_millis(200), Class::FunctionFault)], 4).await;
    let (_, first) = bench.submit(redelivers(1));
    bench.begin_again();
    let (_, again) = bench.submit(redelivers(1));
    assert!(is_safe(first).await && is_safe(again).await);
    bench.until("delivered", async || bench.calls() == 2 && bench.parked().await == 0).await;
    assert!(
        bench
            .queue
            .dead_letters(&LetterQuery { limit: 9, ..Default::default() })
            .await
            .unwrap()
            .letters
            .is_empty()
    );
}
