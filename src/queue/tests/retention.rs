//! Dead letters that are dropped by age and by number, never unannounced.

use std::time::Duration;

use super::*;
use crate::domain::clock::{Clock, ManualClock};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn hours(hours: i64) -> Timestamp {
    at(hours * 3_600)
}

struct Bench {
    f: Fixture,
    clock: Arc<ManualClock>,
    sweeper: Sweeper,
}

impl Bench {
    async fn new(age: Option<Duration>, count: Option<u64>) -> Self {
        let f = Fixture::new().await;
        let clock = Arc::new(ManualClock::at(NOW));
        let retention = Retention { age, count, notice: HOUR };
        let sweeper = Sweeper::new(Arc::new(f.queue.clone()), clock.clone(), retention);
        Self { f, clock, sweeper }
    }

    async fn left(&self) -> i64 {
        self.f.number("SELECT COUNT(*) FROM dead_letter").await
    }

    /// So many letters that died at this moment, numbered from `first`.
    async fn bury(&self, first: u32, count: u32, died_at: Timestamp) {
        for n in first..first + count {
            let dead = DeadLetter { attempts: vec![attempt(1)], ..letter(delivery(n, "f"), died_at) };
            assert!(self.f.queue.bury(dead).await.unwrap());
        }
    }
}

#[tokio::test]
async fn letters_of_age_are_dropped_with_all_that_is_theirs_when_they_were_announced() {
    let mut b = Bench::new(Some(10 * DAY), None).await;
    b.bury(0, 1_200, hours(-11 * 24)).await;
    b.bury(5_000, 3, hours(-1)).await;
    // The event of one is a parked delivery's, too.
    let other = Delivery::new(event(7, 100), binding(2), function("g"), NOW);
    b.f.queue.park(park(other, NOW)).await.unwrap();
    assert_eq!(b.sweeper.pass().await.unwrap(), 0, "a start announces first");
    b.clock.advance(HOUR / 2);
    assert_eq!(b.sweeper.pass().await.unwrap(), 0, "the notice is not over");
    b.clock.advance(HOUR / 2);
    assert_eq!(b.sweeper.pass().await.unwrap(), 1_200);
    assert_eq!((b.left().await, b.f.number("SELECT COUNT(*) FROM event").await), (3, 4));
    assert_eq!(b.f.number("SELECT COUNT(*) FROM attempt").await, 3);
    // From now on everything is announced a day ahead, and goes at its time.
    for _ in 0..10 * 24 - 3 {
        b.clock.advance(HOUR);
        assert_eq!(b.sweeper.pass().await.unwrap(), 0);
    }
    b.clock.advance(2 * HOUR);
    assert_eq!(b.sweeper.pass().await.unwrap(), 3);
}

#[tokio::test]
async fn a_clock_that_jumps_drops_nothing_before_a_new_notice() {
    let mut b = Bench::new(Some(10 * DAY), None).await;
    b.bury(0, 5, NOW).await;
    for _ in 0..3 {
        assert_eq!(b.sweeper.pass().await.unwrap(), 0);
        b.clock.advance(HOUR);
    }
    let before = b.clock.now();
    b.clock.jump(before.plus(365 * DAY));
    assert_eq!(b.sweeper.pass().await.unwrap(), 0, "a year in a moment");
    b.clock.jump(before);
    b.clock.advance(HOUR);
    assert_eq!(b.sweeper.pass().await.unwrap(), 0, "the clock was set right within the notice");
    assert_eq!(b.left().await, 5);
}

#[tokio::test]
async fn beyond_the_greatest_number_the_oldest_go_after_their_notice() {
    let mut b = Bench::new(None, Some(10)).await;
    b.bury(0, 9, NOW).await;
    assert_eq!(b.sweeper.pass().await.unwrap(), 0);
    b.clock.advance(HOUR);
    assert_eq!(b.sweeper.pass().await.unwrap(), 0);
    // A flood between two passes: nobody could have seen it come.
    b.bury(9, 16, NOW).await;
    assert_eq!(b.sweeper.pass().await.unwrap(), 0);
    b.clock.advance(HOUR);
    b.sweeper.pass().await.unwrap();
    b.clock.advance(HOUR);
    b.sweeper.pass().await.unwrap();
    assert_eq!(b.left().await, 10);
    let query = LetterQuery { limit: 99, ..LetterQuery::default() };
    let kept = b.f.queue.dead_letters(&query).await.unwrap().letters;
    assert_eq!(kept.last().unwrap().delivery.id, delivery(15, "f").id, "the oldest are gone");
}

#[tokio::test]
async fn nothing_is_dropped_where_nothing_is_said() {
    let mut b = Bench::new(None, None).await;
    b.bury(0, 5, hours(-24 * 365)).await;
    for _ in 0..5 {
        b.clock.advance(DAY);
        assert_eq!(b.sweeper.pass().await.unwrap(), 0);
    }
    assert_eq!(b.left().await, 5);
}
