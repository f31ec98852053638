//! Results that are awaited: every order in which call, report, deadline and crash may come.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::timeout;

use super::{
    bench::{Act, Bench, SOON, is_safe, redelivers},
    results::GRACE,
    *,
};
use crate::{
    domain::{
        binding::Mode,
        clock::SystemClock,
        delivery::DeadReason,
        outcome::{Class, Outcome},
        steady::SteadyClock,
    },
    queue::{DeadLetter, Results as _, Wait},
};

/// The system's clock, moved by so many seconds.
#[derive(Debug)]
struct Moved(SystemClock, AtomicI64);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.now().as_micros() + self.1.load(Ordering::SeqCst) * 1_000_000)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

const ACCEPTED: Act = Act::Answer(Class::Accepted);

impl Bench {
    /// One whose binding asks for results.
    async fn awaiting(acts: impl IntoIterator<Item = Act>, wait_s: u64) -> (Self, Arc<Binding>) {
        let bench = Self::new(acts, 4).await;
        let mut binding = Binding::clone(&bench.binding);
        (binding.spec.mode, binding.spec.await_result_s) = (Mode::Async, Some(wait_s));
        let binding = Arc::new(binding);
        lock(&bench.mirror.bindings).insert(binding.id, Arc::clone(&binding));
        (bench, binding)
    }

    /// Submits one event, and waits until its call was accepted.
    async fn accepted(&self, binding: &Arc<Binding>) -> DeliveryId {
        let (id, safe) = self.submit_as(Arc::clone(binding), redelivers(5_000));
        assert!(is_safe(safe).await);
        self.until("its result is awaited", async || self.awaits(id).await).await;
        id
    }

    /// Whether its result is awaited, and the attempt that has recorded that has let go of it.
    async fn awaits(&self, id: DeliveryId) -> bool {
        let row = self.queue.parked(id).await.unwrap();
        row.is_some_and(|row| row.awaiting.is_some()) && !self.dispatcher.is_running(id)
    }

    async fn report(&self, binding: &Arc<Binding>, id: DeliveryId, attempt: u32, class: Class) -> Taken {
        self.dispatcher.result(Arc::clone(binding), report(id, attempt, class)).await.unwrap()
    }

    async fn letter(&self, id: DeliveryId) -> DeadLetter {
        self.until("a dead letter", async || self.queue.dead_letter(id).await.unwrap().is_some()).await;
        self.queue.dead_letter(id).await.unwrap().unwrap()
    }
}

fn report(delivery: DeliveryId, attempt: u32, class: Class) -> Report {
    let outcome = Outcome::new(class, None, "as reported");
    Report { delivery, attempt, outcome, took: Duration::from_millis(7) }
}

#[tokio::test]
async fn what_is_awaited_is_on_disk_before_its_call_and_holds_no_permit_after_it() {
    let (bench, binding) = Bench::awaiting([ACCEPTED], 600).await;
    *lock(&bench.script.queue) = Some(Arc::clone(&bench.queue));
    let id = bench.accepted(&binding).await;
    assert_eq!(*lock(&bench.script.seen_parked), [1]);
    bench.until("nothing runs", async || bench.dispatcher.running_count() == 0).await;
    assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Delivered);
    assert_eq!((bench.parked().await, bench.calls()), (0, 1));
    assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Unknown);
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Unknown);
    let outcomes = bench.dispatcher.inner.parts.recent.latest(None, 9);
    let outcomes: Vec<_> = outcomes.iter().map(|one| one.outcome.as_str()).collect();
    assert_eq!(outcomes, ["callback_succeeded", "accepted"]);
}

#[tokio::test]
async fn a_function_that_fails_after_all_is_tried_again_and_dies_with_the_platforms_words() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, ACCEPTED, ACCEPTED], 600).await;
    let id = bench.accepted(&binding).await;
    for attempt in 1..=3 {
        bench
            .until("the attempt awaits its result", async || {
                let row = bench.queue.parked(id).await.unwrap().unwrap();
                row.number() == attempt && bench.awaits(id).await
            })
            .await;
        if attempt > 1 {
            let taken = bench.report(&binding, id, attempt - 1, Class::FunctionFault).await;
            assert_eq!(taken, Taken::Outdated, "a repeat");
        }
        assert_eq!(bench.report(&binding, id, attempt, Class::FunctionFault).await, Taken::Failed);
    }
    let letter = bench.letter(id).await;
    assert_eq!((letter.reason, letter.detail.as_str()), (DeadReason::AttemptsExhausted, "as reported"));
    assert_eq!((letter.attempts.len(), letter.delivery.attempts, bench.calls()), (3, 3, 3));
}

#[tokio::test]
async fn an_attempt_without_a_result_in_time_is_the_functions_fault() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, Act::Answer(Class::Ok)], 1).await;
    let (id, safe) = bench.submit_as(Arc::clone(&binding), redelivers(5_000));
    assert!(is_safe(safe).await);
    bench
        .until("called again, and delivered", async || bench.calls() == 2 && bench.parked().await == 0)
        .await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    let outcomes = bench.dispatcher.inner.parts.recent.latest(None, 9);
    let none = outcomes.iter().find(|one| one.outcome == "no_result").unwrap();
    assert_eq!(none.detail, "no result came within 1 s");
}

#[tokio::test]
async fn a_report_before_the_calls_own_answer_is_not_lost() {
    for class in [Class::Accepted, Class::PlatformFault, Class::Permanent] {
        let (bench, binding) = Bench::awaiting([Act::Wait(class)], 600).await;
        let (id, safe) = bench.submit_as(Arc::clone(&binding), redelivers(5_000));
        assert!(is_safe(safe).await);
        bench.until("called", async || bench.calls() == 1).await;
        let early = bench.report(&binding, id, 1, Class::FunctionFault).await;
        assert_eq!(early, Taken::Busy, "a failure is judged when the call has ended");
        assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Delivered);
        bench.script.gate.add_permits(1);
        bench.until("the call ends", async || bench.dispatcher.running_count() == 0).await;
        assert_eq!((bench.parked().await, bench.calls()), (0, 1), "{class:?}");
        assert!(
            bench.queue.dead_letter(id).await.unwrap().is_none(),
            "{class:?}: it came back from the dead"
        );
    }
}

#[tokio::test]
async fn the_first_attempts_success_settles_it_while_the_second_runs() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, Act::Wait(Class::Permanent)], 600).await;
    let id = bench.accepted(&binding).await;
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Failed);
    bench.until("called again", async || bench.calls() == 2).await;
    assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Delivered);
    bench.script.gate.add_permits(1);
    bench.until("the call ends", async || bench.dispatcher.running_count() == 0).await;
    assert!(bench.queue.dead_letter(id).await.unwrap().is_none());
    assert_eq!(bench.parked().await, 0);
}

#[tokio::test]
async fn of_many_reports_at_once_each_failure_counts_once() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, Act::Wait(Class::Ok)], 600).await;
    let id = bench.accepted(&binding).await;
    let reports = (0..20).map(|_| bench.report(&binding, id, 1, Class::FunctionFault));
    let taken = futures_util::future::join_all(reports).await;
    assert_eq!(taken.iter().filter(|taken| **taken == Taken::Failed).count(), 1, "{taken:?}");
    bench.until("called again", async || bench.calls() == 2).await;
    let attempts = bench.queue.attempts(id).await.unwrap();
    assert_eq!((attempts.len(), attempts[0].class), (1, Class::FunctionFault));
    let reports = (0..20).map(|_| bench.report(&binding, id, 1, Class::Ok));
    let taken = futures_util::future::join_all(reports).await;
    assert_eq!(taken.iter().filter(|taken| **taken == Taken::Delivered).count(), 1, "{taken:?}");
    bench.script.gate.add_permits(1);
}

#[tokio::test]
async fn a_success_after_the_end_stands_with_the_dead_letter() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, Act::Answer(Class::Permanent)], 600).await;
    let id = bench.accepted(&binding).await;
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Failed);
    bench.letter(id).await;
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Outdated);
    for _ in 0..2 {
        assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Late);
    }
    let letter = bench.letter(id).await;
    let late: Vec<_> = letter.attempts.iter().filter(|attempt| attempt.class == Class::Ok).collect();
    assert_eq!(late.len(), 1, "{:?}", letter.attempts);
    assert_eq!(late[0].detail, "attempt 1 succeeded late: as reported");
    assert_eq!((letter.reason, bench.parked().await), (DeadReason::Permanent, 0));
}

#[tokio::test]
async fn without_a_disk_nothing_is_called_whose_result_would_find_no_row() {
    let (bench, binding) = Bench::awaiting([], 600).await;
    bench.queue.close().await;
    for park_first in [false, true] {
        let plan = Plan { park_first, ..redelivers(5_000) };
        let (id, safe) = bench.submit_as(Arc::clone(&binding), plan);
        assert!(!is_safe(safe).await);
        let refused = bench.dispatcher.result(Arc::clone(&binding), report(id, 1, Class::Ok)).await;
        refused.unwrap_err();
    }
    assert_eq!(bench.calls(), 0);
}

#[tokio::test]
async fn after_a_crash_the_result_is_taken_and_the_unanswered_call_made_again() {
    let (bench, binding) = Bench::awaiting([ACCEPTED], 600).await;
    let awaited = bench.accepted(&binding).await;
    // The process ended between this one's call and its answer.
    let called = bench.park(&binding, false).await;
    bench.dispatcher.stop_hard();
    timeout(SOON, bench.dispatcher.drained()).await.unwrap();

    let parts = bench.dispatcher.inner.parts.clone();
    let (again, _suspected) = Dispatcher::new(parts);
    let ask = async |id, attempt, class| {
        again.result(Arc::clone(&binding), report(id, attempt, class)).await.unwrap()
    };
    assert_eq!(ask(called, 1, Class::FunctionFault).await, Taken::Failed, "it is of the call under way");
    assert_eq!(ask(called, 1, Class::FunctionFault).await, Taken::Outdated, "a repeat");
    let row = bench.queue.parked(called).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.number()), (1, 2));
    assert_eq!(ask(awaited, 1, Class::Ok).await, Taken::Delivered);
    let pump = again.clone();
    tokio::spawn(async move { pump.run(|| ()).await.unwrap() });
    bench.until("called again, and delivered", async || bench.parked().await == 0).await;
    assert_eq!(*lock(&bench.script.calls), [awaited, called]);
}

#[tokio::test]
async fn a_failure_of_before_a_replay_is_not_charged_to_the_life_after_it() {
    let (bench, binding) = Bench::awaiting([ACCEPTED, ACCEPTED], 600).await;
    let id = bench.accepted(&binding).await;
    bench
        .until("unbound", async || {
            bench.dispatcher.clear(binding.id, Disposal::DeadLetter).await.unwrap() == 0
        })
        .await;
    assert!(bench.queue.replay(id, bench.dispatcher.inner.parts.clock.now()).await.unwrap().is_some());
    // Before its call is made anew, and while its result is awaited.
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Outdated);
    bench.dispatcher.wake(&binding.spec.function.to_ref());
    bench.until("its result is awaited", async || bench.awaits(id).await).await;
    assert_eq!(bench.report(&binding, id, 1, Class::FunctionFault).await, Taken::Outdated);
    let row = bench.queue.parked(id).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.tries, row.number()), (0, 0, 2));
    assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Delivered, "a success is one");
    assert_eq!((bench.parked().await, bench.calls()), (0, 2));
}

#[tokio::test]
async fn what_is_replayed_while_its_call_goes_on_has_all_its_attempts() {
    for class in [Class::FunctionFault, Class::Accepted, Class::Permanent] {
        let acts = [Act::Wait(class), ACCEPTED];
        let (bench, binding) = Bench::awaiting(acts, 600).await;
        let (id, safe) = bench.submit_as(Arc::clone(&binding), redelivers(5_000));
        assert!(is_safe(safe).await);
        bench.until("called", async || bench.calls() == 1).await;
        // As a clearing does that began before the call.
        let now = bench.dispatcher.inner.parts.clock.now();
        bench.queue.dispose(binding.id, Disposal::DeadLetter, &[], now).await.unwrap();
        assert!(bench.queue.replay(id, now).await.unwrap().is_some());
        bench.dispatcher.wake(&binding.spec.function.to_ref());
        bench.script.gate.add_permits(1);
        bench.until("called anew", async || bench.calls() == 2 && bench.awaits(id).await).await;
        let row = bench.queue.parked(id).await.unwrap().unwrap();
        assert_eq!((row.attempts, row.tries, row.number()), (0, 0, 2), "{class:?}");
        assert!(bench.queue.attempts(id).await.unwrap().is_empty(), "{class:?}");
    }
}

#[tokio::test]
async fn a_jump_of_the_clock_ends_no_wait_before_its_time() {
    let (bench, binding) = Bench::awaiting([ACCEPTED], 600).await;
    bench.dispatcher.stop_soft();
    let wall = Arc::new(Moved(SystemClock::new(), AtomicI64::new(0)));
    let clock = Arc::new(SteadyClock::new(wall.clone(), 0));
    let parts = Parts { clock: clock.clone(), ..bench.dispatcher.inner.parts.clone() };
    let (moved, _suspected) = Dispatcher::new(parts);
    let (pump, rounds) = (moved.clone(), Arc::new(AtomicI64::new(0)));
    let round = Arc::clone(&rounds);
    let beat = move || {
        round.fetch_add(1, Ordering::SeqCst);
    };
    tokio::spawn(async move { pump.run(beat).await.unwrap() });
    let id = bench.park(&binding, false).await;
    moved.wake(&binding.spec.function.to_ref());
    bench.until("its result is awaited", async || bench.awaits(id).await).await;

    wall.1.store(3_600, Ordering::SeqCst);
    let seen = rounds.load(Ordering::SeqCst);
    bench.until("the pump looks", async || rounds.load(Ordering::SeqCst) > seen + 2).await;
    let row = bench.queue.parked(id).await.unwrap().unwrap();
    assert!(row.awaiting.is_some() && row.attempts == 0, "{row:?}");
    assert_eq!(moved.result(binding, report(id, 1, Class::Ok)).await.unwrap(), Taken::Delivered);
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn a_wait_that_ended_while_nobody_was_there_goes_on_for_a_while_after_the_start() {
    let (bench, binding) = Bench::awaiting([ACCEPTED], 600).await;
    let id = bench.accepted(&binding).await;
    bench.dispatcher.stop_hard();
    timeout(SOON, bench.dispatcher.drained()).await.unwrap();
    let parts = bench.dispatcher.inner.parts.clone();
    let row = bench.queue.parked(id).await.unwrap().unwrap();
    let over = Wait::of(&row, row.awaiting.unwrap(), parts.clock.now());
    assert!(bench.queue.wait_for_result(over).await.unwrap());

    let (again, _suspected) = Dispatcher::new(parts.clone());
    let pump = again.clone();
    tokio::spawn(async move { pump.run(|| ()).await.unwrap() });
    let later = parts.clock.now().plus(GRACE / 2);
    bench
        .until("it is awaited for longer", async || {
            let none = bench.queue.next_due(&binding.spec.function.to_ref(), &[]).await.unwrap();
            none.is_some_and(|due| due > later)
        })
        .await;
    let row = bench.queue.parked(id).await.unwrap().unwrap();
    assert!(row.awaiting.is_some() && row.attempts == 0, "{row:?}");
    assert_eq!(again.result(binding, report(id, 1, Class::Ok)).await.unwrap(), Taken::Delivered);
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn what_awaits_its_result_is_not_held_and_unbinding_does_not_wait_for_it() {
    let (bench, binding) = Bench::awaiting([ACCEPTED], 600).await;
    let id = bench.accepted(&binding).await;
    assert_eq!(bench.dispatcher.hold(binding.id, true).await.unwrap(), 0);
    assert_eq!(bench.dispatcher.hold(binding.id, false).await.unwrap(), 0);
    assert!(bench.awaits(id).await);
    bench
        .until("unbound", async || {
            bench.dispatcher.clear(binding.id, Disposal::DeadLetter).await.unwrap() == 0
        })
        .await;
    let letter = bench.letter(id).await;
    assert_eq!(letter.reason, DeadReason::Unbound);
    assert!(letter.detail.contains("its result was awaited"), "{}", letter.detail);
    assert_eq!(bench.report(&binding, id, 1, Class::Ok).await, Taken::Late);
}

#[tokio::test]
async fn a_function_that_ran_at_once_is_waited_for_no_longer() {
    let (bench, binding) = Bench::awaiting([Act::Answer(Class::Ok)], 600).await;
    let (_, safe) = bench.submit_as(Arc::clone(&binding), redelivers(5_000));
    assert!(is_safe(safe).await);
    bench.until("delivered", async || bench.calls() == 1 && bench.parked().await == 0).await;
}
