//! What the tests of dispatch stand on: a dispatcher on a real queue file, and a function that does as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::{
    fakes::{Function, driver},
    *,
};
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
    queue::{Park, QueueOptions, SqliteQueue, Ticket},
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
impl Function for Script {
    async fn called(&self, binding: &Binding, delivery: &Delivery) -> Outcome {
        lock(&self.calls).push(delivery.id);
        if delivery.function.name.starts_with("hanging") {
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
            let parked = queue.parked_of(binding.id).await.unwrap();
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
    pub(super) suspected: mpsc::Receiver<BindingId>,
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
        let driver = driver(script.clone());
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
