//! Parked deliveries: every verb.

use super::{super::deliveries::STEP, *};
use crate::domain::clock::{Clock, ManualClock};

#[tokio::test]
async fn parked_delivery_comes_back_when_it_is_due_as_it_was() {
    let f = Fixture::new().await;
    let mut parked = delivery(1, "resize");
    (parked.attempts, parked.tries) = (2, 3);
    let request = Park { attempt: Some(attempt(1)), ..park(parked.clone(), at(10)) };
    assert_eq!(f.queue.park(request).await.unwrap(), Parked::Written);

    assert!(f.due_ids(&function("resize"), at(9)).await.is_empty());
    assert!(f.due_ids(&function("other"), at(10)).await.is_empty());
    let due = f.queue.due(&function("resize"), at(10), &[], 10).await.unwrap();
    assert_eq!(format!("{due:?}"), format!("{:?}", [&parked]));
    assert_eq!(due[0].event.record.get(), parked.event.record.get());
    assert_eq!(f.queue.attempts(parked.id).await.unwrap(), [attempt(1)]);
}

#[tokio::test]
async fn due_gives_the_oldest_first_and_leaves_out_what_runs() {
    let f = Fixture::new().await;
    let ids: Vec<_> = (0..5).map(|n| delivery(n, "f").id).collect();
    for (n, due) in [(0, 5), (1, 1), (2, 3), (3, 1), (4, 99)] {
        f.queue.park(park(delivery(n, "f"), at(due))).await.unwrap();
    }
    assert_eq!(f.due_ids(&function("f"), at(50)).await, [ids[1], ids[3], ids[2], ids[0]]);
    let due = f.queue.due(&function("f"), at(50), &[ids[1], ids[2]], 1).await.unwrap();
    assert_eq!(due[0].id, ids[3]);
    assert!(f.queue.due(&function("f"), at(50), &[], 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn parking_what_is_there_changes_nothing() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), at(1))).await.unwrap();
    assert_eq!(f.queue.park(park(delivery(1, "f"), at(9))).await.unwrap(), Parked::AlreadyThere);
    assert_eq!(f.due_ids(&function("f"), at(1)).await.len(), 1);

    f.queue.bury(letter(delivery(2, "f"), at(1))).await.unwrap();
    assert_eq!(f.queue.park(park(delivery(2, "f"), at(1))).await.unwrap(), Parked::AlreadyThere);
    assert!(!f.queue.bury(letter(delivery(2, "f"), at(5))).await.unwrap());
    assert_eq!(f.number("SELECT COUNT(*) FROM delivery").await, 1);
}

#[tokio::test]
async fn delivered_removes_the_event_with_its_last_delivery() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    let two = Delivery::new(Arc::clone(&one.event), binding(2), function("g"), NOW);
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(one.clone(), NOW) }).await.unwrap();
    f.queue.park(park(two.clone(), NOW)).await.unwrap();
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 1);

    assert!(f.queue.delivered(one.id).await.unwrap());
    assert!(!f.queue.delivered(one.id).await.unwrap());
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 1);
    assert_eq!(f.number("SELECT COUNT(*) FROM attempt").await, 0);
    assert!(f.queue.delivered(two.id).await.unwrap());
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 0);
}

#[tokio::test]
async fn retry_puts_off_and_keeps_a_bounded_list_of_attempts() {
    let f = Fixture::with(QueueOptions { max_attempts_kept: 3, ..QueueOptions::default() }).await;
    let id = delivery(1, "f").id;
    assert!(!f.queue.retry(retry(id, at(1), None)).await.unwrap());
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    for second in 1..=5 {
        assert!(f.queue.retry(retry(id, at(second + 1), Some(attempt(second)))).await.unwrap());
    }
    assert_eq!(f.queue.attempts(id).await.unwrap(), [3, 4, 5].map(attempt));
    assert!(f.due_ids(&function("f"), at(5)).await.is_empty());
    let due = f.queue.due(&function("f"), at(6), &[], 1).await.unwrap();
    assert_eq!((due[0].attempts, due[0].tries, due[0].accepted_at), (1, 2, NOW));
}

#[tokio::test]
async fn held_deliveries_are_not_due_and_do_not_age() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), at(5))).await.unwrap();
    f.queue.park(Park { held: true, ..park(delivery(2, "f"), at(5)) }).await.unwrap();
    assert_eq!(f.queue.hold(binding(1), true, at(10)).await.unwrap(), 1);
    assert_eq!(f.queue.hold(binding(1), true, at(20)).await.unwrap(), 0);
    assert!(f.due_ids(&function("f"), at(1_000)).await.is_empty());
    assert_eq!(f.queue.hold(binding(2), false, at(30)).await.unwrap(), 0);

    assert_eq!(f.queue.hold(binding(1), false, at(110)).await.unwrap(), 2);
    assert!(f.due_ids(&function("f"), at(109)).await.is_empty());
    let due = f.queue.due(&function("f"), at(110), &[], 9).await.unwrap();
    // One was held from its 10th second to its 110th, the other from the moment it was accepted.
    let ages: Vec<_> = due.iter().map(|delivery| at(110).since(delivery.accepted_at).as_secs()).collect();
    assert_eq!(ages, [10, 0]);
}

#[tokio::test]
async fn delivery_held_by_its_retry_stands_still_until_it_is_released() {
    let f = Fixture::new().await;
    let id = delivery(1, "f").id;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    f.queue.retry(Retry { held: true, ..retry(id, at(40), None) }).await.unwrap();
    f.queue.hold(binding(1), true, at(60)).await.unwrap();
    f.queue.retry(Retry { held: true, ..retry(id, at(70), None) }).await.unwrap();
    f.queue.hold(binding(1), false, at(100)).await.unwrap();
    let due = f.queue.due(&function("f"), at(100), &[], 9).await.unwrap();
    assert_eq!(due[0].accepted_at, at(60));

    // An attempt that outlives the hold releases it by itself.
    f.queue.hold(binding(1), true, at(100)).await.unwrap();
    f.queue.retry(retry(id, at(110), None)).await.unwrap();
    let due = f.queue.due(&function("f"), at(110), &[], 9).await.unwrap();
    assert_eq!(due[0].accepted_at, at(70));
}

#[tokio::test]
async fn backlog_counts_each_function() {
    let f = Fixture::new().await;
    for (n, name, due, held) in [(1, "f", 7, false), (2, "f", 3, false), (3, "f", 1, true), (4, "g", 2, true)]
    {
        f.queue.park(Park { held, ..park(delivery(n, name), at(due)) }).await.unwrap();
    }
    let of = |name, parked, dues: Option<(i64, i64)>, held| Backlog {
        function: function(name),
        parked,
        earliest_due: dues.map(|(earliest, _)| at(earliest)),
        latest_due: dues.map(|(_, latest)| at(latest)),
        held,
        awaiting: 0,
        oldest: Some(delivery(if name == "f" { 1 } else { 4 }, name).accepted_at),
    };
    assert_eq!(f.queue.backlog().await.unwrap(), [of("f", 2, Some((3, 7)), 1), of("g", 0, None, 1)]);
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 4);
}

#[tokio::test]
async fn what_is_due_too_late_is_brought_forward_but_not_what_is_held_or_of_another_function() {
    let f = Fixture::new().await;
    for (n, name, due, held) in
        [(1, "f", 7, false), (2, "f", 9_000, false), (3, "f", 9_000, true), (4, "g", 9_000, false)]
    {
        f.queue.park(Park { held, ..park(delivery(n, name), at(due)) }).await.unwrap();
    }
    assert_eq!(f.queue.bring_forward(&function("f"), at(3_600), at(1)).await.unwrap(), 1);
    assert_eq!(f.queue.bring_forward(&function("f"), at(3_600), at(1)).await.unwrap(), 0);
    assert_eq!(f.due_ids(&function("f"), at(1)).await, [delivery(2, "f").id]);
    assert_eq!(f.due_ids(&function("f"), at(8_000)).await, [delivery(2, "f").id, delivery(1, "f").id]);
    assert!(f.due_ids(&function("g"), at(8_000)).await.is_empty());
}

#[tokio::test]
async fn more_than_one_step_is_brought_forward_at_once() {
    let f = Fixture::new().await;
    let many = usize::try_from(STEP).unwrap() + 10;
    let parks = (0..many).map(|n| f.queue.park(park(delivery(u32::try_from(n).unwrap(), "f"), at(9_000))));
    futures_util::future::join_all(parks).await;
    assert_eq!(f.queue.bring_forward(&function("f"), at(3_600), NOW).await.unwrap(), many as u64);
    assert_eq!(f.queue.backlog().await.unwrap()[0].latest_due, Some(NOW));
}

#[tokio::test]
async fn the_skew_of_the_clock_outlives_a_restart_while_something_waits() {
    let hour = 3_600_000_000;
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), at(100))).await.unwrap();
    let wall = Arc::new(ManualClock::at(NOW));
    let (steady, mut keeper) = Timekeeper::wind(Arc::new(f.queue.clone()), wall.clone()).await.unwrap();
    wall.jump(at(3_600));
    keeper.keep().await.unwrap();
    assert_eq!((steady.now(), f.queue.skew().await.unwrap()), (NOW, hour));

    let f = f.reopen().await;
    let (steady, _) = Timekeeper::wind(Arc::new(f.queue.clone()), wall.clone()).await.unwrap();
    assert_eq!(steady.now(), NOW, "it goes on where it was");
    f.queue.delivered(delivery(1, "f").id).await.unwrap();
    let (steady, mut keeper) = Timekeeper::wind(Arc::new(f.queue.clone()), wall).await.unwrap();
    assert_eq!(steady.now(), at(3_600), "nothing waits by it");
    keeper.keep().await.unwrap();
    assert_eq!(f.queue.skew().await.unwrap(), 0);
}

#[tokio::test]
async fn dispose_clears_a_binding_but_for_what_runs() {
    let f = Fixture::new().await;
    for n in 0..4 {
        f.queue.park(Park { held: n == 3, ..park(delivery(n, "f"), NOW) }).await.unwrap();
    }
    let other = Delivery::new(event(0, 100), binding(2), function("f"), NOW);
    f.queue.park(park(other.clone(), NOW)).await.unwrap();

    let running = [delivery(0, "f").id];
    assert_eq!(f.queue.dispose(binding(1), Disposal::DeadLetter, &running, at(9)).await.unwrap(), 3);
    let letters =
        f.queue.dead_letters(&LetterQuery { limit: 9, ..Default::default() }).await.unwrap().letters;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|l| l.reason == DeadReason::Unbound && l.died_at == at(9)));
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 1);

    assert_eq!(f.queue.dispose(binding(1), Disposal::Discard, &[], at(9)).await.unwrap(), 1);
    assert_eq!(f.due_ids(&function("f"), NOW).await, [other.id]);
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 4);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let f = Fixture::new().await;
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(delivery(1, "f"), NOW) }).await.unwrap();
    f.queue.bury(letter(delivery(2, "g"), at(2))).await.unwrap();
    f.queue.quarantine(junk(3)).await.unwrap();
    let f = f.reopen().await;
    assert_eq!(f.due_ids(&function("f"), NOW).await, [delivery(1, "f").id]);
    assert_eq!(f.queue.attempts(delivery(1, "f").id).await.unwrap(), [attempt(1)]);
    assert!(f.queue.dead_letter(delivery(2, "g").id).await.unwrap().is_some());
    assert_eq!(f.queue.quarantined(9).await.unwrap()[0].bytes, [3; 100]);
    // The books, too: a known function is not given a second number.
    f.queue.park(park(delivery(5, "f"), NOW)).await.unwrap();
    assert_eq!(f.number("SELECT COUNT(*) FROM function").await, 2);
}

#[tokio::test]
async fn closed_queue_answers_what_was_asked_and_refuses_the_rest() {
    let f = Fixture::new().await;
    let parks: Vec<_> = (0..50).map(|n| f.queue.park(park(delivery(n, "f"), NOW))).collect();
    let (parked, ()) = tokio::join!(futures_util::future::join_all(parks), f.queue.close());
    assert!(parked.into_iter().all(|parked| parked.unwrap() == Parked::Written));
    f.writer.await.unwrap();
    assert!(matches!(f.queue.park(park(delivery(99, "f"), NOW)).await, Err(QueueError::Closed)));
    assert!(matches!(f.queue.backlog().await, Err(QueueError::Closed)));
    f.queue.close().await;
}

#[tokio::test]
async fn queue_whose_writer_died_answers_closed() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    f.writer.abort();
    assert!(f.writer.await.unwrap_err().is_cancelled());
    assert!(matches!(f.queue.delivered(delivery(1, "f").id).await, Err(QueueError::Closed)));
    assert!(matches!(f.queue.due(&function("f"), NOW, &[], 1).await, Err(QueueError::Closed)));
    assert!(matches!(f.queue.usage().await, Err(QueueError::Closed)));
}

pub(super) fn junk(byte: u8) -> Quarantined {
    Quarantined {
        source: "mqtt".into(),
        received_at: NOW,
        reason: "not JSON".into(),
        bytes: vec![byte; 100],
        length: 100,
    }
}

#[tokio::test]
async fn what_is_known_of_a_function_is_kept_written_over_and_forgotten() {
    let f = Fixture::new().await;
    let state = |name, open_until, opened| FunctionState {
        function: function(name),
        open_until,
        opened,
        reason: "platform_fault: no answer".into(),
    };
    f.queue.keep_function_state(function("f"), Some(state("f", at(1), 1))).await.unwrap();
    f.queue.keep_function_state(function("f"), Some(state("f", at(7), 2))).await.unwrap();
    f.queue.keep_function_state(function("g"), Some(state("g", at(3), 1))).await.unwrap();
    f.queue.keep_function_state(function("g"), None).await.unwrap();
    f.queue.keep_function_state(function("never"), None).await.unwrap();
    assert_eq!(f.queue.function_states().await.unwrap(), [state("f", at(7), 2)]);
}
