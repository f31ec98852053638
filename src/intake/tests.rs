//! Intake with the real dialect, a real queue file and the real dispatcher; function and bindings do as they are told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::{
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

#[tokio::test]
async fn a_body_of_several_records_is_acknowledged_after_the_last_is_delivered() {
    let bench = Bench::new([Act::Answer(Class::Ok), Act::Wait(Class::Ok), Act::Answer(Class::Ok)]).await;
    let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body(&["a", "b", "c"])).await;
    bench.until_called(3).await;
    bench.until("two of three are settled", async || bench.intake.repeats.in_flight() == 1).await;
    assert!(acknowledged.try_recv().is_err(), "acknowledged while one was on its way");
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(acknowledged).await);
    let mut keys: Vec<_> = bench.calls().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_event_of_two_bindings_waits_for_both() {
    let bench = Bench::new([Act::Answer(Class::Ok), Act::Wait(Class::Ok)]).await;
    bench.matches(Matching::All(bench.bindings.clone()));
    let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(2).await;
    bench.until("one attempt has ended", async || bench.intake.dispatcher.running_count() == 1).await;
    assert!(acknowledged.try_recv().is_err());
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(acknowledged).await);
}

#[tokio::test]
async fn one_record_that_is_not_safe_keeps_the_body_and_its_repeat_has_the_same_ids() {
    let mut bench = Bench::new([Act::Answer(Class::FunctionFault)]).await;
    bench.without_a_queue().await;
    let from = patient(Redelivers::Yes);
    assert!(!is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    bench.until("nothing is in flight", async || bench.intake.repeats.in_flight() == 0).await;
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    let mut calls = bench.calls();
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 2, "a key was called under two ids: {calls:?}");
}

#[tokio::test]
async fn what_cannot_be_decoded_is_quarantined_with_its_bytes_and_acknowledged() {
    let bench = Bench::new([]).await;
    let half = body(&["a"]);
    let half = &half[..half.len() / 2];
    assert!(is_acknowledged(bench.take(&patient(Redelivers::Yes), half).await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    assert_eq!((kept.len(), &*kept[0].bytes, &*kept[0].source), (1, half, "minio"));
    assert!(kept[0].reason.contains("JSON"), "{}", kept[0].reason);
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn what_cannot_be_quarantined_stays_with_its_source() {
    let mut bench = Bench::new([]).await;
    bench.without_a_queue().await;
    assert!(!is_acknowledged(bench.take(&patient(Redelivers::Yes), b"{").await).await);
}

#[tokio::test]
async fn a_panic_in_matching_quarantines_its_message_and_no_other() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Panic);
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    assert_eq!(bench.reasons().await, ["matching panicked; see the log"]);
    bench.matches(Matching::All(vec![Arc::clone(&bench.bindings[0])]));
    assert!(is_acknowledged(bench.take(&from, &body(&["c"])).await).await);
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn an_oversized_body_is_quarantined_with_its_beginning_and_its_length() {
    let bench = Bench::new([]).await;
    let long = vec![b'x'; QUARANTINE_BYTES + 9];
    let oversized = |message: &mut Message| message.oversize = Some(5 << 30);
    assert!(is_acknowledged(bench.take_with(&patient(Redelivers::Yes), &long, oversized).await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    assert_eq!((kept[0].bytes.len(), kept[0].length), (QUARANTINE_BYTES, 5 << 30));
}

#[tokio::test]
async fn quarantine_that_takes_its_time_keeps_no_other_message_back() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let file = SqliteConnectOptions::new().filename(bench.folder.path().join("queue.db"));
    let mut other = SqliteConnection::connect_with(&file).await.unwrap();
    let busy = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let (bad, good) = timeout(SOON / 5, async {
        let bad = bench.take(&from, b"{").await;
        (bad, bench.take(&from, &body(&["a"])).await)
    })
    .await
    .expect("a message waited for another's quarantine");
    assert!(is_acknowledged(good).await);
    busy.rollback().await.unwrap();
    assert!(is_acknowledged(bad).await);
    assert_eq!(bench.reasons().await.len(), 1);
}

#[tokio::test]
async fn nothing_to_do_is_acknowledged_at_once() {
    let mut bench = Bench::new([]).await;
    bench.without_a_queue().await;
    bench.matches(Matching::All(Vec::new()));
    for body in [body(&["a", "b"]), br#"{"Records":[]}"#.to_vec(), br#"{"Records":null}"#.to_vec()] {
        let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body).await;
        assert_eq!(acknowledged.try_recv(), Ok(()));
    }
    let unmatched = bench.intake.recent.latest(None, 9);
    assert_eq!(unmatched.iter().filter(|one| one.outcome == "unmatched").count(), 2);
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn while_the_bindings_cannot_be_read_messages_stay_with_their_source() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Unreadable);
    assert!(!is_acknowledged(bench.take(&from, &body(&["a"])).await).await);
    assert_eq!(bench.intake.repeats.in_flight(), 0);
    bench.matches(Matching::All(vec![Arc::clone(&bench.bindings[0])]));
    assert!(is_acknowledged(bench.take(&from, &body(&["a"])).await).await);
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn a_repeat_joins_what_is_in_flight_and_costs_nothing_once_it_is_settled() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let from = patient(Redelivers::Yes);
    let mut first = bench.take(&from, &body(&["a"])).await;
    let mut second = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(first).await && is_acknowledged(second).await);
    let mut third = bench.take(&from, &body(&["a"])).await;
    assert_eq!(third.try_recv(), Ok(()));
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn the_fast_leg_is_acknowledged_on_receipt_and_the_safe_leg_when_it_is_safe() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let mut fast = bench.take(&patient(Redelivers::Twin), &body(&["a"])).await;
    assert_eq!(fast.try_recv(), Ok(()));
    let mut safe = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    assert!(safe.try_recv().is_err(), "the safe leg was let go while the function ran");
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(safe).await);
    assert_eq!((bench.calls().len(), bench.parked().await), (1, 0));
}

#[tokio::test]
async fn an_event_that_only_the_fast_leg_brought_is_parked_when_it_fails_and_tried_again() {
    let bench = Bench::new([Act::Wait(Class::FunctionFault)]).await;
    bench.take(&origin(Redelivers::Twin, Duration::from_millis(1)), &body(&["a"])).await;
    bench.until("parked while it runs", async || bench.parked().await == 1).await;
    bench.script.gate.add_permits(1);
    bench.until("delivered", async || bench.calls().len() == 2 && bench.parked().await == 0).await;
}

#[tokio::test]
async fn when_the_fast_leg_finds_no_disk_the_safe_leg_keeps_the_event() {
    let mut bench = Bench::new([Act::Wait(Class::FunctionFault)]).await;
    bench.without_a_queue().await;
    bench.take(&patient(Redelivers::Twin), &body(&["a"])).await;
    let safe = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    bench.script.gate.add_permits(1);
    assert!(!is_acknowledged(safe).await);
    let again = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    assert!(is_acknowledged(again).await);
    let calls = bench.calls();
    assert!(calls.len() == 2 && calls[0] == calls[1], "{calls:?}");
}

#[tokio::test]
async fn what_never_comes_again_is_on_disk_before_it_is_fired_and_acknowledged_then() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let acknowledged = bench.take(&patient(Redelivers::No), &body(&["a"])).await;
    assert!(is_acknowledged(acknowledged).await);
    bench.until_called(1).await;
    assert_eq!(*lock(&bench.script.parked), [1]);
    bench.script.gate.add_permits(1);
    bench.until("the row is removed", async || bench.parked().await == 0).await;
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn a_pressed_message_is_acknowledged_from_disk_while_its_function_hangs() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let pressed = |message: &mut Message| message.pressed = true;
    assert!(is_acknowledged(bench.take_with(&patient(Redelivers::Yes), &body(&["a"]), pressed).await).await);
    bench.until_called(1).await;
    assert_eq!(bench.parked().await, 1);
    bench.script.gate.add_permits(1);
    bench.until("the row is removed", async || bench.parked().await == 0).await;
}

#[tokio::test]
async fn a_function_that_fires_its_own_binding_is_told_of_and_nothing_of_it_is_dropped() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let mut key = "in/a.jpg".to_owned();
    for _ in 0..6 {
        assert!(is_acknowledged(bench.take(&from, &body(&[&key])).await).await);
        key.push_str(".copy");
    }
    assert_eq!(bench.calls().len(), 6);
    let outcomes = bench.intake.recent.latest(Some(bench.bindings[0].id), 99);
    let told: Vec<_> = outcomes.iter().filter(|one| one.outcome == "loop_suspected").collect();
    assert_eq!(told.len(), 1, "once a minute: {told:?}");
    assert_eq!(told[0].key, "in/a.jpg.copy.copy.copy");
    assert!(told[0].detail.contains("ignore_principals"), "{}", told[0].detail);
}

#[tokio::test]
async fn what_clients_upload_side_by_side_is_suspected_of_nothing() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    for number in 0..40 {
        let keys = [format!("in/film-{number}.mp4"), format!("in/film-{number}.srt")];
        assert!(is_acknowledged(bench.take(&from, &body(&[&keys[0], &keys[1]])).await).await);
    }
    assert_eq!(bench.calls().len(), 80);
    assert!(bench.intake.recent.latest(None, 99).iter().all(|one| one.outcome == "ok"));
}

#[tokio::test]
async fn a_message_whose_bindings_must_be_read_first_keeps_no_other_back() {
    let bench = Bench::new([]).await;
    let gate = Arc::new(Semaphore::new(0));
    bench.matches(Matching::Waits("slow", Arc::clone(&gate), vec![Arc::clone(&bench.bindings[0])]));
    let (inbox, messages) = mpsc::channel(9);
    let running = tokio::spawn(bench.intake.clone().run(messages, || ()));
    let from = patient(Redelivers::Yes);
    let (slow, mut slow_acknowledged) = bench.message(&from, &body(&["slow"]));
    let (other, other_acknowledged) = bench.message(&from, &body(&["other"]));
    inbox.send(slow).await.unwrap();
    inbox.send(other).await.unwrap();
    assert!(is_acknowledged(other_acknowledged).await);
    assert!(slow_acknowledged.try_recv().is_err());
    gate.add_permits(1);
    assert!(is_acknowledged(slow_acknowledged).await);
    drop(inbox);
    timeout(SOON, running).await.unwrap().unwrap();
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test]
async fn what_was_quarantined_is_taken_in_when_it_is_understood_and_stays_when_not() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Panic);
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    assert!(is_acknowledged(bench.take(&from, b"{").await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    let (bad, good) = (&kept[0], &kept[1]);

    let still = bench.intake.again(good, &from).await;
    assert_eq!(still, Again::Hopeless("matching panicked; see the log".into()));
    bench.matches(Matching::All(bench.bindings.clone()));
    assert_eq!(bench.intake.again(good, &from).await, Again::Taken { events: 2, deliveries: 4 });
    bench.until_called(4).await;
    assert!(matches!(bench.intake.again(bad, &from).await, Again::Hopeless(why) if why.contains("JSON")));
    assert_eq!(bench.reasons().await.len(), 2, "trying again adds nothing");

    // Once more, as after a crash before the item was removed: known, and not fired again.
    assert_eq!(bench.intake.again(good, &from).await, Again::Taken { events: 2, deliveries: 4 });
    assert_eq!(bench.calls().len(), 4);
}

#[tokio::test]
async fn what_was_cut_cannot_be_tried_again_and_a_row_of_our_own_can() {
    let mut bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let long = vec![b'x'; QUARANTINE_BYTES + 9];
    let oversized = |message: &mut Message| message.oversize = Some(5 << 30);
    assert!(is_acknowledged(bench.take_with(&from, &long, oversized).await).await);
    let cut = bench.queue.quarantined(9).await.unwrap().pop().unwrap();
    assert!(matches!(bench.intake.again(&cut, &from).await, Again::Hopeless(why) if why.contains("first")));

    let event = dialect::decode(&body(&["row"]), &from.storage, from.encoding).unwrap().pop().unwrap();
    let bytes = serde_json::to_vec(&event).unwrap();
    let (length, source) = (bytes.len() as u64, crate::queue::REJECTED_ROWS.to_owned());
    let row = Quarantined { source, bytes, length, ..cut };
    assert_eq!(bench.intake.again(&row, &from).await, Again::Taken { events: 1, deliveries: 1 });
    bench.until_called(1).await;
    assert_eq!(bench.calls()[0].0, "row");

    // Where nothing can be parked, it is not said to be safe.
    bench.without_a_queue().await;
    let event = dialect::decode(&body(&["later"]), &from.storage, from.encoding).unwrap().pop().unwrap();
    let bytes = serde_json::to_vec(&event).unwrap();
    let row = Quarantined { length: bytes.len() as u64, bytes, ..row };
    assert_eq!(bench.intake.again(&row, &from).await, Again::Unsafe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_that_hangs_falls_silent_and_beats_again_when_it_goes_on() {
    let bench = Bench::new([]).await;
    let go_on = Arc::new(AtomicBool::new(false));
    bench.matches(Matching::Hangs(Arc::clone(&go_on)));
    let clock = Arc::clone(&bench.intake.clock);
    let last = Arc::new(Mutex::new(clock.monotonic()));
    let silent_for = || clock.monotonic().saturating_sub(*last.lock().unwrap());
    let (sender, inbox) = mpsc::channel(4);
    let (intake, beats, now) = (bench.intake.clone(), Arc::clone(&last), Arc::clone(&clock));
    let running =
        tokio::spawn(async move { intake.run(inbox, || *beats.lock().unwrap() = now.monotonic()).await });
    let (message, acknowledged) = bench.message(&origin(Redelivers::Yes, SOON), &body(&["a.jpg"]));
    sender.send(message).await.unwrap();
    bench.until("intake is silent", async || silent_for() > IDLE + Duration::from_secs(1)).await;
    go_on.store(true, Ordering::Release);
    assert_eq!(acknowledged.await, Ok(()));
    bench.until("intake beats", async || silent_for() < IDLE).await;
    drop(sender);
    running.await.unwrap();
}
