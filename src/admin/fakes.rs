//! What the API's tests stand on: the ports in memory, every call noted, failures on demand.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::HeaderMap;
use serde_json::value::RawValue;

use super::*;
use crate::{
    admin::wire::Explanation,
    dispatch::{Flow, LastCalls},
    domain::{
        binding::{Binding, State as BindingState, Wanted},
        clock::{ManualClock, Timestamp},
        delivery::{DeadReason, Delivery, FunctionRef},
        entropy::SeededEntropy,
        event::{Event, StorageName},
        event_name::EventName,
        ids::{BindingId, DeliveryId, EventId},
        outcome::{Attempt, Class},
    },
    queue::{
        Backlog, Cursor, DeadLetter, Direction, Disposal, FunctionState, Handover, Item, LetterFilter,
        LetterPage, LetterQuery, Park, Parked, Quarantined, QueueError, Results, Retry, Unhanded, Wait,
    },
    relations::{
        Bound, BucketLock, Changes, Head, ListQuery, NewBinding, Node, Progress, RelationsError, Snapshot,
    },
};

pub(crate) const OPERATOR: &str = "operator-token-0123456789";
pub(crate) const LOCAL: &str = "local-token-0123456789";
pub(crate) const OTHER: &str = "other-token-0123456789";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Everything behind the API at once.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) bindings: Mutex<BTreeMap<BindingId, Binding>>,
    pub(crate) letters: Mutex<BTreeMap<DeliveryId, DeadLetter>>,
    pub(crate) replayed: Mutex<BTreeMap<DeliveryId, FunctionRef>>,
    pub(crate) quarantined: Mutex<BTreeMap<u64, Item>>,
    pub(crate) nodes: Mutex<Vec<Node>>,
    pub(crate) explanations: Mutex<Vec<Explanation>>,
    pub(crate) explained: Mutex<Vec<Event>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) flows: Mutex<Vec<Flow>>,
    pub(crate) backlogs: Mutex<Vec<Backlog>>,
    pub(crate) away: AtomicBool,
    pub(crate) sick: AtomicBool,
    /// Where it says that it listens.
    pub(crate) listening: OnceLock<SocketAddr>,
    /// Turns each binding that is asked for into this state when it is looked at next.
    pub(crate) next_state: Mutex<Option<(BindingState, String)>>,
}

impl World {
    pub(crate) fn note(&self, call: impl Into<String>) {
        lock(&self.calls).push(call.into());
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
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

    fn reach(&self) -> Result<(), RelationsError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(RelationsError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        Ok(())
    }

    /// Puts a dead letter of this binding's function there.
    pub(crate) fn bury(&self, binding: BindingId, platform: &str, key: &str) -> DeliveryId {
        let event = Arc::new(event(key));
        let function = FunctionRef { platform: platform.into(), name: "thumb".into() };
        let delivery = Delivery::new(event, binding, function, Timestamp::from_micros(1_000_000));
        let id = delivery.id;
        let attempt = Attempt {
            at: Timestamp::from_micros(2_000_000),
            took_us: 1_500,
            class: Class::FunctionFault,
            status: Some(500),
            detail: "exit status 1".into(),
        };
        let letter = DeadLetter {
            delivery,
            reason: DeadReason::AttemptsExhausted,
            detail: "8 attempts failed".into(),
            died_at: Timestamp::from_micros(3_000_000),
            attempts: vec![attempt],
            replays: 0,
        };
        lock(&self.letters).insert(id, letter);
        id
    }
}

impl World {
    /// Puts these bytes into quarantine.
    pub(crate) fn shut_away(&self, bytes: &[u8]) -> u64 {
        let mut items = lock(&self.quarantined);
        let id = items.len() as u64 + 1;
        let what = Quarantined {
            source: "web".into(),
            received_at: Timestamp::from_micros(1_000_000),
            reason: "not JSON".into(),
            bytes: bytes.to_vec(),
            length: bytes.len() as u64,
        };
        items.insert(id, Item { id, what, tries: 0, tried_at: None });
        id
    }
}

pub(crate) fn event(key: &str) -> Event {
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
        },
        open_metrics: true,
        relations: Arc::clone(world) as _,
        queue: Arc::clone(world) as _,
        letters: Arc::clone(world) as _,
        reintake: Arc::clone(world) as _,
        deliveries: Arc::clone(world) as _,
        reconciler: Arc::clone(world) as _,
        catalog: Arc::clone(world) as _,
        health: Arc::clone(world) as _,
        callbacks: Arc::clone(world) as _,
        recent: Arc::new(Recent::new(100)),
        clock: Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000))),
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

#[async_trait]
impl Relations for World {
    async fn head(&self) -> Result<Head, RelationsError> {
        self.reach()?;
        Ok(Head { database: [1; 16], revision: 4 })
    }

    async fn changes_since(&self, _: Head) -> Result<Changes, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn snapshot(&self) -> Result<Snapshot, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn bind(&self, new: NewBinding) -> Result<Bound, RelationsError> {
        self.reach()?;
        let mut bindings = lock(&self.bindings);
        let there = bindings.values().find(|binding| binding.spec.identity() == new.spec.identity());
        if let Some(there) = there.cloned() {
            return Ok(match there.wanted {
                Wanted::Absent => Bound::Unbinding(there),
                Wanted::Present if there.spec == new.spec => Bound::Same(there),
                Wanted::Present => Bound::Conflict(there),
            });
        }
        self.note(format!("bind by {}", new.by));
        let binding = Binding {
            id: new.id,
            spec: new.spec,
            wanted: Wanted::Present,
            state: BindingState::Pending,
            reason: None,
            steps: Vec::new(),
            secret: new.secret,
            revision: 1,
            created_at: new.now,
            updated_at: new.now,
        };
        bindings.insert(binding.id, binding.clone());
        Ok(Bound::Created(binding))
    }

    async fn unbind(
        &self,
        id: BindingId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Binding>, RelationsError> {
        self.reach()?;
        self.note(format!("unbind by {by}"));
        Ok(lock(&self.bindings).get_mut(&id).map(|binding| {
            binding.wanted = Wanted::Absent;
            binding.state = BindingState::Unbinding;
            binding.updated_at = now;
            binding.clone()
        }))
    }

    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError> {
        self.reach()?;
        let mut bindings = lock(&self.bindings);
        let next = lock(&self.next_state).take();
        if let (Some((state, reason)), Some(binding)) = (next, bindings.get_mut(&id)) {
            binding.state = state;
            binding.reason = Some(reason);
        }
        Ok(bindings.get(&id).cloned())
    }

    async fn bindings(&self, query: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
        self.reach()?;
        let bindings = lock(&self.bindings);
        let wanted = |binding: &&Binding| {
            query.platform.as_ref().is_none_or(|platform| *platform == binding.spec.function.platform)
                && query.after.is_none_or(|after| binding.id > after)
        };
        Ok(bindings.values().filter(wanted).take(query.limit as usize).cloned().collect())
    }

    async fn record(&self, _: BindingId, _: u64, _: &Progress) -> Result<bool, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn remove(&self, _: BindingId, _: Timestamp) -> Result<bool, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn heartbeat(&self, _: &str, _: u64, _: Option<&str>) -> Result<(), RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn nodes(&self) -> Result<Vec<Node>, RelationsError> {
        self.reach()?;
        Ok(lock(&self.nodes).clone())
    }

    async fn forget_node(&self, node: &str) -> Result<bool, RelationsError> {
        self.reach()?;
        let mut nodes = lock(&self.nodes);
        let before = nodes.len();
        nodes.retain(|known| known.name != node);
        Ok(nodes.len() < before)
    }

    async fn history(
        &self,
        _: BindingId,
        _: u32,
    ) -> Result<Vec<crate::relations::HistoryEntry>, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn audit(
        &self,
        _: Option<u64>,
        _: u32,
    ) -> Result<Vec<crate::relations::AuditEntry>, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn lock_bucket(&self, _: &str, _: &str) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        unimplemented!("the admin API does not ask this")
    }
}

#[async_trait]
impl Results for World {
    async fn parked(&self, _: DeliveryId) -> Result<Option<Delivery>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn wait_for_result(&self, _: Wait) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn bury_parked(&self, _: DeadLetter) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn came_late(&self, _: DeliveryId, _: Attempt) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }
}

#[async_trait]
impl Queue for World {
    async fn park(&self, _: Park) -> Result<Parked, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn delivered(&self, _: DeliveryId) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn retry(&self, _: Retry) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn bury(&self, _: DeadLetter) -> Result<bool, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn quarantine(&self, _: Quarantined) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn due(
        &self,
        _: &FunctionRef,
        _: Timestamp,
        _: &[DeliveryId],
        _: u32,
    ) -> Result<Vec<Delivery>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn next_due(&self, _: &FunctionRef, _: &[DeliveryId]) -> Result<Option<Timestamp>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, QueueError> {
        if self.sick.load(Ordering::Relaxed) {
            return Err(QueueError::Closed);
        }
        Ok(lock(&self.backlogs).clone())
    }

    async fn bring_forward(&self, _: &FunctionRef, _: Timestamp, _: Timestamp) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn keep_skew(&self, _: i64) -> Result<(), QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn skew(&self) -> Result<i64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn held_bindings(&self) -> Result<Vec<BindingId>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn hold(&self, _: BindingId, _: bool, _: Timestamp) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn parked_of(&self, _: BindingId) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn dispose(
        &self,
        _: BindingId,
        _: Disposal,
        _: &[DeliveryId],
        _: Timestamp,
    ) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn attempts(&self, _: DeliveryId) -> Result<Vec<Attempt>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, QueueError> {
        Ok(lock(&self.letters).get(&id).cloned())
    }

    async fn replay(&self, id: DeliveryId, _: Timestamp) -> Result<Option<FunctionRef>, QueueError> {
        let function = lock(&self.letters).remove(&id).map(|letter| letter.delivery.function);
        lock(&self.replayed).extend(function.clone().map(|function| (id, function)));
        Ok(function)
    }

    async fn discard(&self, id: DeliveryId) -> Result<bool, QueueError> {
        Ok(lock(&self.letters).remove(&id).is_some())
    }

    async fn keep_function_state(&self, _: FunctionRef, _: Option<FunctionState>) -> Result<(), QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn function_states(&self) -> Result<Vec<FunctionState>, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn unhanded(&self, _: u32) -> Result<Unhanded, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn hand_over(&self, _: Vec<Handover>, _: i64) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn usage(&self) -> Result<(u64, u64), QueueError> {
        unimplemented!("the admin API does not ask this")
    }
}

#[async_trait]
impl LetterOffice for World {
    /// Pages by the letters' ids; the position is how many come before.
    async fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, QueueError> {
        let filter = &query.filter;
        let wanted = |letter: &&DeadLetter| {
            let delivery = &letter.delivery;
            let is =
                |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
            filter.binding.is_none_or(|binding| binding == delivery.binding)
                && is(&filter.platform, &delivery.function.platform)
                && is(&filter.function, &delivery.function.name)
                && is(&filter.bucket, &delivery.event.bucket)
                && filter.reason.is_none_or(|reason| reason == letter.reason)
                && filter.since.is_none_or(|since| letter.died_at >= since)
                && filter.until.is_none_or(|until| letter.died_at < until)
                && filter.key_prefix.as_ref().is_none_or(|prefix| delivery.event.key.starts_with(prefix))
        };
        let letters = lock(&self.letters);
        let mut letters: Vec<DeadLetter> = letters.values().filter(wanted).cloned().collect();
        if query.direction == Direction::NewestFirst {
            letters.reverse();
        }
        let passed = |cursor: Cursor| cursor.to_string().split_once('-').unwrap().0.parse().unwrap();
        let passed = query.cursor.map_or(0, passed);
        // What a walk from the oldest has dealt with is gone.
        let skipped = if query.direction == Direction::NewestFirst { passed } else { 0 };
        let page: Vec<_> = letters.iter().skip(skipped).take(query.limit as usize).cloned().collect();
        let more = letters.len() > skipped + page.len();
        let next = more.then(|| format!("{}-9", passed + page.len()).parse().unwrap());
        Ok(LetterPage { letters: page, next })
    }

    async fn letters_left(&self, _: &LetterFilter, _: Cursor) -> Result<u64, QueueError> {
        Ok(lock(&self.letters).len() as u64)
    }

    async fn rebind(&self, id: DeliveryId, binding: BindingId) -> Result<bool, QueueError> {
        self.note(format!("rebind {id} to {binding}"));
        Ok(lock(&self.letters).get_mut(&id).is_some_and(|letter| {
            letter.delivery.binding = binding;
            true
        }))
    }

    async fn parked_function(&self, id: DeliveryId) -> Result<Option<FunctionRef>, QueueError> {
        Ok(lock(&self.replayed).get(&id).cloned())
    }

    async fn quarantine_page(&self, before: Option<u64>, limit: u32) -> Result<Vec<Item>, QueueError> {
        let items = lock(&self.quarantined);
        let older = items.range(..before.unwrap_or(u64::MAX)).rev().map(|(_, item)| item.clone());
        Ok(older.take(limit as usize).collect())
    }

    async fn quarantine_item(&self, id: u64) -> Result<Option<Item>, QueueError> {
        Ok(lock(&self.quarantined).get(&id).cloned())
    }

    async fn requarantine(&self, id: u64, reason: &str, now: Timestamp) -> Result<bool, QueueError> {
        Ok(lock(&self.quarantined).get_mut(&id).is_some_and(|item| {
            item.what.reason = Quarantined::reason_after(&item.what.reason, reason);
            item.tries += 1;
            item.tried_at = Some(now);
            true
        }))
    }

    async fn unquarantine(&self, id: u64) -> Result<bool, QueueError> {
        Ok(lock(&self.quarantined).remove(&id).is_some())
    }
}

#[async_trait]
impl Reintake for World {
    async fn again(&self, item: &Quarantined) -> Retaken {
        match &*item.bytes {
            b"good" => Retaken::Taken { events: 2, deliveries: 3 },
            b"later" => Retaken::NotNow,
            b"orphan" => Retaken::NoSource,
            _ => Retaken::Hopeless("still not JSON".into()),
        }
    }
}

#[async_trait]
impl Deliveries for World {
    fn wake(&self, function: &FunctionRef) {
        self.note(format!("wake function {function}"));
    }

    fn running(&self, _: BindingId) -> Vec<DeliveryId> {
        Vec::new()
    }

    fn flows(&self) -> Vec<Flow> {
        lock(&self.flows).clone()
    }

    async fn hold(&self, _: BindingId, _: bool) -> Result<u64, QueueError> {
        unimplemented!("the admin API does not ask this")
    }

    async fn clear(&self, _: BindingId, disposal: Disposal) -> Result<u64, QueueError> {
        self.note(format!("clear {disposal:?}"));
        if self.sick.load(Ordering::Relaxed) { Err(QueueError::Closed) } else { Ok(0) }
    }
}

#[async_trait]
impl Reconciler for World {
    fn wake(&self, id: BindingId) {
        self.note(format!("wake binding {id}"));
    }

    async fn expects(&self, id: BindingId, headers: &HeaderMap) -> Result<Binding, ConfirmError> {
        self.reach()?;
        let binding = lock(&self.bindings).get(&id).cloned().ok_or(ConfirmError::Unknown)?;
        if headers.contains_key("webhook-signature") {
            Ok(binding)
        } else {
            Err(ConfirmError::Signature("it is not there".into()))
        }
    }

    fn confirm(&self, _: &Binding, headers: &HeaderMap, body: &[u8]) -> Result<(), ConfirmError> {
        if headers.get("webhook-signature").is_none_or(|signature| signature != "good") {
            return Err(ConfirmError::Signature("it is not good".into()));
        }
        match body {
            b"stale" => Err(ConfirmError::Stale("it is being taken back".into())),
            b"odd" => Err(ConfirmError::Malformed("not JSON".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Explain for World {
    async fn explain(&self, event: &Event) -> Result<Vec<Explanation>, Unexplained> {
        if self.sick.load(Ordering::Relaxed) {
            return Err(Unexplained("disk I/O error".into()));
        }
        lock(&self.explained).push(event.clone());
        Ok(lock(&self.explanations).clone())
    }
}

impl Health for World {
    fn liveness(&self) -> Vec<Part> {
        let listening = self.listening.get().map(ToString::to_string).unwrap_or_default();
        let listeners = Part { name: LISTENERS.into(), ok: true, detail: listening };
        vec![Part { name: "workers".into(), ok: true, detail: "progress 1 s ago".into() }, listeners]
    }

    fn readiness(&self) -> Vec<Part> {
        let ok = !self.sick.load(Ordering::Relaxed);
        vec![Part { name: "queue".into(), ok, detail: "2 of 100 bytes".into() }]
    }

    fn metrics(&self) -> String {
        "triggerd_up 1\n".into()
    }
}

#[async_trait]
impl Callbacks for World {
    async fn expects<'a>(
        &'a self,
        token: &'a str,
        _: &'a HeaderMap,
    ) -> Result<Box<dyn Report + 'a>, CallbackAnswer> {
        self.note(format!("callback {token}"));
        match token {
            "known" | "again" | "garbled" | "early" | "later" => Ok(Box::new(Called { world: self, token })),
            "unsigned" => Err(CallbackAnswer::Refused("it is not signed".into())),
            "elsewhere" => Err(CallbackAnswer::OtherNode("node2".into())),
            _ => Err(CallbackAnswer::Unknown),
        }
    }
}

/// A report under this token.
struct Called<'a> {
    world: &'a World,
    token: &'a str,
}

#[async_trait]
impl Report for Called<'_> {
    async fn take(self: Box<Self>, body: &[u8]) -> CallbackAnswer {
        self.world.note(format!("{} bytes of {}", body.len(), self.token));
        match self.token {
            "known" => CallbackAnswer::Recorded,
            "again" => CallbackAnswer::Repeated,
            "garbled" => CallbackAnswer::Malformed("the body is no report".into()),
            "early" => CallbackAnswer::Busy,
            _ => CallbackAnswer::Unavailable,
        }
    }
}

/// A node that was heard of this long ago.
pub(crate) fn node(name: &str, silent: u64) -> Node {
    Node { name: name.into(), revision: 3, admin_url: None, silent_for: Duration::from_secs(silent) }
}
