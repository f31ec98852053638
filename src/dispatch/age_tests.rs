//! What becomes of a delivery at its binding's maximum age, by a clock that stands until it is moved.

use super::{
    bench::{Act, Bench, is_safe, redelivers},
    breaker, *,
};
use crate::{
    domain::{clock::ManualClock, delivery::DeadReason, outcome::Class},
    queue::{QueueOptions, Results as _},
};

const AGE: Duration = Duration::from_hours(1);

/// Before its maximum age a delivery is given up by no more than this.
const LAST_CHANCE: Duration = Duration::from_secs(1);

impl Bench {
    /// One whose clock stands, whose pump does not run yet, and whose binding's events live for [`AGE`].
    async fn aging(acts: impl IntoIterator<Item = Act>) -> (Self, Arc<Binding>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000)));
        let bench = Self::still_at(acts, 4, QueueOptions::default(), clock.clone()).await;
        let mut binding = Binding::clone(&bench.binding);
        binding.spec.max_event_age_s = AGE.as_secs();
        let binding = Arc::new(binding);
        lock(&bench.mirror.bindings).insert(binding.id, Arc::clone(&binding));
        (bench, binding, clock)
    }

    async fn tries(&self, id: DeliveryId) -> Option<(u32, u32)> {
        let row = self.queue.parked(id).await.unwrap();
        row.map(|delivery| (delivery.tries, delivery.attempts))
    }
}

#[tokio::test]
async fn what_is_throttled_over_and_over_dies_at_its_maximum_age_and_not_before() {
    for class in [Class::Throttled, Class::PlatformFault] {
        let (bench, binding, clock) = Bench::aging(vec![Act::Answer(class); 100_000]).await;
        bench.start_pump();
        let accepted = clock.now();
        let (id, safe) = bench.submit_as(binding, redelivers(5_000));
        assert!(is_safe(safe).await);
        bench
            .until("tried more often than its policy has attempts", async || {
                clock.advance(Duration::from_millis(20));
                bench.tries(id).await.is_some_and(|(tries, _)| tries > 6)
            })
            .await;

        let left = AGE.checked_sub(clock.now().since(accepted) + LAST_CHANCE * 2);
        clock.advance(left.expect("aged already"));
        let (before, _) = bench.tries(id).await.expect("dead before its time");
        bench
            .until("tried again shortly before its end, and put off once more", async || {
                let (tries, attempts) = bench.tries(id).await.expect("dead before its time");
                assert_eq!(attempts, 0, "{class:?} is charged");
                tries > before
            })
            .await;

        // By as much as a breaker may stay open, so that it needs no other push.
        clock.advance(LAST_CHANCE * 2 + breaker::LONGEST);
        bench.until("a dead letter", async || bench.queue.dead_letter(id).await.unwrap().is_some()).await;
        let letter = bench.queue.dead_letter(id).await.unwrap().unwrap();
        assert_eq!((letter.reason, letter.delivery.attempts), (DeadReason::TooOld, 0), "{class:?}");
        let age = letter.died_at.since(accepted);
        assert!(age + LAST_CHANCE >= AGE && age <= AGE + breaker::LONGEST, "{age:?}");
        assert_eq!(bench.parked().await, 0);
    }
}

#[tokio::test]
async fn what_is_too_old_when_it_is_taken_up_dies_uncalled() {
    let (bench, binding, clock) = Bench::aging([]).await;
    let old = bench.park(&binding, false).await;
    let instant = Duration::from_millis(1);
    clock.advance(instant);
    let young = bench.park(&binding, false).await;
    clock.advance(AGE.checked_sub(instant).unwrap());
    bench.start_pump();
    bench.until("both have ended", async || bench.parked().await == 0).await;
    assert_eq!(*lock(&bench.script.calls), [young]);
    let letter = bench.queue.dead_letter(old).await.unwrap().unwrap();
    assert_eq!((letter.reason, letter.attempts.len()), (DeadReason::TooOld, 0));
    assert_eq!(letter.died_at.since(letter.delivery.accepted_at), AGE);
    assert!(bench.queue.dead_letter(young).await.unwrap().is_none());
}
