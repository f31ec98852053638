//! Deliveries that await their result.

use super::*;

fn wait(id: DeliveryId, since: i64, until: i64) -> Wait {
    Wait { id, earlier: 0, tries: 0, since: at(since), until: at(until) }
}

async fn counts(f: &Fixture) -> (u64, u64, u64) {
    let backlog = f.queue.backlog().await.unwrap();
    backlog.first().map_or((0, 0, 0), |one| (one.parked, one.held, one.awaiting))
}

#[tokio::test]
async fn what_awaits_its_result_is_due_at_the_end_of_its_wait_and_survives_a_restart() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    f.queue.park(park(one.clone(), at(0))).await.unwrap();
    assert!(f.queue.wait_for_result(wait(one.id, 1, 60)).await.unwrap());
    let f = f.reopen().await;
    assert!(f.due_ids(&function("f"), at(59)).await.is_empty());
    let due = f.queue.due(&function("f"), at(60), &[], 9).await.unwrap();
    assert_eq!((due[0].awaiting, due[0].tries), (Some(at(1)), 0));
    assert_eq!(f.queue.next_due(&function("f"), &[]).await.unwrap(), Some(at(60)));
    assert_eq!(counts(&f).await, (0, 0, 1));
    let read = f.queue.parked(one.id).await.unwrap().unwrap();
    assert_eq!((read.awaiting, read.event.id, read.function), (Some(at(1)), one.event.id, one.function));
    // Its next attempt awaits nothing yet.
    f.queue.retry(retry(one.id, at(70), Some(attempt(60)))).await.unwrap();
    assert_eq!(f.queue.parked(one.id).await.unwrap().unwrap().awaiting, None);
    assert_eq!(counts(&f).await, (1, 0, 0));
}

#[tokio::test]
async fn numbers_go_on_over_a_replay_and_nothing_of_before_is_recorded_after_it() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    let number = async || f.queue.parked(one.id).await.unwrap().unwrap().number();
    f.queue.park(park(one.clone(), at(0))).await.unwrap();
    assert_eq!(number().await, 1);
    f.queue.dispose(binding(1), Disposal::DeadLetter, &[], at(1)).await.unwrap();
    f.queue.replay(one.id, at(2)).await.unwrap().unwrap();
    assert_eq!(number().await, 2, "the first may have been under way");
    assert!(!f.queue.retry(retry(one.id, at(9), Some(attempt(1)))).await.unwrap());
    assert!(!f.queue.wait_for_result(wait(one.id, 1, 60)).await.unwrap());
    for died in [at(3), at(4)] {
        let letter = letter(Delivery { attempts: 8, tries: 8, ..one.clone() }, died);
        assert!(!f.queue.bury_parked(letter.clone()).await.unwrap() && !f.queue.bury(letter).await.unwrap());
    }
    assert!(f.queue.attempts(one.id).await.unwrap().is_empty());
    let row = f.queue.parked(one.id).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.tries, row.earlier, row.awaiting), (0, 0, 1, None));

    // Three calls, the last of which has buried it.
    let now = Retry { earlier: 1, ..retry(one.id, at(9), Some(attempt(2))) };
    assert!(f.queue.retry(now).await.unwrap());
    assert!(f.queue.bury_parked(letter(Delivery { tries: 3, ..row }, at(10))).await.unwrap());
    f.queue.replay(one.id, at(11)).await.unwrap().unwrap();
    let f = f.reopen().await;
    assert_eq!(f.queue.parked(one.id).await.unwrap().unwrap().number(), 6);
}

#[tokio::test]
async fn nothing_holds_what_awaits_its_result_nor_makes_it_due_early() {
    let f = Fixture::new().await;
    for n in 0..2 {
        f.queue.park(park(delivery(n, "f"), at(0))).await.unwrap();
    }
    f.queue.wait_for_result(wait(delivery(0, "f").id, 1, 60)).await.unwrap();
    assert_eq!(f.queue.hold(binding(1), true, at(2)).await.unwrap(), 1);
    assert_eq!(counts(&f).await, (0, 1, 1));
    assert_eq!(f.queue.hold(binding(1), false, at(3)).await.unwrap(), 1);
    assert_eq!(f.due_ids(&function("f"), at(59)).await, [delivery(1, "f").id]);
    // Held while its call was on the way, and accepted then.
    f.queue.hold(binding(1), true, at(4)).await.unwrap();
    f.queue.wait_for_result(wait(delivery(1, "f").id, 3, 50)).await.unwrap();
    assert_eq!(counts(&f).await, (0, 0, 2));
    assert!(verify::verify(&mut f.sql().await, u64::MAX).await.unwrap().ok);
}

#[tokio::test]
async fn a_report_that_was_first_leaves_nothing_to_record_on() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    f.queue.park(park(one.clone(), at(0))).await.unwrap();
    assert!(f.queue.delivered(one.id).await.unwrap());
    assert!(!f.queue.wait_for_result(wait(one.id, 1, 60)).await.unwrap());
    assert!(!f.queue.retry(retry(one.id, at(70), Some(attempt(60)))).await.unwrap());
    assert!(!f.queue.bury_parked(letter(one.clone(), at(1))).await.unwrap());
    assert!(f.queue.dead_letter(one.id).await.unwrap().is_none());
    assert!(f.queue.parked(one.id).await.unwrap().is_none());
    assert_eq!(
        f.number("SELECT COUNT(*) FROM event").await + f.number("SELECT COUNT(*) FROM attempt").await,
        0
    );
}

#[tokio::test]
async fn unbinding_says_of_a_letter_that_its_result_was_awaited() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    f.queue.park(park(one.clone(), at(0))).await.unwrap();
    f.queue.wait_for_result(wait(one.id, 1, 60)).await.unwrap();
    assert_eq!(f.queue.dispose(binding(1), Disposal::DeadLetter, &[], at(2)).await.unwrap(), 1);
    let letter = f.queue.dead_letter(one.id).await.unwrap().unwrap();
    let (id, at) = (binding(1), at(2));
    let detail = format!(
        "binding {id} was taken back (`unbind`), and cleared here at {at}, while its result was awaited"
    );
    assert_eq!(letter.detail, detail);
    assert_eq!(counts(&f).await, (0, 0, 0));
}

#[tokio::test]
async fn a_success_that_came_late_stands_with_the_dead_letter_once() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    let late = |second| Attempt { class: Class::Ok, ..attempt(second) };
    assert!(!f.queue.came_late(one.id, late(5)).await.unwrap(), "there is no such letter");
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(one.clone(), at(0)) }).await.unwrap();
    assert!(!f.queue.came_late(one.id, late(5)).await.unwrap(), "it is parked");
    assert!(f.queue.bury_parked(letter(one.clone(), at(2))).await.unwrap());
    assert!(!f.queue.bury_parked(letter(one.clone(), at(3))).await.unwrap());
    for second in [5, 6] {
        assert!(f.queue.came_late(one.id, late(second)).await.unwrap());
    }
    assert_eq!(f.queue.dead_letter(one.id).await.unwrap().unwrap().attempts, [attempt(1), late(5)]);
}
