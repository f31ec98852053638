//! What might be lost, called for nothing, or kept waiting where two things happen at once, or one goes wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::timeout;

use super::{
    bench::{Act, Bench, SOON, Wrong, is_safe, redelivers},
    parked::UNRECORDED,
    *,
};
use crate::{
    domain::{binding::State, delivery::DeadReason, outcome::Class},
    queue::QueueOptions,
};

/// A queue file that gives up soon when it is locked, in the place of a disk that fails.
fn impatient() -> QueueOptions {
    QueueOptions { busy_timeout: Duration::from_millis(50), ..QueueOptions::default() }
}

/// Another one's hold on the queue file.
async fn other(bench: &Bench) -> SqliteConnection {
    let file = SqliteConnectOptions::new().filename(bench.folder.path().join("queue.db"));
    SqliteConnection::connect_with(&file).await.unwrap()
}

/// The bench's binding with another id, state and function.
fn another(bench: &Bench, id: u8, state: State, function: &str) -> Arc<Binding> {
    let mut binding = Binding::clone(&bench.binding);
    (binding.id, binding.state) = (BindingId::from_bytes([id; 16]), state);
    binding.spec.function.function = function.into();
    Arc::new(binding)
}

impl Bench {
    fn passed_over(&self) -> bool {
        lock(&self.dispatcher.inner.running).values().any(|owned| owned.passed_over)
    }
}

#[tokio::test]
async fn a_row_of_before_the_restart_goes_with_the_repeat_that_is_delivered() {
    let bench = Bench::new([Act::Wait(Class::Ok)], 4).await;
    let (id, safe) = bench.submit(redelivers(60_000));
    bench.until("called", async || bench.calls() == 1).await;
    bench.begin_again();
    assert_eq!(bench.park(&bench.binding, false).await, id);
    bench.dispatcher.wake(&bench.binding.spec.function.to_ref());
    bench.until("the pump has passed it over", async || bench.passed_over()).await;
    bench.script.gate.add_permits(1);
    assert!(is_safe(safe).await);
    bench.until("the row is gone", async || bench.parked().await == 0).await;
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn a_row_whose_taker_panics_is_looked_at_again() {
    let bench = Bench::new([], 4).await;
    bench.park(&bench.binding, false).await;
    lock(&bench.mirror.wrong).push_back(Wrong::Panic);
    bench.dispatcher.wake(&bench.binding.spec.function.to_ref());
    bench.until("delivered", async || bench.calls() == 1 && bench.parked().await == 0).await;
}

#[tokio::test]
async fn the_backlog_of_one_function_does_not_keep_another_from_its_turn() {
    let bench = Bench::still([], 4, QueueOptions::default()).await;
    // Lanes are looked at in the order of their names.
    let mut flooded = Binding::clone(&another(&bench, 1, State::Active, "a-flooded-one"));
    // More than it can use at once, so that it never wants for a permit.
    flooded.spec.concurrency = 512;
    let flooded = Arc::new(flooded);
    lock(&bench.mirror.bindings).insert(flooded.id, Arc::clone(&flooded));
    futures_util::future::join_all((0..3_000).map(|_| bench.park(&flooded, false))).await;
    let id = bench.park(&bench.binding, false).await;
    bench.start_pump();
    bench.until("delivered", async || bench.parked().await == 0).await;
    let place = lock(&bench.script.calls).iter().position(|called| *called == id).unwrap();
    assert!(place < 500, "it had its turn after {place} of the other's");
}

#[tokio::test]
async fn what_was_delivered_is_not_called_again_while_it_cannot_be_recorded() {
    let bench = Bench::still([Act::Wait(Class::Ok)], 4, impatient()).await;
    bench.park(&bench.binding, false).await;
    bench.start_pump();
    bench.until("called", async || bench.calls() == 1).await;
    let mut other = other(&bench).await;
    let hold = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    bench.script.gate.add_permits(1);
    let again = bench.until("called again", async || bench.calls() == 2);
    assert!(timeout(Duration::from_secs(3), again).await.is_err(), "called again for want of a record");
    hold.rollback().await.unwrap();
    bench.until("the row is gone", async || bench.parked().await == 0).await;
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn a_function_is_called_for_so_many_only_as_are_not_recorded_yet() {
    // A disk that hangs, and does not fail.
    let options = QueueOptions { busy_timeout: SOON * 4, ..QueueOptions::default() };
    let (at_once, all) = (4, 600);
    let bench = Bench::still(vec![Act::Wait(Class::Ok); at_once], 4, options).await;
    futures_util::future::join_all((0..all).map(|_| bench.park(&bench.binding, false))).await;
    let (pump, beats) = (bench.dispatcher.clone(), Arc::new(AtomicUsize::new(0)));
    let rounds = Arc::clone(&beats);
    tokio::spawn(async move {
        let beat = || _ = rounds.fetch_add(1, Ordering::SeqCst);
        pump.run(beat).await.unwrap();
    });
    bench.until("all that run at once are called", async || bench.calls() == at_once).await;
    let mut other = other(&bench).await;
    let hold = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    bench.script.gate.add_permits(at_once);
    let most = at_once + UNRECORDED;
    bench.until("as many as may be are in hand", async || bench.dispatcher.running_count() >= most).await;
    let reached = beats.load(Ordering::SeqCst);
    bench.until("the pump goes on", async || beats.load(Ordering::SeqCst) >= reached + 3).await;
    // None of them is recorded, so that every call is in hand.
    assert_eq!((bench.dispatcher.running_count(), bench.calls()), (most, most));
    assert_eq!(bench.parked().await, all);
    hold.rollback().await.unwrap();
    bench.until("all are recorded", async || bench.parked().await == 0).await;
    let called: BTreeSet<_> = lock(&bench.script.calls).iter().copied().collect();
    assert_eq!((bench.calls() as u64, called.len() as u64), (all, all), "each is called once");
}

#[tokio::test]
async fn what_failed_is_tried_again_in_its_time_though_it_cannot_be_recorded() {
    let bench = Bench::still([Act::Wait(Class::FunctionFault)], 4, impatient()).await;
    bench.park(&bench.binding, false).await;
    bench.start_pump();
    bench.until("called", async || bench.calls() == 1).await;
    let mut other = other(&bench).await;
    let hold = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    bench.script.gate.add_permits(1);
    bench.until("called again", async || bench.calls() == 2).await;
    hold.rollback().await.unwrap();
    bench.until("the row is gone", async || bench.parked().await == 0).await;
}

#[tokio::test]
async fn a_delivery_that_ends_before_its_row_is_sealed_waits_for_no_disk() {
    let bench = Bench::new([Act::Wait(Class::Ok)], 4).await;
    let mut other = other(&bench).await;
    let hold = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    // Keeps the writer busy, so that the park waits behind it.
    let (queue, none) = (Arc::clone(&bench.queue), DeliveryId::from_bytes([0; 16]));
    let before = tokio::spawn(async move { queue.delivered(none).await });
    tokio::task::yield_now().await;
    let (_, safe) = bench.submit(redelivers(1));
    bench.until("called", async || bench.calls() == 1).await;
    // It is late by now, and handed to the queue.
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.script.gate.add_permits(1);
    let safe = timeout(Duration::from_secs(2), safe).await.expect("it waited for the disk");
    assert!(safe.unwrap());
    hold.rollback().await.unwrap();
    before.await.unwrap().unwrap();
    assert_eq!((bench.parked().await, bench.calls()), (0, 1));
}

#[tokio::test]
async fn what_was_held_just_after_its_binding_was_mended_is_released() {
    let bench = Bench::new([], 4).await;
    // It matched while the binding was degraded; the release came before the row.
    let degraded = another(&bench, 7, State::Degraded, "thumb");
    let (_, safe) = bench.submit_as(degraded, redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("delivered", async || bench.calls() == 1 && bench.parked().await == 0).await;
}

#[tokio::test]
async fn held_deliveries_of_a_binding_that_is_gone_become_dead_letters() {
    let bench = Bench::still([], 4, QueueOptions::default()).await;
    let gone = another(&bench, 9, State::Degraded, "thumb");
    let degraded = another(&bench, 3, State::Degraded, "thumb");
    lock(&bench.mirror.bindings).insert(degraded.id, Arc::clone(&degraded));
    let id = bench.park(&gone, true).await;
    bench.park(&degraded, true).await;
    bench.start_pump();
    bench.until("a dead letter", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
    let letter = bench.queue.dead_letter(id).await.unwrap().unwrap();
    assert_eq!((letter.reason, bench.calls()), (DeadReason::Unbound, 0));
    assert_eq!(bench.queue.held_bindings().await.unwrap(), [degraded.id], "another's stay held");
}

#[tokio::test]
async fn what_is_released_is_taken_up_though_its_binding_cannot_be_read() {
    let bench = Bench::new([], 4).await;
    bench.park(&bench.binding, true).await;
    lock(&bench.mirror.wrong).push_back(Wrong::Unreadable);
    assert_eq!(bench.dispatcher.hold(bench.binding.id, false).await.unwrap(), 1);
    bench.until("delivered", async || bench.calls() == 1 && bench.parked().await == 0).await;
}

#[tokio::test]
async fn unbinding_waits_for_the_attempt_that_runs_and_clears_the_rest() {
    let bench = Bench::new([Act::Wait(Class::FunctionFault)], 1).await;
    let (_, first) = bench.submit(redelivers(1));
    bench.until("called", async || bench.calls() == 1).await;
    let (_, second) = bench.submit(redelivers(1));
    assert!(is_safe(first).await && is_safe(second).await);
    let unbinding = another(&bench, 7, State::Unbinding, "thumb");
    lock(&bench.mirror.bindings).insert(unbinding.id, unbinding);
    let id = bench.binding.id;
    assert_eq!(bench.dispatcher.clear(id, Disposal::Discard).await.unwrap(), 1, "one still runs");
    bench.script.gate.add_permits(1);
    bench
        .until("nothing is left", async || bench.dispatcher.clear(id, Disposal::Discard).await.unwrap() == 0)
        .await;
    assert_eq!((bench.calls(), bench.parked().await), (1, 0));
}

#[tokio::test]
async fn a_dead_letter_replayed_while_its_attempt_still_runs_is_fired_and_gone() {
    let options = QueueOptions { function_share: 0.000_000_1, ..QueueOptions::default() };
    let bench = Bench::still([Act::Wait(Class::Ok)], 4, options).await;
    bench.start_pump();
    let (id, safe) = bench.submit(redelivers(1));
    // It could not be parked for its function's share: a dead letter, whose attempt goes on.
    assert!(is_safe(safe).await);
    assert!(bench.queue.dead_letter(id).await.unwrap().is_some());
    let function = bench.queue.replay(id, bench.dispatcher.inner.parts.clock.now()).await.unwrap().unwrap();
    bench.dispatcher.wake(&function);
    bench.until("the pump has passed it over", async || bench.passed_over()).await;
    bench.script.gate.add_permits(1);
    bench.until("nothing is left", async || bench.parked().await == 0).await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    assert!((1..=2).contains(&bench.calls()));
}

#[tokio::test]
async fn after_a_stop_new_deliveries_are_parked_and_due_at_the_next_start() {
    let bench = Bench::new([], 4).await;
    bench.dispatcher.stop_soft();
    let all: Vec<_> = (0..20).map(|_| bench.submit(redelivers(60_000)).1).collect();
    for safe in all {
        assert!(is_safe(safe).await);
    }
    timeout(SOON, bench.dispatcher.drained()).await.unwrap();
    assert_eq!((bench.calls(), bench.parked().await), (0, 20));
}

#[tokio::test]
async fn a_binding_paused_while_its_delivery_was_parked_is_not_fired() {
    let bench = Bench::new([], 4).await;
    let paused = another(&bench, 7, State::Paused, "thumb");
    lock(&bench.mirror.bindings).insert(paused.id, paused);
    // It matched while the binding was active.
    let (_, safe) = bench.submit(Plan { park_first: true, ..redelivers(5_000) });
    assert!(is_safe(safe).await);
    bench
        .until("it is held", async || bench.queue.held_bindings().await.unwrap() == [bench.binding.id])
        .await;
    assert_eq!((bench.calls(), bench.parked().await), (0, 1));
}
