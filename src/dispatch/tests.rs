//! The way of a delivery through dispatch: first attempts, retries, what is parked and when, a hard stop.

use std::sync::atomic::Ordering;

use tokio::time::timeout;

use super::{
    bench::{Act, Bench, SOON, is_safe, redelivers},
    *,
};
use crate::{
    domain::outcome::Class,
    queue::{LetterOffice, LetterQuery},
};

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
