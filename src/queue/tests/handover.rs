//! Dead letters handed over to handler functions.

use super::*;

fn handler() -> FunctionRef {
    function("undertaker")
}

fn handover(letter: DeliveryId) -> Handover {
    Handover { letter, function: handler(), now: at(10) }
}

async fn handlers_due(f: &Fixture) -> Vec<Delivery> {
    f.queue.due(&handler(), at(10), &[], 99).await.unwrap()
}

#[tokio::test]
async fn each_letter_is_handed_over_once_whatever_is_done_twice_or_cut_off() {
    let f = Fixture::new().await;
    for n in 0..3 {
        f.queue.bury(letter(delivery(n, "f"), at(1))).await.unwrap();
    }
    let unhanded = f.queue.unhanded(2).await.unwrap();
    let expected =
        |n| UnhandedLetter { id: delivery(n, "f").id, binding: binding(1), platform: "local".into() };
    assert_eq!(unhanded.letters, [expected(0), expected(1)]);
    let letters: Vec<_> = unhanded.letters.iter().map(|letter| handover(letter.id)).collect();
    let upto = unhanded.upto.unwrap();
    assert_eq!(f.queue.hand_over(letters.clone(), upto).await.unwrap(), 2);
    assert_eq!(f.queue.hand_over(letters, upto).await.unwrap(), 0, "as after a crash before the answer");
    let f = f.reopen().await;
    let rest = f.queue.unhanded(9).await.unwrap();
    assert_eq!(rest.letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), [delivery(2, "f").id]);
    let due = handlers_due(&f).await;
    assert_eq!(due.len(), 2);
    assert_eq!(due[0].letter, Some(delivery(0, "f").id));
    assert_eq!((due[0].id, due[0].attempts), (DeliveryId::of_letter(delivery(0, "f").id, at(1)), 0));
    assert_eq!(due[0].event.key, delivery(0, "f").event.key);
}

#[tokio::test]
async fn a_letter_that_is_gone_is_passed_and_one_that_dies_again_is_new() {
    let f = Fixture::new().await;
    let id = delivery(1, "f").id;
    f.queue.bury(letter(delivery(1, "f"), at(1))).await.unwrap();
    let upto = f.queue.unhanded(9).await.unwrap().upto.unwrap();
    f.queue.replay(id, at(2)).await.unwrap().unwrap();
    assert_eq!(f.queue.hand_over(vec![handover(id)], upto).await.unwrap(), 0);
    let replayed = f.queue.parked(id).await.unwrap().unwrap();
    f.queue.bury(letter(replayed, at(3))).await.unwrap();
    let again = f.queue.unhanded(9).await.unwrap();
    assert_eq!((again.letters.len(), again.upto), (1, Some(upto + 1)));
    assert_eq!(f.queue.hand_over(vec![handover(id)], upto + 1).await.unwrap(), 1);
    assert_eq!(handlers_due(&f).await[0].id, DeliveryId::of_letter(id, at(3)));
}

#[tokio::test]
async fn what_is_recorded_late_of_one_hand_over_leaves_the_next_alone() {
    let f = Fixture::new().await;
    let id = delivery(1, "f").id;
    f.queue.bury(letter(delivery(1, "f"), at(1))).await.unwrap();
    f.queue.hand_over(vec![handover(id)], 1).await.unwrap();
    let first = handlers_due(&f).await[0].id;
    // Dropped for good while its handler is being called; and the same event comes again, and dies again.
    assert!(f.queue.discard(id).await.unwrap());
    f.queue.bury(letter(delivery(1, "f"), at(2))).await.unwrap();
    f.queue.hand_over(vec![handover(id)], 2).await.unwrap();
    f.queue.delivered(first).await.unwrap();
    let due = handlers_due(&f).await;
    assert_eq!((due.len(), due[0].id, due[0].letter), (1, DeliveryId::of_letter(id, at(2)), Some(id)));
}

#[tokio::test]
async fn nothing_makes_a_dead_letter_of_a_delivery_to_a_handler() {
    let f = Fixture::new().await;
    for n in 0..2 {
        f.queue.bury(letter(delivery(n, "f"), at(1))).await.unwrap();
    }
    let letters = vec![handover(delivery(0, "f").id), handover(delivery(1, "f").id)];
    f.queue.hand_over(letters, 2).await.unwrap();
    let due = handlers_due(&f).await;
    assert!(!f.queue.bury(letter(due[0].clone(), at(11))).await.unwrap());
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 1);
    assert_eq!(f.queue.dispose(binding(1), Disposal::DeadLetter, &[], at(12)).await.unwrap(), 1);
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 0);
    assert_eq!(f.number("SELECT COUNT(*) FROM dead_letter").await, 2);
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 2);
}

#[tokio::test]
async fn a_full_file_keeps_letters_to_be_handed_over_later() {
    let options =
        QueueOptions { max_bytes: 1 << 20, dead_letter_reserve: 1 << 19, ..QueueOptions::default() };
    let f = Fixture::with(options).await;
    let mut buried = 0;
    while f
        .queue
        .bury(letter(Delivery::new(event(buried, 8_000), binding(1), function("f"), NOW), at(1)))
        .await
        .is_ok()
    {
        buried += 1;
    }
    let unhanded = f.queue.unhanded(500).await.unwrap();
    let letters: Vec<_> = unhanded.letters.iter().map(|letter| handover(letter.id)).collect();
    let error = f.queue.hand_over(letters.clone(), unhanded.upto.unwrap()).await.unwrap_err();
    assert!(matches!(error, QueueError::Full { .. }), "{error}");
    // What found room is not handed over again and again while there is none for the others.
    let handed = handlers_due(&f).await;
    let rest = f.queue.unhanded(500).await.unwrap();
    assert!(!handed.is_empty() && !rest.letters.is_empty(), "{} {}", handed.len(), rest.letters.len());
    assert_eq!(handed.len() + rest.letters.len(), buried as usize);
    f.queue.delivered(handed[0].id).await.unwrap();
    let again: Vec<_> = rest.letters.iter().map(|letter| handover(letter.id)).collect();
    f.queue.hand_over(again, rest.upto.unwrap()).await.unwrap_err();
    assert!(handlers_due(&f).await.iter().all(|due| due.id != handed[0].id));
    for letter in unhanded.letters.iter().take(buried as usize / 2) {
        f.queue.discard(letter.id).await.unwrap();
    }
    f.queue.hand_over(letters, unhanded.upto.unwrap()).await.unwrap();
    assert!(f.queue.unhanded(500).await.unwrap().upto.is_none());
}
