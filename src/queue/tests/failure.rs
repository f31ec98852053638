//! A disk that fails: the right error, nothing lost, and going on when it is well again.

use std::{os::unix::fs::FileExt, time::Duration};

use futures_util::future::join_all;
use sqlx::Connection;

use super::*;

#[tokio::test]
async fn batch_that_cannot_be_written_fails_whole_and_the_next_begins_anew() {
    let options = QueueOptions { busy_timeout: Duration::from_millis(50), ..QueueOptions::default() };
    let f = Fixture::with(options).await;
    f.queue.park(park(delivery(0, "f"), NOW)).await.unwrap();
    let mut other = f.sql().await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for result in join_all((1..5).map(|n| f.queue.park(park(delivery(n, "f"), NOW)))).await {
        assert!(matches!(&result, Err(QueueError::Failed { verb: "park", .. })), "{result:?}");
    }
    // Readers are not concerned.
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), 1);
    lock.rollback().await.unwrap();
    assert_eq!(f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap(), Parked::Written);
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), 2);
}

#[tokio::test]
async fn readers_that_connect_while_the_file_is_locked_do_not_wait() {
    let options = QueueOptions { busy_timeout: Duration::from_mins(10), ..QueueOptions::default() };
    let f = Fixture::with(options).await;
    f.queue.park(park(delivery(0, "f"), NOW)).await.unwrap();
    let mut other = f.sql().await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    // As many at once as there are readers, and more.
    let function = function("f");
    let reads = join_all((0..8).map(|_| f.due_ids(&function, NOW)));
    let read =
        tokio::time::timeout(Duration::from_secs(30), reads).await.expect("a reader waited for the lock");
    assert!(read.iter().all(|due| due.len() == 1));
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn nothing_is_safe_in_a_file_that_was_removed_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    let (queue, writer) = SqliteQueue::open(&path, &QueueOptions::default()).await.unwrap();
    let writer = tokio::spawn(writer.run());
    assert_eq!(queue.park(park(delivery(0, "f"), NOW)).await.unwrap(), Parked::Written);
    std::fs::remove_file(&path).unwrap();
    let removed = queue.park(park(delivery(1, "f"), NOW)).await;
    assert!(matches!(&removed, Err(QueueError::Gone { .. })), "{removed:?}");
    // What becomes of its rows is written into it all the same, and that does not say that all is well.
    assert!(queue.retry(retry(delivery(0, "f").id, at(9), None)).await.unwrap());
    assert!(matches!(queue.trouble(), Some(QueueError::Gone { .. })), "{:?}", queue.trouble());
    std::fs::write(&path, "").unwrap();
    let replaced = queue.park(park(delivery(1, "f"), NOW)).await;
    assert!(matches!(&replaced, Err(QueueError::Gone { .. })), "{replaced:?}");
    queue.close().await;
    writer.await.unwrap();
}

#[tokio::test]
async fn disk_without_room_fails_the_batch_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let options = QueueOptions::default();
    let path = dir.path().join("queue.db");
    open::prepare_file(&path).unwrap();
    // SQLite itself says "database or disk is full" at this many pages.
    let connect = connect_options(&path, &options).pragma("max_page_count", "120");
    let (queue, writer) = SqliteQueue::open_with(connect, &options).await.unwrap();
    let writer = tokio::spawn(writer.run());
    let mut parked = Vec::new();
    let error = loop {
        let n = u32::try_from(parked.len()).unwrap();
        let delivery = Delivery::new(event(n, 10_000), binding(1), function("f"), NOW);
        let id = delivery.id;
        match queue.park(park(delivery, NOW)).await {
            Ok(_) => parked.push(id),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, QueueError::Failed { verb: "park", source } if source.to_string().contains("full")),
        "{error:?}"
    );
    assert!(parked.len() > 10);
    // Settling what is there makes room again.
    assert!(queue.delivered(parked[0]).await.unwrap());
    assert!(queue.delivered(parked[1]).await.unwrap());
    let last = Delivery::new(event(999, 100), binding(1), function("f"), NOW);
    assert_eq!(queue.park(park(last, NOW)).await.unwrap(), Parked::Written);
    assert_eq!(queue.due(&function("f"), NOW, &[], 999).await.unwrap().len(), parked.len() - 2 + 1);
    queue.close().await;
    writer.await.unwrap();
}

#[tokio::test]
async fn damage_that_a_reader_of_letters_meets_holds_the_queue_back() {
    let f = Fixture::new().await;
    for n in 0..3 {
        f.queue.bury(letter(delivery(n, "f"), NOW)).await.unwrap();
    }
    let root = f.number("SELECT rootpage FROM sqlite_schema WHERE name = 'dead_letter'").await;
    let size = f.number("PRAGMA page_size").await;
    f.queue.close().await;
    f.writer.await.unwrap();
    let path = f.dir.path().join("queue.db");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 512], u64::try_from((root - 1) * size).unwrap()).unwrap();

    let (queue, writer) = SqliteQueue::open(&path, &f.options).await.unwrap();
    let writer = tokio::spawn(writer.run());
    assert!(queue.trouble().is_none(), "nobody has read it");
    let error = queue.dead_letters(&LetterQuery::default()).await.unwrap_err();
    assert!(error.remedy().contains("it is damaged"), "{error:?}");
    assert!(queue.trouble().is_some(), "readiness says it");
    queue.park(park(delivery(9, "f"), NOW)).await.unwrap_err();
    queue.close().await;
    writer.await.unwrap();
}

#[tokio::test]
async fn request_at_fault_fails_alone() {
    let f = Fixture::new().await;
    // Stands for whatever a single statement may stumble over.
    f.run(
        "CREATE TRIGGER stumble BEFORE INSERT ON delivery WHEN NEW.tries = 13
         BEGIN SELECT raise(ABORT, 'stumbled'); END",
    )
    .await;
    let results = join_all((0..64).map(|n| {
        let tries = if n == 40 { 13 } else { 0 };
        f.queue.park(park(Delivery { tries, ..delivery(n, "f") }, NOW))
    }))
    .await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n == 40, "{n}: {result:?}");
    }
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), 63);
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 63);
}

#[tokio::test]
async fn file_that_is_no_database_is_an_error_of_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    std::fs::write(&path, "not a database, but long enough to look at".repeat(100)).unwrap();
    let error = SqliteQueue::open(&path, &QueueOptions::default()).await.unwrap_err();
    assert!(matches!(&error, QueueError::Failed { verb: "open", .. }), "{error:?}");
    let missing = dir.path().join("nowhere/queue.db");
    let error = SqliteQueue::open(&missing, &QueueOptions::default()).await.unwrap_err();
    assert!(matches!(&error, QueueError::Failed { verb: "open", .. }), "{error:?}");
}
