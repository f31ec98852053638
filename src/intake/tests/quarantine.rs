//! What cannot be processed: kept with its bytes, keeping nothing else back, and tried again.

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::*;

#[tokio::test]
async fn what_cannot_be_decoded_is_quarantined_with_its_bytes_and_acknowledged() {
    let bench = Bench::new([]).await;
    let half = body(&["a"]);
    let half = &half[..half.len() / 2];
    assert!(is_acknowledged(bench.take(&patient(Redelivers::Yes), half).await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    assert_eq!((kept.len(), &*kept[0].bytes, &*kept[0].source), (1, half, "minio"));
    assert!(kept[0].reason.contains("JSON"), "{}", kept[0].reason);
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn what_cannot_be_quarantined_stays_with_its_source() {
    let mut bench = Bench::new([]).await;
    bench.without_a_queue().await;
    assert!(!is_acknowledged(bench.take(&patient(Redelivers::Yes), b"{").await).await);
}

#[tokio::test]
async fn a_panic_in_matching_quarantines_its_message_and_no_other() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Panic);
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    assert_eq!(bench.reasons().await, ["matching panicked; see the log"]);
    bench.matches(Matching::All(vec![Arc::clone(&bench.bindings[0])]));
    assert!(is_acknowledged(bench.take(&from, &body(&["c"])).await).await);
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn an_oversized_body_is_quarantined_with_its_beginning_and_its_length() {
    let bench = Bench::new([]).await;
    let long = vec![b'x'; QUARANTINE_BYTES + 9];
    let oversized = |message: &mut Message| message.oversize = Some(5 << 30);
    assert!(is_acknowledged(bench.take_with(&patient(Redelivers::Yes), &long, oversized).await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    assert_eq!((kept[0].bytes.len(), kept[0].length), (QUARANTINE_BYTES, 5 << 30));
}

#[tokio::test]
async fn quarantine_that_takes_its_time_keeps_no_other_message_back() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let file = SqliteConnectOptions::new().filename(bench.folder.path().join("queue.db"));
    let mut other = SqliteConnection::connect_with(&file).await.unwrap();
    let busy = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let (bad, good) = timeout(SOON / 5, async {
        let bad = bench.take(&from, b"{").await;
        (bad, bench.take(&from, &body(&["a"])).await)
    })
    .await
    .expect("a message waited for another's quarantine");
    assert!(is_acknowledged(good).await);
    busy.rollback().await.unwrap();
    assert!(is_acknowledged(bad).await);
    assert_eq!(bench.reasons().await.len(), 1);
}

#[tokio::test]
async fn what_was_quarantined_is_taken_in_when_it_is_understood_and_stays_when_not() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Panic);
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    assert!(is_acknowledged(bench.take(&from, b"{").await).await);
    let kept = bench.queue.quarantined(9).await.unwrap();
    let (bad, good) = (&kept[0], &kept[1]);

    let still = bench.intake.again(good, &from).await;
    assert_eq!(still, Again::Hopeless("matching panicked; see the log".into()));
    bench.matches(Matching::All(bench.bindings.clone()));
    assert_eq!(bench.intake.again(good, &from).await, Again::Taken { events: 2, deliveries: 4 });
    bench.until_called(4).await;
    assert!(matches!(bench.intake.again(bad, &from).await, Again::Hopeless(why) if why.contains("JSON")));
    assert_eq!(bench.reasons().await.len(), 2, "trying again adds nothing");

    // Once more, as after a crash before the item was removed: known, and not fired again.
    assert_eq!(bench.intake.again(good, &from).await, Again::Taken { events: 2, deliveries: 4 });
    assert_eq!(bench.calls().len(), 4);
}

#[tokio::test]
async fn what_was_over_a_low_limit_but_kept_whole_can_be_tried_again() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let bytes = body(&["whole"]);
    let length = bytes.len() as u64;
    let oversized = |message: &mut Message| message.oversize = Some(length);
    assert!(is_acknowledged(bench.take_with(&from, &bytes, oversized).await).await);
    let whole = bench.queue.quarantined(9).await.unwrap().pop().unwrap();
    assert!(whole.reason.contains("max_body") && whole.length == length, "{whole:?}");
    assert_eq!(bench.intake.again(&whole, &from).await, Again::Taken { events: 1, deliveries: 1 });
    bench.until_called(1).await;
    assert_eq!(bench.calls()[0].0, "whole");
}

#[tokio::test]
async fn what_was_cut_cannot_be_tried_again_and_a_row_of_our_own_can() {
    let mut bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let long = vec![b'x'; QUARANTINE_BYTES + 9];
    let oversized = |message: &mut Message| message.oversize = Some(5 << 30);
    assert!(is_acknowledged(bench.take_with(&from, &long, oversized).await).await);
    let cut = bench.queue.quarantined(9).await.unwrap().pop().unwrap();
    assert!(matches!(bench.intake.again(&cut, &from).await, Again::Hopeless(why) if why.contains("first")));

    let event = dialect::decode(&body(&["row"]), &from.storage, from.encoding).unwrap().pop().unwrap();
    let bytes = serde_json::to_vec(&event).unwrap();
    let (length, source) = (bytes.len() as u64, crate::queue::REJECTED_ROWS.to_owned());
    let row = Quarantined { source, bytes, length, ..cut };
    assert_eq!(bench.intake.again(&row, &from).await, Again::Taken { events: 1, deliveries: 1 });
    bench.until_called(1).await;
    assert_eq!(bench.calls()[0].0, "row");

    // Where nothing can be parked, it is not said to be safe.
    bench.without_a_queue().await;
    let event = dialect::decode(&body(&["later"]), &from.storage, from.encoding).unwrap().pop().unwrap();
    let bytes = serde_json::to_vec(&event).unwrap();
    let row = Quarantined { length: bytes.len() as u64, bytes, ..row };
    assert_eq!(bench.intake.again(&row, &from).await, Again::Unsafe);
}
