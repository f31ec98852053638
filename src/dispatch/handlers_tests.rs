//! Handler functions on a real queue file: called for each new dead letter, and never about themselves.

use super::{
    bench::{Act, Bench, SOON, Wrong, is_safe, redelivers},
    upkeep::CALLED,
    *,
};
use crate::{
    domain::outcome::Class,
    queue::{DeadLetter, LetterOffice, LetterQuery, QueueOptions},
};

/// A bench whose binding has a handler function, and three attempts for each delivery.
async fn with_handler(acts: impl IntoIterator<Item = Act>) -> Bench {
    let bench = Bench::still(acts, 4, QueueOptions::default()).await;
    let mut binding = (*bench.binding).clone();
    binding.spec.dead_letter_function = Some("undertaker".into());
    lock(&bench.mirror.bindings).insert(binding.id, Arc::new(binding));
    bench.start_pump();
    bench
}

async fn letters(bench: &Bench) -> usize {
    let query = LetterQuery { limit: 9, ..LetterQuery::default() };
    bench.queue.dead_letters(&query).await.unwrap().letters.len()
}

impl Bench {
    /// The delivery of this dead letter to its handler function.
    async fn handler_delivery(&self, letter: DeliveryId) -> DeliveryId {
        DeliveryId::of_letter(letter, self.queue.dead_letter(letter).await.unwrap().unwrap().died_at)
    }
}

/// Waits until a delivery has become a dead letter.
async fn dead(bench: &Bench) -> DeliveryId {
    let (id, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("a dead letter", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
    id
}

#[tokio::test]
async fn a_handler_is_given_each_dead_letter_and_its_own_failure_never_loops() {
    let bench = with_handler(vec![Act::Answer(Class::FunctionFault); 6]).await;
    let id = dead(&bench).await;
    assert!(!bench.dispatcher.hand_over().await.unwrap());
    bench
        .until("the handler has failed for good", async || bench.calls() == 6 && bench.parked().await == 0)
        .await;
    let handler = bench.handler_delivery(id).await;
    assert_eq!(*lock(&bench.script.calls), [id, id, id, handler, handler, handler]);
    assert_eq!(letters(&bench).await, 1, "the letter lies where it lay, and no other came of it");
    bench.dispatcher.hand_over().await.unwrap();
    assert_eq!((bench.calls(), bench.parked().await), (6, 0), "it is not called about it again");
}

#[tokio::test]
async fn a_letter_that_was_replayed_meanwhile_needs_no_handler_and_dead_again_it_does() {
    let faults = vec![Act::Answer(Class::Permanent), Act::Wait(Class::Permanent)];
    let bench = with_handler(faults).await;
    let id = dead(&bench).await;
    // Taken from among the dead between the hand-over and the handler's turn.
    let unhanded = bench.queue.unhanded(9).await.unwrap();
    assert_eq!(unhanded.letters.len(), 1);
    let now = bench.dispatcher.inner.parts.clock.now();
    let thumb = bench.queue.replay(id, now).await.unwrap().unwrap();
    let handler = FunctionRef { platform: "local".into(), name: "undertaker".into() };
    let handover = crate::queue::Handover { letter: id, function: handler, now };
    assert_eq!(bench.queue.hand_over(vec![handover], unhanded.upto.unwrap()).await.unwrap(), 0);
    bench.dispatcher.wake(&thumb);
    bench.until("it is tried again", async || bench.calls() == 2).await;
    bench.script.gate.add_permits(1);
    bench.until("it is dead again", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
    bench.dispatcher.hand_over().await.unwrap();
    bench.until("the handler is called", async || bench.calls() == 3 && bench.parked().await == 0).await;
    let handler = bench.handler_delivery(id).await;
    assert_eq!(lock(&bench.script.calls)[2], handler);
}

#[tokio::test]
async fn what_is_to_tell_of_one_death_does_not_tell_of_the_next() {
    let bench = with_handler([Act::Answer(Class::Permanent), Act::Wait(Class::FunctionFault)]).await;
    let id = dead(&bench).await;
    let first = bench.handler_delivery(id).await;
    bench.dispatcher.hand_over().await.unwrap();
    bench.until("the handler is called", async || bench.calls() == 2).await;
    // It dies again while its first death is still to be told.
    let died_again = bench.queue.dead_letter(id).await.unwrap().unwrap();
    let died_again = DeadLetter { died_at: died_again.died_at.plus(SOON), ..died_again };
    assert!(bench.queue.discard(id).await.unwrap());
    assert!(bench.queue.bury(died_again).await.unwrap());
    bench.dispatcher.hand_over().await.unwrap();
    bench.script.gate.add_permits(1);
    bench.until("all is told", async || bench.parked().await == 0).await;
    let second = bench.handler_delivery(id).await;
    assert_eq!(lock(&bench.script.calls)[1..], [first, second], "each at most once");
}

#[tokio::test]
async fn letters_without_a_handler_are_passed_and_unreadable_bindings_are_waited_for() {
    let bench = with_handler([Act::Answer(Class::Permanent), Act::Answer(Class::Permanent)]).await;
    dead(&bench).await;
    lock(&bench.mirror.wrong).push_back(Wrong::Unreadable);
    bench.dispatcher.hand_over().await.unwrap();
    assert_eq!(bench.queue.unhanded(9).await.unwrap().letters.len(), 1, "it is looked at again");
    bench.dispatcher.hand_over().await.unwrap();
    bench.until("the handler is called", async || bench.calls() == 2).await;
    lock(&bench.mirror.bindings).insert(bench.binding.id, Arc::clone(&bench.binding));
    lock(&bench.mirror.wrong).clear();
    bench.until("nothing is parked", async || bench.parked().await == 0).await;
    let calls = bench.calls();
    let (_, safe) = bench.submit(redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.dispatcher.hand_over().await.unwrap();
    assert!(bench.queue.unhanded(9).await.unwrap().upto.is_none());
    assert_eq!(bench.calls(), calls + 1);
}

#[tokio::test]
async fn a_handler_is_among_the_functions_that_were_called_though_no_binding_calls_it() {
    let bench = with_handler([Act::Answer(Class::Permanent), Act::Answer(Class::FunctionFault)]).await;
    dead(&bench).await;
    bench.dispatcher.hand_over().await.unwrap();
    bench
        .until("it is called until it succeeds", async || bench.calls() == 3 && bench.parked().await == 0)
        .await;
    let undertaker = FunctionRef { platform: "local".into(), name: "undertaker".into() };
    let lane_of = |function: &FunctionRef| lock(&bench.dispatcher.inner.lanes).get(function).cloned();
    bench
        .until("nobody uses its lane", async || {
            bench.dispatcher.forget_idle(std::slice::from_ref(&undertaker));
            lane_of(&undertaker).is_none_or(|lane| lane.begun_anew().is_none())
        })
        .await;
    let flow = bench.dispatcher.flows().into_iter().find(|flow| flow.function == undertaker).unwrap();
    let last = flow.last.unwrap();
    assert_eq!((last.class, last.failed), (Class::Ok, 0));

    // Whoever was never called is forgotten, and so is who was called longest ago when there are too many.
    let named = |name: String| FunctionRef { platform: "local".into(), name: name.into() };
    let never = named("never".to_owned());
    drop(bench.dispatcher.lane(&never, 1));
    let later = bench.dispatcher.inner.parts.clock.monotonic();
    let mut all = vec![never.clone(), undertaker.clone()];
    for number in 0..CALLED {
        let function = named(format!("once-{number}"));
        bench.dispatcher.lane(&function, 1).reported(Class::Ok, later + Duration::from_secs(1));
        all.push(function);
    }
    let kept = |function: &&FunctionRef| lane_of(function).is_some();
    assert_eq!(all.iter().filter(kept).count(), CALLED + 2);
    bench.dispatcher.forget_idle(&all);
    assert_eq!(all.iter().filter(kept).count(), CALLED);
    assert!(lane_of(&never).is_none() && lane_of(&undertaker).is_none());
}
