//! Dead letters: made, listed, replayed, discarded.

use super::*;

fn newest(limit: u32) -> LetterQuery {
    LetterQuery { limit, ..LetterQuery::default() }
}

async fn ids(f: &Fixture, query: &LetterQuery) -> Vec<DeliveryId> {
    f.queue.dead_letters(query).await.unwrap().letters.into_iter().map(|letter| letter.delivery.id).collect()
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

    let narrowed = |filter| LetterQuery { filter, ..newest(9) };
    let of_binding = LetterFilter { binding: Some(binding(2)), ..LetterFilter::default() };
    assert_eq!(ids(&f, &narrowed(of_binding)).await, [other.id]);
    let of_platform = LetterFilter { platform: Some("lambda".into()), ..LetterFilter::default() };
    assert_eq!(ids(&f, &narrowed(of_platform.clone())).await, [other.id]);
    let of_function = LetterFilter { function: Some("f".into()), ..of_platform };
    assert_eq!(ids(&f, &narrowed(of_function)).await, [other.id]);
    let of_name = LetterFilter { function: Some("f".into()), ..LetterFilter::default() };
    assert_eq!(ids(&f, &narrowed(of_name)).await.len(), 6);
    let of_time = LetterFilter { since: Some(at(1)), until: Some(at(3)), ..LetterFilter::default() };
    assert_eq!(ids(&f, &narrowed(of_time)).await, [all[2].id, all[1].id]);
    let of_prefix = LetterFilter { key_prefix: Some("in/图片 3".into()), ..LetterFilter::default() };
    assert_eq!(ids(&f, &narrowed(of_prefix)).await, [all[3].id]);
    let of_reason = LetterFilter { reason: Some(DeadReason::TooOld), ..LetterFilter::default() };
    assert!(ids(&f, &narrowed(of_reason.clone())).await.is_empty());
    f.run("UPDATE dead_letter SET reason = 'too_old' WHERE seq = 2").await;
    assert_eq!(ids(&f, &narrowed(of_reason)).await, [all[1].id]);
    let of_bucket = LetterFilter { bucket: Some("elsewhere".into()), ..LetterFilter::default() };
    assert!(ids(&f, &narrowed(of_bucket)).await.is_empty());
}

/// Reads a page, and where it goes on is put into the query.
async fn turn(f: &Fixture, query: &mut LetterQuery) -> Vec<DeliveryId> {
    let page = f.queue.dead_letters(query).await.unwrap();
    query.cursor = page.next;
    page.letters.into_iter().map(|letter| letter.delivery.id).collect()
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_and_a_walk_meets_every_letter_all_the_same() {
    let f = Fixture::new().await;
    let large = |n| Delivery::new(event(n, 1 << 20), binding(1), function("f"), NOW);
    let all: Vec<_> = (0..10).map(large).collect();
    for delivery in &all {
        f.queue.bury(letter(delivery.clone(), NOW)).await.unwrap();
    }
    for (direction, first) in [(Direction::OldestFirst, 0), (Direction::NewestFirst, 9)] {
        let mut query = LetterQuery { direction, ..newest(500) };
        let (mut met, mut pages) = (Vec::new(), Vec::new());
        loop {
            let page = turn(&f, &mut query).await;
            pages.push(page.len());
            met.extend(page);
            if query.cursor.is_none() {
                break;
            }
        }
        assert!(pages.len() > 2 && pages.iter().all(|letters| *letters <= 4), "{pages:?}");
        assert_eq!((met.len(), met[0]), (10, all[first].id));
        assert!(all.iter().all(|delivery| met.contains(&delivery.id)));
    }
}

#[tokio::test]
async fn a_walk_meets_what_stays_once_though_letters_come_and_go_between_its_pages() {
    let f = Fixture::new().await;
    let all: Vec<_> = (0..7).map(|n| delivery(n, "f")).collect();
    for delivery in &all[..6] {
        f.queue.bury(letter(delivery.clone(), NOW)).await.unwrap();
    }
    let mut newest = newest(2);
    assert_eq!(turn(&f, &mut newest).await, [all[5].id, all[4].id]);
    // The mark itself, what was seen, and what is to come next go; something new comes.
    for gone in [5, 4, 3] {
        assert!(f.queue.discard(all[gone].id).await.unwrap());
    }
    f.queue.bury(letter(all[6].clone(), NOW)).await.unwrap();
    assert_eq!(turn(&f, &mut newest).await, [all[2].id, all[1].id]);
    assert_eq!(turn(&f, &mut newest).await, [all[0].id]);
    assert!(newest.cursor.is_none());
    assert_eq!("7-12".parse::<Cursor>().unwrap().to_string(), "7-12");
    assert!("-1-2".parse::<Cursor>().is_err() && "7".parse::<Cursor>().is_err());
}

#[tokio::test]
async fn a_letter_that_dies_again_during_a_replay_of_all_is_not_met_twice() {
    let f = Fixture::new().await;
    let all: Vec<_> = (0..5).map(|n| delivery(n, "f")).collect();
    for delivery in &all {
        f.queue.bury(letter(delivery.clone(), NOW)).await.unwrap();
    }
    let mut query = LetterQuery { direction: Direction::OldestFirst, limit: 2, ..LetterQuery::default() };
    let mut met = Vec::new();
    for turns in 0.. {
        let ids = turn(&f, &mut query).await;
        if let Some(cursor) = query.cursor {
            let left = f.queue.letters_left(&query.filter, cursor).await.unwrap();
            assert_eq!(left, 5_u64.saturating_sub(2 * (turns + 1)));
        }
        // The newest of all is replayed and dead again at once: the highest number is free for a moment.
        for id in &ids {
            f.queue.replay(*id, at(1)).await.unwrap().unwrap();
            let again = f.queue.due(&function("f"), at(1), &[], 9).await.unwrap().pop().unwrap();
            f.queue.bury(letter(again, at(2))).await.unwrap();
        }
        met.extend(ids);
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(met, all.iter().map(|delivery| delivery.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_and_goes_on() {
    let f = Fixture::new().await;
    f.queue.bury(letter(delivery(1, "f"), NOW)).await.unwrap();
    f.run(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) \
         INSERT INTO dead_letter (id, event, binding, function, accepted_at, attempts, tries, replays, weight, \
             reason, detail, died_at) \
         SELECT unhex(printf('%032x', i)), 1, binding, function, 0, 1, 1, 0, 1, 'too_old', '', 0 \
         FROM n, dead_letter WHERE seq = 1",
    )
    .await;
    let filter = LetterFilter { reason: Some(DeadReason::Permanent), ..LetterFilter::default() };
    let mut query = LetterQuery { filter, ..newest(5) };
    let mut turns = 0;
    let found = loop {
        let ids = turn(&f, &mut query).await;
        turns += 1;
        if !ids.is_empty() || query.cursor.is_none() {
            break ids;
        }
    };
    assert_eq!((found, turns), (vec![delivery(1, "f").id], 3));
}

#[tokio::test]
async fn a_letter_given_to_another_binding_is_replayed_under_its_id_by_that() {
    let f = Fixture::new().await;
    let id = delivery(1, "f").id;
    f.queue.bury(letter(delivery(1, "f"), at(1))).await.unwrap();
    assert!(!f.queue.rebind(delivery(2, "f").id, binding(9)).await.unwrap());
    assert!(f.queue.rebind(id, binding(9)).await.unwrap());
    f.queue.replay(id, at(2)).await.unwrap().unwrap();
    let due = f.queue.due(&function("f"), at(2), &[], 9).await.unwrap();
    assert_eq!((due.len(), due[0].id, due[0].binding), (1, id, binding(9)));
    assert!(!f.queue.rebind(id, binding(8)).await.unwrap(), "it is no dead letter now");
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
    let begun = Delivery { accepted_at: at(100), attempts: 0, tries: 0, earlier: 10, ..dead.clone() };
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

#[tokio::test]
async fn quarantined_items_keep_their_numbers_are_tried_and_discarded() {
    let options = QueueOptions { quarantine_items: 2, ..QueueOptions::default() };
    let f = Fixture::with(options).await;
    let item = |n: u8| Quarantined {
        source: "web".into(),
        received_at: NOW,
        reason: "not JSON".into(),
        bytes: vec![n; 300],
        length: 300,
    };
    f.queue.quarantine(item(1)).await.unwrap();
    f.queue.quarantine(item(2)).await.unwrap();
    let page = f.queue.quarantine_page(None, 9).await.unwrap();
    assert_eq!(
        page.iter().map(|item| (item.id, item.what.bytes.len())).collect::<Vec<_>>(),
        [(2, 256), (1, 256)]
    );
    assert_eq!(f.queue.quarantine_item(2).await.unwrap().unwrap().what.bytes, [2; 300]);
    assert!(f.queue.requarantine(1, "still not JSON", at(5)).await.unwrap());
    let tried = f.queue.quarantine_item(1).await.unwrap().unwrap();
    let both = format!("{}; when tried again: still not JSON", item(1).reason);
    assert_eq!((&*tried.what.reason, tried.tries, tried.tried_at), (&*both, 1, Some(at(5))));
    assert!(f.queue.requarantine(1, &item(1).reason, at(6)).await.unwrap());
    assert_eq!(f.queue.quarantine_item(1).await.unwrap().unwrap().what.reason, item(1).reason, "as at first");
    assert!(f.queue.unquarantine(2).await.unwrap());
    assert!(!f.queue.unquarantine(2).await.unwrap() && !f.queue.requarantine(2, "", NOW).await.unwrap());
    // The number of one that is gone is not another's, and its room is free again.
    f.queue.quarantine(item(3)).await.unwrap();
    let f = f.reopen().await;
    let ids: Vec<u64> = f.queue.quarantine_page(None, 9).await.unwrap().iter().map(|item| item.id).collect();
    assert_eq!(ids, [3, 1]);
}
