//! Export, import and the look-over.

use std::path::Path;

use futures_util::future::join_all;
use sqlx::Row;

use super::{
    tables::{LOCAL, TABLES},
    verbs::junk,
    *,
};

/// A queue with something of everything: parked, held, retried, dead, shared events, odd texts, quarantine.
async fn full() -> Fixture {
    let f = Fixture::new().await;
    let second = Delivery::new(event(1, 100), binding(2), function("g"), NOW);
    f.queue.park(Park { attempt: Some(attempt(1)), ..park(delivery(1, "f"), at(5)) }).await.unwrap();
    f.queue.park(park(second, at(2))).await.unwrap();
    f.queue.park(Park { held: true, ..park(delivery(2, "f"), at(1)) }).await.unwrap();
    f.queue.retry(retry(delivery(1, "f").id, at(9), Some(attempt(3)))).await.unwrap();
    for n in [7, 6, 8] {
        let dead = DeadLetter { attempts: vec![attempt(4)], ..letter(delivery(n, "h"), at(6)) };
        f.queue.bury(dead).await.unwrap();
    }
    for byte in 1..=3 {
        f.queue.quarantine(junk(byte)).await.unwrap();
    }
    f.run("UPDATE dead_letter SET detail = 'null' || char(0) || ' and ' || char(10) WHERE seq = 1").await;
    f.run("UPDATE quarantine SET reason = CAST(x'7bff' AS TEXT) WHERE seq = 2").await;
    f
}

/// Everything that travels, without the numbers that only one file knows.
async fn rows_of(path: &Path) -> Vec<String> {
    let mut conn = connect_options(path, &QueueOptions::default()).connect().await.unwrap();
    let mut all = Vec::new();
    for table in &TABLES {
        let columns = table.columns(&mut conn).await.unwrap();
        let rows = sqlx::query(table.select(&columns)).fetch_all(&mut conn).await.unwrap();
        for row in rows {
            let cells = columns.iter().enumerate().map(|(at, column)| match column.kind {
                tables::Kind::Integer => format!("{:?}", row.get::<Option<i64>, _>(at)),
                _ => format!("{:?}", row.get::<Option<Vec<u8>>, _>(at)),
            });
            all.push(format!("{} {}", table.name, cells.collect::<Vec<_>>().join(" ")));
        }
    }
    all
}

/// Ends the queue and gives its directory.
async fn stopped(f: Fixture) -> tempfile::TempDir {
    f.queue.close().await;
    f.writer.await.unwrap();
    f.dir
}

async fn export(dir: &Path) -> (Vec<u8>, Exported) {
    let mut out = Vec::new();
    let queue = OfflineQueue::read(dir, &QueueOptions::default()).await.unwrap();
    let exported = queue.export(&mut out).await.unwrap();
    (out, exported)
}

async fn import(dir: &Path, text: &[u8]) -> Result<Imported, TransferError> {
    OfflineQueue::write(dir, &QueueOptions::default()).await.unwrap().import(text).await
}

fn count(rows: &[Count], table: &str) -> u64 {
    rows.iter().find(|count| count.table == table).unwrap().rows
}

#[tokio::test]
async fn queue_that_is_moved_arrives_whole_and_a_second_time_changes_nothing() {
    let old = stopped(full().await).await;
    let before = rows_of(&old.path().join("queue.db")).await;
    let (text, exported) = export(old.path()).await;
    assert_eq!((exported.left_out, count(&exported.rows, "delivery")), (0, 3));
    assert_eq!((count(&exported.rows, "event"), count(&exported.rows, "dead_letter")), (5, 3));

    let new = tempfile::tempdir().unwrap();
    let imported = import(new.path(), &text).await.unwrap();
    assert_eq!((imported.rows, imported.left), (exported.rows, 0));
    assert_eq!(rows_of(&new.path().join("queue.db")).await, before);
    let again = import(new.path(), &text).await.unwrap();
    assert!(again.rows.iter().all(|count| count.rows == 0), "{again:?}");
    assert_eq!(rows_of(&new.path().join("queue.db")).await, before);
    assert_eq!(rows_of(&old.path().join("queue.db")).await, before);
    // And it is a queue that works.
    let (queue, writer) =
        SqliteQueue::open(&new.path().join("queue.db"), &QueueOptions::default()).await.unwrap();
    let writer = tokio::spawn(writer.run());
    let due = queue.due(&function("f"), at(99), &[], 9).await.unwrap();
    assert_eq!(due.iter().map(|d| (d.id, d.tries)).collect::<Vec<_>>(), [(delivery(1, "f").id, 2)]);
    assert_eq!(queue.attempts(delivery(1, "f").id).await.unwrap(), [attempt(1), attempt(3)]);
    assert!(queue.delivered(delivery(1, "f").id).await.unwrap());
    queue.close().await;
    writer.await.unwrap();
}

#[tokio::test]
async fn letters_that_were_handed_over_there_are_not_handed_over_here() {
    let f = full().await;
    let upto = f.queue.unhanded(2).await.unwrap().upto.unwrap();
    f.queue.hand_over(Vec::new(), upto).await.unwrap();
    let old = stopped(f).await;
    let (text, _) = export(old.path()).await;
    let unhanded = async |dir: &Path| {
        let options = QueueOptions::default();
        let (queue, writer) = SqliteQueue::open(&dir.join("queue.db"), &options).await.unwrap();
        let writer = tokio::spawn(writer.run());
        let letters = queue.unhanded(9).await.unwrap().letters;
        queue.close().await;
        writer.await.unwrap();
        letters.iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    let new = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        import(new.path(), &text).await.unwrap();
        assert_eq!(unhanded(new.path()).await, [delivery(8, "h").id]);
    }
    // Where letters of our own wait, none of them may be passed by.
    let f = Fixture::new().await;
    f.queue.bury(letter(delivery(20, "h"), at(6))).await.unwrap();
    let busy = stopped(f).await;
    import(busy.path(), &text).await.unwrap();
    assert_eq!(unhanded(busy.path()).await.len(), 4);
}

#[tokio::test]
async fn what_is_here_already_is_left_as_it_is() {
    let old = stopped(full().await).await;
    let (text, _) = export(old.path()).await;
    let f = Fixture::new().await;
    // One that is dead there is parked here, one that is parked there is dead here; with other attempts.
    f.queue.park(Park { attempt: Some(attempt(7)), ..park(delivery(7, "h"), at(3)) }).await.unwrap();
    f.queue.bury(DeadLetter { attempts: vec![attempt(8)], ..letter(delivery(1, "f"), at(2)) }).await.unwrap();
    f.queue.park(park(delivery(50, "x"), at(3))).await.unwrap();
    let new = stopped(f).await;
    let imported = import(new.path(), &text).await.unwrap();
    assert_eq!((count(&imported.rows, "delivery"), count(&imported.rows, "dead_letter")), (2, 2));

    let options = QueueOptions::default();
    let (queue, writer) = SqliteQueue::open(&new.path().join("queue.db"), &options).await.unwrap();
    let writer = tokio::spawn(writer.run());
    let due = queue.due(&function("h"), at(99), &[], 9).await.unwrap();
    assert_eq!(due.iter().map(|d| d.id).collect::<Vec<_>>(), [delivery(7, "h").id]);
    assert_eq!(queue.attempts(delivery(7, "h").id).await.unwrap(), [attempt(7)]);
    let dead = queue.dead_letter(delivery(1, "f").id).await.unwrap().unwrap();
    assert_eq!(dead.attempts, [attempt(8)]);
    queue.close().await;
    writer.await.unwrap();
    let verified = OfflineQueue::read(new.path(), &options).await.unwrap().verify().await.unwrap();
    let wrong: Vec<_> = verified.checks.iter().filter(|check| !check.ok).collect();
    // The two texts that the fixture spoiled.
    assert!(wrong.iter().all(|check| check.name == "rows of quarantine"), "{wrong:#?}");
}

#[tokio::test]
async fn what_is_no_whole_export_changes_nothing() {
    let old = stopped(full().await).await;
    let (text, _) = export(old.path()).await;
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let newer = lines[0].replace("\"version\":1", "\"version\":2");
    let newer_schema = lines[0].replace("\"schema\":", "\"schema\":9");
    let other_column = lines[0].replace("\"replays\"", "\"horoscope\"");
    let rest = &text[lines[0].len()..];
    let changed = text.replacen("alice", "mallo", 1);
    let fewer: Vec<&str> = text.lines().filter(|line| !line.starts_with("[\"attempt\"")).collect();
    let fewer = fewer.join("\n") + "\n";
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "cut short"),
        (text[..text.len() / 2].to_owned(), "cut short"),
        (text[..text.len() - 1].to_owned(), "cut short"),
        (lines[..lines.len() - 1].join("\n") + "\n", "cut short"),
        (newer + rest, "newer"),
        (newer_schema + rest, "newer"),
        (other_column + rest, "newer"),
        (changed, "checksum"),
        (fewer, "rows of `attempt`"),
        ("{\"format\":\"other\",\"version\":1,\"schema\":1,\"tables\":[]}\n".into(), "format is `other`"),
        ("PK\u{3}\u{4}\n".into(), "line 1"),
        (text.clone() + "more\n", "more after its end"),
        (text.replacen("[\"event\",", "[\"horoscope\",", 1), "names no table"),
        (text.replacen("[\"event\",", "[\"event\",1,", 1), "columns of `event`"),
        (
            text.replacen("1763740000000000", "9223372036854775807", 1),
            "is no `accepted_at` of a row of `delivery`",
        ),
    ];
    let new = stopped(Fixture::new().await).await;
    for (text, words) in cases {
        let error = import(new.path(), text.as_bytes()).await.unwrap_err();
        let said = crate::telemetry::Chain(&error).to_string();
        assert!(said.contains(words), "{said} lacks {words}");
        let here = rows_of(&new.path().join("queue.db")).await;
        assert!(here.is_empty(), "after {words}: {here:?}");
    }
    import(new.path(), text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_row_with_a_number_beyond_all_bounds_stays_where_it_is() {
    let f = full().await;
    f.run("UPDATE delivery SET held_since = -9223372036854775808 WHERE held").await;
    f.run("UPDATE dead_letter SET weight = -9223372036854775808 WHERE seq = 1").await;
    let old = stopped(f).await;
    let (text, exported) = export(old.path()).await;
    assert_eq!((exported.left_out, exported.problems.len()), (2, 2));
    for (problem, words) in exported.problems.iter().zip(["`held_since`", "`weight`"]) {
        assert!(problem.contains(words), "{problem}");
    }
    let new = stopped(Fixture::new().await).await;
    let imported = import(new.path(), &text).await.unwrap();
    assert_eq!((count(&imported.rows, "delivery"), count(&imported.rows, "dead_letter")), (2, 2));
}

#[tokio::test]
async fn import_holds_the_bound_and_says_which() {
    let f = Fixture::new().await;
    join_all(
        (0..500)
            .map(|n| f.queue.park(park(Delivery::new(event(n, 4_000), binding(1), function("f"), NOW), NOW))),
    )
    .await;
    let old = stopped(f).await;
    let (text, _) = export(old.path()).await;
    let new = tempfile::tempdir().unwrap();
    let options = QueueOptions { max_bytes: 1 << 20, ..QueueOptions::default() };
    let queue = OfflineQueue::write(new.path(), &options).await.unwrap();
    let error = queue.import(&*text).await.unwrap_err();
    assert!(matches!(error, TransferError::Full { max_bytes: 1_048_576 }), "{error}");
    assert!(!new.path().join("queue.db").exists(), "nothing of it is left");
    assert_eq!(count(&import(new.path(), &text).await.unwrap().rows, "delivery"), 500);
}

#[tokio::test]
async fn every_table_travels_or_is_said_to_stay() {
    let f = Fixture::new().await;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_all(&mut f.sql().await)
    .await
    .unwrap();
    let told = TABLES.iter().map(|table| table.name).chain(LOCAL);
    let mut told: Vec<&str> = told.collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    told.sort_unstable();
    names.sort_unstable();
    assert_eq!(told, names, "say in `queue/tables.rs` whether the table travels");
}

#[tokio::test]
async fn daemon_that_runs_keeps_others_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = OfflineQueue::read(dir.path(), &QueueOptions::default()).await.unwrap_err();
    assert!(matches!(missing, OfflineError::Missing { .. }), "{missing}");
    let lock = lock_state_dir(dir.path()).unwrap();
    std::fs::write(dir.path().join("queue.db"), "").unwrap();
    for opened in [
        OfflineQueue::read(dir.path(), &QueueOptions::default()).await,
        OfflineQueue::write(dir.path(), &QueueOptions::default()).await,
    ] {
        let said = crate::telemetry::Chain(&opened.unwrap_err()).to_string();
        assert!(said.contains("daemon stopped") && said.contains("process"), "{said}");
    }
    drop(lock);
}

#[tokio::test]
async fn look_over_finds_what_is_wrong_and_changes_nothing() {
    let sound = stopped(full().await).await;
    let path = sound.path().join("queue.db");
    let f = Fixture::new().await;
    drop(stopped(f).await);
    let mut conn = connect_options(&path, &QueueOptions::default()).connect().await.unwrap();
    let spoil = "UPDATE quarantine SET reason = 'text'; UPDATE dead_letter SET detail = 'text'";
    sqlx::raw_sql(spoil).execute(&mut conn).await.unwrap();
    let look = async || {
        OfflineQueue::read(sound.path(), &QueueOptions::default()).await.unwrap().verify().await.unwrap()
    };
    let verified = look().await;
    assert!(verified.ok, "{verified:#?}");

    let faults = [
        ("UPDATE event SET payload = 'no JSON' WHERE seq = 1", "rows of delivery", "`payload`"),
        ("UPDATE dead_letter SET reason = 'boredom' WHERE seq = 2", "rows of dead_letter", "boredom"),
        ("UPDATE attempt SET class = 'lucky'", "rows of attempt", "`class`"),
        ("DELETE FROM function WHERE name = 'h'", "functions of deliveries", "3"),
        ("DELETE FROM event WHERE seq = 1", "events of deliveries", "2"),
        ("INSERT INTO event (id, payload) VALUES (zeroblob(16), '{}')", "events in use", "1"),
        ("INSERT INTO attempt VALUES (zeroblob(16), 1, 1, 1, 'ok', NULL, '')", "attempts in use", "1"),
        ("UPDATE delivery SET weight = 1 WHERE seq = 3", "weights", "1"),
        ("UPDATE function SET bytes = bytes + 1 WHERE name = 'g'", "books of functions", "1"),
        (
            "UPDATE dead_letter SET id = (SELECT id FROM delivery LIMIT 1) WHERE seq = 3",
            "parked or dead",
            "1",
        ),
    ];
    for (fault, name, words) in faults {
        sqlx::raw_sql(fault).execute(&mut conn).await.unwrap();
        let before = rows_of(&path).await;
        let verified = look().await;
        let check = verified.checks.iter().find(|check| check.name == name).unwrap();
        assert!(!verified.ok && !check.ok && check.detail.contains(words), "{fault}: {check:?}");
        assert_eq!(rows_of(&path).await, before);
    }
    // An export leaves out what cannot be imported, says so, and the rest can be.
    let (text, exported) = export(sound.path()).await;
    assert!(exported.left_out >= 2, "{exported:?}");
    let new = tempfile::tempdir().unwrap();
    import(new.path(), &text).await.unwrap();
}
