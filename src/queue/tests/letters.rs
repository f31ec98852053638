//! Dead letters: made, listed, replayed, discarded.

use super::*;

fn newest(limit: u32) -> DeadLetterQuery {
    DeadLetterQuery { limit, ..DeadLetterQuery::default() }
}

async fn ids(f: &Fixture, query: &DeadLetterQuery) -> Vec<DeliveryId> {
    f.queue.dead_letters(query).await.unwrap().into_iter().map(|letter| letter.delivery.id).collect()
}

#[tokio::test]
async fn burying_a_parked_delivery_moves_it_with_its_attempts() {
    let f = Fixture::new().await;
    let parked = delivery(1, "f");
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(parked.clone(), NOW) }).await.unwrap();
    // The letter names one attempt that is kept already and one that is new.
    let dead = DeadLetter { attempts: vec![attempt(1), attempt(2)], ..letter(parked.clone(), at(3)) };
    assert!(f.queue.bury(dead).await.unwrap());
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 0);
    let read = f.queue.dead_letter(parked.id).await.unwrap().unwrap();
    assert_eq!(read.attempts, [attempt(1), attempt(2)]);
    assert_eq!(
        (read.reason, read.died_at, &*read.detail),
        (DeadReason::Permanent, at(3), "404 no such function")
    );
    assert_eq!(format!("{:?}", read.delivery), format!("{parked:?}"));
    assert!(f.queue.dead_letter(delivery(2, "f").id).await.unwrap().is_none());
}

#[tokio::test]
async fn pages_go_from_the_newest_back_and_can_be_narrowed() {
    let f = Fixture::new().await;
    let all: Vec<_> = (0..5).map(|n| delivery(n, "f")).collect();
    for (second, delivery) in (0..).zip(&all) {
        f.queue.bury(letter(delivery.clone(), at(second))).await.unwrap();
    }
    let elsewhere = FunctionRef { platform: "lambda".into(), name: "f".into() };
    let other = Delivery::new(event(9, 1), binding(2), elsewhere, NOW);
    f.queue.bury(letter(other.clone(), at(9))).await.unwrap();

    assert_eq!(ids(&f, &newest(2)).await, [other.id, all[4].id]);
    let next = DeadLetterQuery { before: Some(all[4].id), ..newest(2) };
    assert_eq!(ids(&f, &next).await, [all[3].id, all[2].id]);
    let of_binding = DeadLetterQuery { binding: Some(binding(1)), before: Some(all[2].id), ..newest(9) };
    assert_eq!(ids(&f, &of_binding).await, [all[1].id, all[0].id]);
    let of_platform = DeadLetterQuery { platform: Some("lambda".into()), ..newest(9) };
    assert_eq!(ids(&f, &of_platform).await, [other.id]);

    // A mark that is gone begins again rather than hiding what is left.
    f.queue.discard(all[4].id).await.unwrap();
    assert_eq!(ids(&f, &next).await, [other.id, all[3].id]);
}

#[tokio::test]
async fn replayed_letter_begins_anew_under_its_old_id_once() {
    let f = Fixture::new().await;
    let dead = Delivery { attempts: 8, tries: 9, ..delivery(1, "f") };
    let id = dead.id;
    f.queue.bury(DeadLetter { attempts: vec![attempt(1)], ..letter(dead.clone(), at(2)) }).await.unwrap();

    let twice = tokio::join!(f.queue.replay(id, at(100)), f.queue.replay(id, at(100)));
    assert_eq!((twice.0.unwrap(), twice.1.unwrap()), (Some(function("f")), None));
    let due = f.queue.due(&function("f"), at(100), &[], 9).await.unwrap();
    assert_eq!(due.len(), 1);
    let begun = Delivery { accepted_at: at(100), attempts: 0, tries: 0, ..dead.clone() };
    assert_eq!(format!("{:?}", due[0]), format!("{begun:?}"));
    assert!(f.queue.attempts(id).await.unwrap().is_empty());
    assert!(f.queue.dead_letter(id).await.unwrap().is_none());

    f.queue.bury(letter(due[0].clone(), at(101))).await.unwrap();
    assert_eq!(f.queue.dead_letter(id).await.unwrap().unwrap().replays, 1);
}

#[tokio::test]
async fn discarded_letter_takes_its_event_and_attempts_along() {
    let f = Fixture::new().await;
    let dead = delivery(1, "f");
    f.queue.bury(DeadLetter { attempts: vec![attempt(1)], ..letter(dead.clone(), at(2)) }).await.unwrap();
    assert!(f.queue.discard(dead.id).await.unwrap());
    assert!(!f.queue.discard(dead.id).await.unwrap());
    assert_eq!(f.number("SELECT (SELECT COUNT(*) FROM event) + (SELECT COUNT(*) FROM attempt)").await, 0);
}

#[tokio::test]
async fn settling_a_dead_letter_as_a_delivery_does_nothing_to_it() {
    let f = Fixture::new().await;
    let dead = delivery(1, "f");
    f.queue.bury(DeadLetter { attempts: vec![attempt(1)], ..letter(dead.clone(), at(2)) }).await.unwrap();
    assert!(!f.queue.delivered(dead.id).await.unwrap());
    assert!(!f.queue.retry(retry(dead.id, at(5), Some(attempt(5)))).await.unwrap());
    assert_eq!(f.queue.dead_letter(dead.id).await.unwrap().unwrap().attempts, [attempt(1)]);
}
