//! What stands in the file: the stored form of events, rows that cannot be read, versions of the schema.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// As the first version wrote it. Later ones must read it.
const GOLDEN: &str = r#"{"id":"922530bf9d73a357ca532367f32a2f0e","storage":"default","bucket":"photos","key":"in/图片 一.jpg","name":"s3:ObjectCreated:Put","time":"2025-11-21T15:46:40.000000Z","size":7,"etag":"abc","content_type":"image/jpeg","version_id":"null","sequencer":"187A","principal":"alice","user_metadata":{"X-Amz-Meta-A":"b"},"record":{"b": 1,  "a":[ ]}}"#;

/// The least that an event may consist of.
const SPARSE: &str = r#"{"id":"922530bf9d73a357ca532367f32a2f0e","storage":"default","bucket":"photos","key":"","name":"s3:BucketCreated:*","time":"2025-11-21T15:46:40.000000Z","record":{}}"#;

#[test]
fn stored_event_is_read_and_written_as_the_first_version_did() {
    let event: Event = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(event.record.get(), r#"{"b": 1,  "a":[ ]}"#);
    assert_eq!((event.time, event.size, &*event.key), (NOW, Some(7), "in/图片 一.jpg"));
    assert_eq!(serde_json::to_string(&event).unwrap(), GOLDEN);
    let event: Event = serde_json::from_str(SPARSE).unwrap();
    assert_eq!((event.size, &*event.principal, event.user_metadata.len()), (None, "", 0));
}

#[tokio::test]
async fn stored_event_of_the_first_version_is_due() {
    let f = Fixture::new().await;
    let parked = delivery(1, "f");
    f.queue.park(park(parked.clone(), NOW)).await.unwrap();
    let sql = "UPDATE event SET payload = ?1";
    sqlx::query(sql).bind(GOLDEN).execute(&mut f.sql().await).await.unwrap();
    let due = f.queue.due(&function("f"), NOW, &[], 9).await.unwrap();
    assert_eq!(serde_json::to_string(&*due[0].event).unwrap(), GOLDEN);
}

#[tokio::test]
async fn unreadable_rows_go_to_the_quarantine_and_keep_nobody_back() {
    let f = Fixture::new().await;
    for n in 0..6 {
        f.queue.park(park(delivery(n, "f"), at(i64::from(n)))).await.unwrap();
    }
    f.run("UPDATE event SET payload = 'no JSON' WHERE seq = 1").await;
    f.run("UPDATE delivery SET tries = -1 WHERE seq = 2").await;
    f.run("DELETE FROM event WHERE seq = 3").await;
    f.run("UPDATE event SET payload = CAST(x'7bff' AS TEXT) WHERE seq = 4").await;

    // The first four are all that fits: they are moved away, and the next come.
    let due = f.queue.due(&function("f"), at(99), &[], 4).await.unwrap();
    assert_eq!(due.iter().map(|d| d.id).collect::<Vec<_>>(), [4, 5].map(|n| delivery(n, "f").id));
    let quarantined = f.queue.quarantined(9).await.unwrap();
    let reasons: Vec<_> = quarantined.iter().rev().map(|item| item.reason.clone()).collect();
    assert_eq!(reasons.len(), 4);
    let row = format!("row {}", delivery(0, "f").id);
    assert!(
        reasons[0].contains("`event`") && reasons[0].contains(&row) && reasons[0].contains("`payload`"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("`delivery`") && reasons[1].contains("`tries`"), "{reasons:?}");
    assert!(reasons[2].contains("missing"), "{reasons:?}");
    assert_eq!(quarantined[3].bytes, b"no JSON");
    assert_eq!(quarantined[0].bytes, b"{\xff");
    assert_eq!(f.number("SELECT COUNT(*) FROM delivery").await, 2);
}

#[tokio::test]
async fn unreadable_letter_is_named_and_leaves_the_list() {
    let f = Fixture::new().await;
    for n in 0..3 {
        f.queue.bury(letter(delivery(n, "f"), at(1))).await.unwrap();
    }
    f.run("UPDATE dead_letter SET reason = 'boredom' WHERE seq = 3").await;
    let error = f.queue.dead_letter(delivery(2, "f").id).await.unwrap_err();
    assert!(matches!(&error, QueueError::Corrupt { table: "dead_letter", column: "reason", .. }), "{error}");
    let query = LetterQuery { limit: 9, ..LetterQuery::default() };
    assert_eq!(f.queue.dead_letters(&query).await.unwrap().letters.len(), 2);
    assert_eq!(f.queue.quarantined(9).await.unwrap().len(), 1);
    assert!(f.queue.dead_letter(delivery(2, "f").id).await.unwrap().is_none());
}

#[tokio::test]
async fn unreadable_attempt_is_an_error_with_its_place() {
    let f = Fixture::new().await;
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(delivery(1, "f"), NOW) }).await.unwrap();
    f.run("UPDATE attempt SET class = 'lucky'").await;
    let error = f.queue.attempts(delivery(1, "f").id).await.unwrap_err();
    assert!(matches!(&error, QueueError::Corrupt { table: "attempt", column: "class", .. }), "{error}");
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), 1);

    // The letter is worth more than the attempt.
    f.queue.bury(letter(delivery(1, "f"), NOW)).await.unwrap();
    assert_eq!(f.queue.dead_letter(delivery(1, "f").id).await.unwrap().unwrap().attempts, []);
}

#[tokio::test]
async fn file_is_private_and_has_the_modes_it_needs() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let mode = f.dir.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(f.number("PRAGMA auto_vacuum").await, 2);
    assert_eq!(f.number("PRAGMA synchronous").await, 2);
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut f.sql().await).await.unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn schema_of_another_version_is_refused() {
    let f = Fixture::new().await;
    f.run(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', 1, x'00', 0)",
    )
    .await;
    let error = SqliteQueue::open(&f.path(), &f.options).await.unwrap_err();
    assert!(matches!(error, QueueError::Newer { version: 9999 }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let options = QueueOptions { migrate: false, ..QueueOptions::default() };
    let error = SqliteQueue::open(&dir.path().join("queue.db"), &options).await.unwrap_err();
    assert!(matches!(error, QueueError::Older { missing: 1 }), "{error}");
}
