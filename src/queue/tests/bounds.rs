//! Bounds: the file's size, a function's share, the quarantine; and that space and time stay in proportion.

use std::time::Duration;

use futures_util::future::join_all;

use super::{super::writer::MAX_RETRIES, verbs::junk, *};

fn small() -> QueueOptions {
    QueueOptions {
        max_bytes: 1 << 20,
        function_share: 1.0,
        dead_letter_reserve: 256 << 10,
        ..QueueOptions::default()
    }
}

fn large(n: u32, name: &str) -> Delivery {
    Delivery::new(event(n, 10_000), binding(1), function(name), NOW)
}

#[tokio::test]
async fn full_file_refuses_parks_keeps_room_for_dead_letters_and_loses_nothing() {
    let f = Fixture::with(small()).await;
    let mut parked = 0;
    let full = loop {
        match f.queue.park(park(large(parked, "f"), NOW)).await {
            Ok(Parked::Written) => parked += 1,
            other => break other,
        }
        assert!(parked < 200, "the file never became full");
    };
    assert!(matches!(full, Err(QueueError::Full { .. })), "{full:?}");
    assert!(parked > 30, "full after {parked}");

    let mut buried = 0;
    while f.queue.bury(letter(large(1_000 + buried, "f"), NOW)).await.is_ok() {
        buried += 1;
        assert!(buried < 200, "the reserve never became full");
    }
    assert!(buried > 10, "{buried} dead letters in the reserve");
    let (used, bound) = f.queue.usage().await.unwrap();
    assert!(used <= bound && bound == 1 << 20, "{used} of {bound}");

    // What is parked can still end, either way, and makes room.
    assert!(f.queue.bury(letter(large(0, "f"), NOW)).await.unwrap());
    for n in 1..20 {
        assert!(f.queue.delivered(large(n, "f").id).await.unwrap());
        assert!(f.queue.discard(large(1_000 + n, "f").id).await.is_ok());
    }
    assert_eq!(f.queue.park(park(large(500, "f"), NOW)).await.unwrap(), Parked::Written);
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), usize::try_from(parked).unwrap() - 20 + 1);
}

#[tokio::test]
async fn function_beyond_its_share_overflows_and_others_do_not() {
    let f = Fixture::with(QueueOptions { function_share: 0.1, ..small() }).await;
    let parks = (0..15).map(|n| f.queue.park(Park { attempt: Some(attempt(2)), ..park(large(n, "f"), NOW) }));
    let parked: Vec<_> = join_all(parks).await.into_iter().map(Result::unwrap).collect();
    let written = parked.iter().filter(|parked| **parked == Parked::Written).count();
    assert!((5..=10).contains(&written), "{parked:?}");
    assert!(parked[written..].iter().all(|parked| *parked == Parked::Overflow), "{parked:?}");
    assert_eq!(f.queue.park(park(large(50, "g"), NOW)).await.unwrap(), Parked::Written);

    let query = LetterQuery { limit: 99, ..LetterQuery::default() };
    let letters = f.queue.dead_letters(&query).await.unwrap().letters;
    assert_eq!(letters.len(), 15 - written);
    assert_eq!((letters[0].reason, &letters[0].attempts), (DeadReason::Overflow, &vec![attempt(2)]));

    // The share is counted from the file, so it outlives a restart; and it is given back.
    let f = f.reopen().await;
    assert_eq!(f.queue.park(park(large(60, "f"), NOW)).await.unwrap(), Parked::Overflow);
    f.queue.delivered(large(0, "f").id).await.unwrap();
    assert_eq!(f.queue.park(park(large(61, "f"), NOW)).await.unwrap(), Parked::Written);
}

#[tokio::test]
async fn endless_retries_do_not_use_up_a_share() {
    let f = Fixture::with(QueueOptions { max_attempts_kept: 3, ..QueueOptions::default() }).await;
    let id = delivery(1, "f").id;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    let mut weights = Vec::new();
    for tries in 1..=10_u32 {
        let retry = Retry { tries, ..retry(id, NOW, Some(attempt(i64::from(tries)))) };
        f.queue.retry(retry).await.unwrap();
        weights.push(f.number("SELECT weight FROM delivery").await);
    }
    assert!(weights[0] < weights[2] && weights[2] == weights[9], "{weights:?}");
    // A fresh reading of the books agrees: nothing is left once it is delivered.
    f.queue.delivered(id).await.unwrap();
    let f = f.reopen().await;
    assert!(f.queue.backlog().await.unwrap().is_empty());
    assert_eq!(f.number("SELECT COUNT(*) FROM function").await, 0);
}

#[tokio::test]
async fn quarantine_drops_its_oldest() {
    let f = Fixture::with(QueueOptions { quarantine_items: 3, ..small() }).await;
    for byte in 1..=5 {
        f.queue.quarantine(junk(byte)).await.unwrap();
    }
    let kept: Vec<_> = f.queue.quarantined(9).await.unwrap().iter().map(|item| item.bytes[0]).collect();
    assert_eq!(kept, [5, 4, 3]);

    let f = Fixture::with(QueueOptions { quarantine_bytes: 100_000, ..small() }).await;
    for byte in 1..=3 {
        let large = Quarantined { bytes: vec![byte; 200_000], length: 200_000, ..junk(byte) };
        f.queue.quarantine(large).await.unwrap();
    }
    let kept = f.queue.quarantined(9).await.unwrap();
    assert_eq!((kept.len(), kept[0].bytes.len(), kept[0].length), (1, 64 << 10, 200_000));
}

#[tokio::test]
async fn what_made_room_in_quarantine_is_told_with_its_source_and_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = Arc::new(std::fs::File::create(&path).unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log).finish();
    let _told_here = tracing::subscriber::set_default(subscriber);
    let f = Fixture::with(QueueOptions { quarantine_items: 3, ..small() }).await;
    let told = || {
        let log = std::fs::read_to_string(&path).unwrap();
        log.lines().filter(|line| line.contains("were dropped")).map(str::to_owned).collect::<Vec<_>>()
    };
    for byte in 1..=3 {
        f.queue.quarantine(junk(byte)).await.unwrap();
    }
    assert_eq!(told(), [""; 0]);
    for byte in 4..=6 {
        f.queue.quarantine(junk(byte)).await.unwrap();
    }
    let told = told();
    assert_eq!(told.len(), 1, "{told:?}");
    for part in ["WARN", "count=1", "source=\"mqtt\"", "bound=3", "`quarantine_items` in [queue]"] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
}

#[tokio::test]
async fn space_is_given_back_after_a_burst() {
    let f = Fixture::new().await;
    join_all((0..1_000).map(|n| f.queue.park(park(large(n, "f"), NOW)))).await;
    let burst = f.number("PRAGMA page_count").await;
    assert!(burst > 2_500, "{burst} pages");
    for was in join_all((0..1_000).map(|n| f.queue.delivered(large(n, "f").id))).await {
        assert!(was.unwrap());
    }
    for _ in 0..100 {
        if f.number("PRAGMA page_count").await < 400 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("still {} pages after ten seconds", f.number("PRAGMA page_count").await);
}

#[tokio::test]
async fn large_requests_go_in_steps_and_reach_every_row() {
    let f = Fixture::new().await;
    let count = u32::try_from(2 * deliveries::STEP + 7).unwrap();
    join_all((0..count).map(|n| f.queue.park(park(delivery(n, "f"), NOW)))).await;
    assert_eq!(f.queue.hold(binding(1), true, at(1)).await.unwrap(), u64::from(count));
    assert_eq!(f.queue.backlog().await.unwrap()[0].held, u64::from(count));
    assert_eq!(f.queue.hold(binding(1), false, at(2)).await.unwrap(), u64::from(count));
    let disposed = f.queue.dispose(binding(1), Disposal::DeadLetter, &[], at(3)).await.unwrap();
    assert_eq!(disposed, u64::from(count));
    assert_eq!(f.number("SELECT COUNT(*) FROM dead_letter").await, i64::from(count));
}

#[tokio::test]
async fn large_requests_share_no_commit_and_let_others_through() {
    let f = Fixture::new().await;
    let rows = u32::try_from(3 * deliveries::STEP).unwrap();
    let parks = (0..2 * rows).map(|n| {
        let binding = binding(1 + u8::from(n >= rows));
        f.queue.park(park(Delivery::new(event(n, 100), binding, function("f"), NOW), NOW))
    });
    join_all(parks).await;
    let (before, done) = (f.queue.commits(), std::cell::RefCell::new(Vec::new()));
    let hold = async |n| {
        assert_eq!(f.queue.hold(binding(n), true, at(1)).await.unwrap(), u64::from(rows));
        done.borrow_mut().push("a hold");
    };
    let park = async {
        let other = Delivery::new(event(9_999_999, 100), binding(3), function("g"), NOW);
        assert_eq!(f.queue.park(park(other, NOW)).await.unwrap(), Parked::Written);
        done.borrow_mut().push("a park");
    };
    tokio::join!(hold(1), hold(2), park);
    assert_eq!(*done.borrow(), ["a park", "a hold", "a hold"]);
    // Three steps and one that finds nothing more, for each.
    assert!(f.queue.commits() - before >= 8, "{} commits", f.queue.commits() - before);
}

#[tokio::test]
async fn a_hold_and_a_release_that_are_asked_for_at_once_both_end() {
    let f = Fixture::new().await;
    let rows = u32::try_from(2 * deliveries::STEP).unwrap();
    join_all((0..rows).map(|n| f.queue.park(park(delivery(n, "f"), NOW)))).await;
    let both =
        async { tokio::join!(f.queue.hold(binding(1), true, at(1)), f.queue.hold(binding(1), false, at(2))) };
    let (held, released) = tokio::time::timeout(Duration::from_mins(2), both).await.unwrap();
    assert_eq!((held.unwrap(), released.unwrap()), (u64::from(rows), u64::from(rows)));
    assert_eq!(f.queue.backlog().await.unwrap()[0].held, 0);
}

#[tokio::test]
async fn what_senders_wait_for_does_not_wait_for_all_retries() {
    let f = Fixture::new().await;
    let many = u32::try_from(8 * MAX_RETRIES).unwrap();
    join_all((0..many).map(|n| f.queue.park(park(delivery(n, "f"), NOW)))).await;
    let put_off = std::cell::Cell::new(0);
    let retries = join_all((0..many).map(|n| {
        let (queue, put_off) = (&f.queue, &put_off);
        async move {
            assert!(queue.retry(retry(delivery(n, "f").id, at(9), Some(attempt(1)))).await.unwrap());
            put_off.set(put_off.get() + 1);
        }
    }));
    let park = async {
        f.queue.park(park(delivery(many, "g"), NOW)).await.unwrap();
        put_off.get()
    };
    let (_, before) = tokio::join!(retries, park);
    assert!(before < many / 2, "{before} retries of {many} came before it");
    assert_eq!(put_off.get(), many);
}

#[tokio::test]
async fn due_searches_its_covering_index_whatever_the_queue_holds() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    f.run(
        "CREATE TEMP TABLE n AS
             WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i FROM n;
         INSERT INTO event (seq, id, payload) SELECT i, randomblob(16), '{}' FROM n;
         INSERT INTO delivery (id, event, binding, function, accepted_at, due, held, held_since, attempts,
             tries, replays, weight)
         SELECT randomblob(16), i, randomblob(16), 2 + i % 50, i, i, i % 2, iif(i % 2, i, NULL), 0, 0, 0, 1 FROM n;
         ANALYZE;",
    )
    .await;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", read::DUE));
    let plan: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(explain).fetch_all(&mut f.sql().await).await.unwrap();
    let plan: Vec<_> = plan.into_iter().map(|(.., step)| step).collect();
    let search = "SEARCH delivery USING COVERING INDEX delivery_due (function=? AND held=? AND due<?)";
    assert!(plan.iter().any(|step| step == search), "{plan:#?}");
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
    let scans = plan.iter().filter(|step| step.starts_with("SCAN"));
    assert!(scans.clone().all(|step| step.contains("next") || step.contains("json_each")), "{plan:#?}");
    assert_eq!(f.due_ids(&function("f"), NOW).await, [delivery(1, "f").id]);
}

#[tokio::test]
async fn a_start_and_a_look_at_the_backlog_count_no_rows() {
    let f = Fixture::new().await;
    for sql in [read::BACKLOG, books::Books::FUNCTIONS] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(explain).fetch_all(&mut f.sql().await).await.unwrap();
        let scans: Vec<_> =
            plan.into_iter().map(|(.., step)| step).filter(|step| step.starts_with("SCAN")).collect();
        assert!(scans.iter().all(|step| step.starts_with("SCAN f")), "{scans:#?}");
    }
}

#[tokio::test]
async fn counts_of_an_older_file_are_taken_from_its_rows() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), NOW)).await.unwrap();
    f.queue.park(Park { held: true, ..park(delivery(2, "f"), NOW) }).await.unwrap();
    f.queue.park(park(delivery(3, "g"), NOW)).await.unwrap();
    let backlog = f.queue.backlog().await.unwrap();
    // Back to how the file was before the counts.
    f.run(
        "DROP TRIGGER delivery_parked; DROP TRIGGER delivery_gone; DROP TRIGGER delivery_changed;
         DROP INDEX delivery_of_function;
         ALTER TABLE function DROP COLUMN parked; ALTER TABLE function DROP COLUMN held;
         ALTER TABLE function DROP COLUMN bytes; DELETE FROM _sqlx_migrations WHERE version = 5",
    )
    .await;
    let f = f.reopen().await;
    assert_eq!(f.queue.backlog().await.unwrap(), backlog);
    let verified = verify::verify(&mut f.sql().await, u64::MAX).await.unwrap();
    assert!(verified.ok, "{verified:#?}");
}
