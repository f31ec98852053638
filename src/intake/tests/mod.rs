//! Intake with the real dialect, a real queue file and the real dispatcher; function and bindings do as they are told.

mod acknowledged;
mod copies;
pub(super) mod decoding;
mod quarantine;
mod repeats;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;
use tokio::time::timeout;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::{
    dialect,
    dispatch::{
        Bindings, Parts,
        fakes::{self, Function},
    },
    domain::{
        binding::{BindingSpec, State, Wanted},
        clock::SystemClock,
        delivery::FunctionRef,
        entropy::SeededEntropy,
        event::{KeyEncoding, StorageName},
        ids::{BindingId, DeliveryId},
        outcome::{Class, Outcome},
        secret::SigningSecret,
        spec::FunctionLimits,
    },
    queue::{QueueOptions, SqliteQueue},
    source::Acknowledged,
};

const SOON: Duration = Duration::from_secs(10);

/// What the function does with one call.
#[derive(Debug, Clone, Copy)]
enum Act {
    Answer(Class),
    /// Waits until it is let go.
    Wait(Class),
}

/// A function that follows a script and then succeeds for ever.
#[derive(Debug)]
struct Script {
    acts: Mutex<VecDeque<Act>>,
    /// Key and delivery id of each call.
    calls: Mutex<Vec<(String, DeliveryId)>>,
    /// What was parked when a call began.
    parked: Mutex<Vec<u64>>,
    queue: Arc<SqliteQueue>,
    gate: Semaphore,
}

#[async_trait]
impl Function for Script {
    async fn called(&self, binding: &Binding, delivery: &Delivery) -> Outcome {
        let parked = self.queue.parked_of(binding.id).await.unwrap_or_default();
        lock(&self.parked).push(parked);
        let act = lock(&self.acts).pop_front().unwrap_or(Act::Answer(Class::Ok));
        lock(&self.calls).push((delivery.event.key.clone(), delivery.id));
        let class = match act {
            Act::Answer(class) => class,
            Act::Wait(class) => {
                self.gate.acquire().await.unwrap().forget();
                class
            }
        };
        Outcome::new(class, None, "as told")
    }
}

/// Which bindings match, as told.
#[derive(Debug, Clone)]
enum Matching {
    All(Vec<Arc<Binding>>),
    Unreadable,
    Panic,
    /// Holds its thread up until it is told to go on.
    Hangs(Arc<AtomicBool>),
    /// All, but not for this key before the gate opens.
    Waits(&'static str, Arc<Semaphore>, Vec<Arc<Binding>>),
}

#[derive(Debug)]
struct Told(Mutex<Matching>);

#[async_trait]
impl Matcher for Told {
    async fn matching(&self, event: &Event) -> anyhow::Result<Vec<Arc<Binding>>> {
        let told = lock(&self.0).clone();
        match told {
            Matching::All(bindings) => Ok(bindings),
            Matching::Unreadable => anyhow::bail!("the file is gone"),
            Matching::Panic => panic!("on purpose"),
            Matching::Hangs(go_on) => {
                while !go_on.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(Vec::new())
            }
            Matching::Waits(key, gate, bindings) => {
                if event.key == key {
                    gate.acquire().await?.forget();
                }
                Ok(bindings)
            }
        }
    }
}

#[derive(Debug)]
struct Mirror(Vec<Arc<Binding>>);

#[async_trait]
impl Bindings for Mirror {
    async fn binding(&self, id: BindingId) -> anyhow::Result<Option<Arc<Binding>>> {
        Ok(self.0.iter().find(|binding| binding.id == id).cloned())
    }

    async fn function_limits(&self, _: &FunctionRef) -> Option<FunctionLimits> {
        None
    }
}

struct Bench {
    intake: Intake,
    told: Arc<Told>,
    script: Arc<Script>,
    queue: Arc<SqliteQueue>,
    bindings: Vec<Arc<Binding>>,
    writer: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Bench {
    /// Two bindings of two functions; the first of them matches everything.
    async fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let (queue, writer) = SqliteQueue::open(&path, &QueueOptions::default()).await.unwrap();
        let queue = Arc::new(queue);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let bindings: Vec<_> = [(7, "thumb"), (8, "index")]
            .map(|(id, name)| Arc::new(binding(id, name, clock.as_ref())))
            .to_vec();
        let script = Arc::new(Script {
            acts: Mutex::new(acts.into_iter().collect()),
            calls: Mutex::default(),
            parked: Mutex::default(),
            queue: Arc::clone(&queue),
            gate: Semaphore::new(0),
        });
        let driver = fakes::driver(script.clone());
        let recent = Arc::new(Recent::new(100));
        let (dispatcher, _suspected) = Dispatcher::new(Parts {
            queue: queue.clone(),
            bindings: Arc::new(Mirror(bindings.clone())),
            drivers: HashMap::from([("local".into(), driver)]),
            callbacks: None,
            max_concurrency: 512,
            recent: Arc::clone(&recent),
            clock: Arc::clone(&clock),
            entropy: Arc::new(SeededEntropy::new(2)),
        });
        let pump = dispatcher.clone();
        tokio::spawn(async move { pump.run(|| ()).await });
        let told = Arc::new(Told(Mutex::new(Matching::All(vec![Arc::clone(&bindings[0])]))));
        let intake = Intake {
            matcher: told.clone(),
            dispatcher,
            queue: queue.clone(),
            repeats: Repeats::new(100),
            loops: Arc::default(),
            recent,
            clock,
        };
        let writer = Some(tokio::spawn(writer.run()));
        Self { intake, told, script, queue, bindings, writer, folder }
    }

    fn matches(&self, matching: Matching) {
        *lock(&self.told.0) = matching;
    }

    async fn without_a_queue(&mut self) {
        self.queue.close().await;
        self.writer.take().unwrap().await.unwrap();
    }

    async fn take(&self, from: &Arc<Origin>, body: &[u8]) -> Acknowledged {
        self.take_with(from, body, |_| ()).await
    }

    fn message(&self, from: &Arc<Origin>, body: &[u8]) -> (Message, Acknowledged) {
        let (ack, acknowledged) = Ack::new(None);
        let message = Message {
            bytes: body.to_vec().into(),
            oversize: None,
            origin: Arc::clone(from),
            received_at: self.intake.clock.now(),
            pressed: false,
            ack,
        };
        (message, acknowledged)
    }

    async fn take_with(
        &self,
        from: &Arc<Origin>,
        body: &[u8],
        change: impl FnOnce(&mut Message),
    ) -> Acknowledged {
        let (mut message, acknowledged) = self.message(from, body);
        change(&mut message);
        self.intake.take(message).await;
        acknowledged
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        timeout(SOON, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    async fn until_called(&self, count: usize) {
        self.until(&format!("{count} calls"), async || self.calls().len() >= count).await;
    }

    fn calls(&self) -> Vec<(String, DeliveryId)> {
        lock(&self.script.calls).clone()
    }

    async fn parked(&self) -> u64 {
        self.queue.parked_of(self.bindings[0].id).await.unwrap()
    }

    async fn reasons(&self) -> Vec<String> {
        self.queue.quarantined(9).await.unwrap().into_iter().map(|item| item.reason).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn binding(id: u8, function: &str, clock: &dyn Clock) -> Binding {
    let spec: BindingSpec = serde_json::from_value(serde_json::json!({
        "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*"],
        "platform": "local", "function": function,
        "retry": {"max_attempts": 3, "first_wait_ms": 1, "max_wait_ms": 5},
    }))
    .unwrap();
    Binding {
        id: BindingId::from_bytes([id; 16]),
        spec,
        wanted: Wanted::Present,
        state: State::Active,
        reason: None,
        steps: Vec::new(),
        secret: SigningSecret::generate(&SeededEntropy::new(1)),
        revision: 1,
        created_at: clock.now(),
        updated_at: clock.now(),
    }
}

/// A source that waits so long for a first attempt that nothing is ever late.
fn patient(redelivers: Redelivers) -> Arc<Origin> {
    origin(redelivers, SOON * 100)
}

fn origin(redelivers: Redelivers, ack_within: Duration) -> Arc<Origin> {
    Arc::new(Origin {
        source: "minio".into(),
        storage: StorageName::new("default"),
        encoding: KeyEncoding::Form,
        redelivers,
        ack_within,
    })
}

/// A body as MinIO sends it, with one record for each key.
fn body(keys: &[&str]) -> Vec<u8> {
    let records: Vec<_> = keys
        .iter()
        .map(|key| {
            serde_json::json!({
                "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "",
                "eventTime": "2026-11-21T15:38:39.578Z", "eventName": "s3:ObjectCreated:Put",
                "userIdentity": {"principalId": "app"},
                "s3": {
                    "s3SchemaVersion": "1.0", "configurationId": "Config",
                    "bucket": {"name": "photos", "arn": "arn:aws:s3:::photos"},
                    "object": {"key": key, "size": 1, "eTag": "e", "sequencer": "18B9"},
                },
            })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({"EventName": "s3:ObjectCreated:Put", "Records": records})).unwrap()
}

async fn is_acknowledged(acknowledged: Acknowledged) -> bool {
    timeout(SOON, acknowledged).await.expect("neither acknowledged nor let go").is_ok()
}
