//! What the API's tests stand on: relations and a queue in files of their own, and the small ports in memory, every call
//! noted, failures on demand.

mod ports;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::value::RawValue;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use super::*;
use crate::{
    admin::wire::Explanation,
    dispatch::{Flow, LastCalls},
    domain::{
        binding::{Binding, State as BindingState, Step},
        clock::{ManualClock, Timestamp},
        delivery::{DeadReason, Delivery, FunctionRef},
        entropy::SeededEntropy,
        event::{Event, StorageName},
        event_name::EventName,
        ids::{BindingId, DeliveryId, EventId},
        outcome::{Attempt, Class},
    },
    queue::{
        DeadLetter, Disposal, LetterQuery, Park, Parked, Quarantined, QueueError, QueueOptions, Results,
        SqliteQueue, Ticket,
    },
    relations::{Progress, Role, SqliteRelations},
};

pub(crate) const OPERATOR: &str = "operator-token-0123456789";
pub(crate) const LOCAL: &str = "local-token-0123456789";
pub(crate) const OTHER: &str = "other-token-0123456789";

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Everything behind the API at once. Relations that are away are closed ones, a queue that stops likewise.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) relations: Arc<SqliteRelations>,
    pub(crate) queue: SqliteQueue,
    folder: TempDir,
    pub(crate) explanations: Mutex<Vec<Explanation>>,
    pub(crate) explained: Mutex<Vec<Event>>,
    calls: Mutex<Vec<String>>,
    pub(crate) flows: Mutex<Vec<Flow>>,
    /// Whether the catalog fails, and the daemon is not ready.
    pub(crate) sick: AtomicBool,
    /// Where it says that it listens.
    pub(crate) listening: OnceLock<SocketAddr>,
    found_next: Mutex<Option<Progress>>,
}

impl World {
    pub(crate) async fn new() -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        let [relations, queue] = ["relations.db", "queue.db"].map(|file| folder.path().join(file));
        let relations = Arc::new(SqliteRelations::open(&relations, Role::Authority).await.unwrap());
        let (queue, writer) = SqliteQueue::open(&queue, &QueueOptions::default()).await.unwrap();
        tokio::spawn(writer.run());
        Arc::new(Self {
            relations,
            queue,
            folder,
            explanations: Mutex::default(),
            explained: Mutex::default(),
            calls: Mutex::default(),
            flows: Mutex::default(),
            sick: AtomicBool::default(),
            listening: OnceLock::new(),
            found_next: Mutex::default(),
        })
    }

    fn note(&self, call: impl Into<String>) {
        lock(&self.calls).push(call.into());
    }

    /// What the small ports were asked; of a change of a binding also which revision it had made by then.
    pub(crate) fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
    }

    fn revision(&self) -> u64 {
        *self.relations.revisions().borrow()
    }

    /// Who did what to a binding, oldest first.
    pub(crate) async fn audit(&self) -> Vec<String> {
        let newest_first = self.relations.audit(None, 100).await.unwrap();
        newest_first.iter().rev().map(|entry| format!("{} by {}", entry.action, entry.by)).collect()
    }

    /// Has the reconciler find this when it is woken next.
    pub(crate) fn becomes(&self, state: BindingState, reason: &str) {
        let found = Progress { state, reason: Some(reason.into()), steps: Vec::new(), now: NOW };
        *lock(&self.found_next) = Some(found);
    }

    /// Records steps of a binding's handshake.
    pub(crate) async fn steps(&self, id: BindingId, steps: Vec<Step>) {
        let found = Progress { state: BindingState::Pending, reason: None, steps, now: NOW };
        record(&self.relations, id, &found).await;
    }

    /// Records where a binding stands, why, and what its steps came to.
    pub(crate) async fn found(&self, id: BindingId, state: BindingState, reason: &str, steps: Vec<Step>) {
        record(&self.relations, id, &Progress { state, reason: Some(reason.into()), steps, now: NOW }).await;
    }

    /// Ends a binding that is being taken back.
    pub(crate) async fn ends(&self, id: BindingId) {
        assert!(self.relations.remove(id, NOW).await.unwrap(), "it is not being taken back");
    }

    /// The bindings that there are.
    pub(crate) async fn bindings(&self) -> Vec<Binding> {
        self.relations.snapshot().await.unwrap().bindings
    }

    /// Has a daemon be heard of, and be silent since for so many seconds.
    pub(crate) async fn hears_of(&self, node: &str, silent_s: i64) {
        self.relations.heartbeat(node, 3, None).await.unwrap();
        let file = SqliteConnectOptions::new().filename(self.folder.path().join("relations.db"));
        let mut file = SqliteConnection::connect_with(&file).await.unwrap();
        let earlier = sqlx::query("UPDATE node SET seen_at = seen_at - ?1 * 1000000 WHERE name = ?2");
        earlier.bind(silent_s).bind(node).execute(&mut file).await.unwrap();
    }

    /// Shows one function that refused calls and is away until then.
    pub(crate) fn flow_of_one_away(&self, until: Timestamp) {
        *lock(&self.flows) = vec![Flow {
            function: FunctionRef { platform: "local".into(), name: "thumb".into() },
            running: 3,
            concurrency: 4,
            concurrency_limit: 16,
            rate_limit: Some(0.5),
            parked_per_s: 0.0,
            drained_per_s: 1.25,
            died_per_s: 1.25,
            last: Some(LastCalls { class: Class::FunctionFault, failed: 14, ended: until }),
            breaker: "open",
            open_until: Some(until),
            reason: "throttled: too many".into(),
        }];
    }

    /// Puts a dead letter of this binding's function there.
    pub(crate) async fn bury(&self, binding: BindingId, platform: &str, key: &str) -> DeliveryId {
        self.bury_as_it_is(letter(binding, platform, key)).await
    }

    pub(crate) async fn bury_as_it_is(&self, letter: DeadLetter) -> DeliveryId {
        let id = letter.delivery.id;
        assert!(self.queue.bury(letter).await.unwrap(), "it is there already");
        id
    }

    /// Has the function of a dead letter succeed after all.
    pub(crate) async fn succeeds_late(&self, id: DeliveryId, attempt: Attempt) {
        assert!(self.queue.came_late(id, attempt).await.unwrap(), "there is no such letter");
    }

    /// Parks a delivery of this binding's function.
    pub(crate) async fn park(&self, binding: BindingId, platform: &str, key: &str, held: bool) -> Delivery {
        let delivery = delivery(binding, platform, key);
        let ticket = Ticket::default();
        let park = Park { delivery: delivery.clone(), due: NOW, held, attempt: None, ticket };
        assert_eq!(self.queue.park(park).await.unwrap(), Parked::Written);
        delivery
    }

    /// The dead letters that there are.
    pub(crate) async fn letters(&self) -> Vec<DeliveryId> {
        let all = LetterQuery { limit: LetterQuery::MAX_LIMIT, ..LetterQuery::default() };
        let page = self.queue.dead_letters(&all).await.unwrap();
        page.letters.iter().map(|letter| letter.delivery.id).collect()
    }

    /// Puts these bytes into quarantine.
    pub(crate) async fn shut_away(&self, bytes: &[u8]) -> u64 {
        let what = Quarantined {
            source: "web".into(),
            received_at: Timestamp::from_micros(1_000_000),
            reason: "not JSON".into(),
            bytes: bytes.to_vec(),
            length: bytes.len() as u64,
        };
        self.queue.quarantine(what).await.unwrap()
    }
}

/// Records what was found out about a binding.
async fn record(relations: &SqliteRelations, id: BindingId, found: &Progress) {
    let binding = relations.binding(id).await.unwrap().unwrap();
    assert!(relations.record(id, binding.revision, found).await.unwrap(), "it changed meanwhile");
}

fn delivery(binding: BindingId, platform: &str, key: &str) -> Delivery {
    let function = FunctionRef { platform: platform.into(), name: "thumb".into() };
    Delivery::new(Arc::new(event(key)), binding, function, Timestamp::from_micros(1_000_000))
}

/// A dead letter of this binding's function.
pub(crate) fn letter(binding: BindingId, platform: &str, key: &str) -> DeadLetter {
    let attempt = Attempt {
        at: Timestamp::from_micros(2_000_000),
        took_us: 1_500,
        class: Class::FunctionFault,
        status: Some(500),
        detail: "exit status 1".into(),
    };
    DeadLetter {
        delivery: delivery(binding, platform, key),
        reason: DeadReason::AttemptsExhausted,
        detail: "8 attempts failed".into(),
        died_at: Timestamp::from_micros(3_000_000),
        attempts: vec![attempt],
        replays: 0,
    }
}

fn event(key: &str) -> Event {
    let record = RawValue::from_string(format!("{{\"key\":{}}}", serde_json::json!(key))).unwrap();
    Event {
        id: EventId::of_record("main", record.get().as_bytes()),
        storage: StorageName::new("main"),
        bucket: "photos".into(),
        key: key.into(),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: Timestamp::from_micros(1_000_000),
        size: Some(3),
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: String::new(),
        user_metadata: BTreeMap::new(),
        record,
    }
}

/// A state over this world: storage `main`, platforms `local` and `other`, each with its token.
pub(crate) fn state(world: &Arc<World>) -> AdminState {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    AdminState {
        node: "here".into(),
        access: Access::new(Some(&OPERATOR.into()), [("local", &LOCAL.into()), ("other", &OTHER.into())]),
        names: Names {
            storages: names(&["main"]),
            twins: names(&[]),
            platforms: names(&["local", "other"]),
            silent: names(&["other"]),
            most: [("other".into(), 2)].into(),
        },
        open_metrics: true,
        relations: Arc::clone(&world.relations) as _,
        queue: Arc::new(world.queue.clone()),
        letters: Arc::new(world.queue.clone()),
        reintake: Arc::clone(world) as _,
        deliveries: Arc::clone(world) as _,
        reconciler: Arc::clone(world) as _,
        catalog: Arc::clone(world) as _,
        health: Arc::clone(world) as _,
        callbacks: Arc::clone(world) as _,
        recent: Arc::new(Recent::new(100)),
        clock: Arc::new(ManualClock::at(NOW)),
        entropy: Arc::new(SeededEntropy::new(7)),
    }
}

/// Serves this state on a free port of loopback, for the life of the test's runtime.
pub(crate) async fn listen(state: AdminState) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(Arc::new(state), Door::admin(address));
    tokio::spawn(serve(listener, router, CancellationToken::new()));
    address
}
