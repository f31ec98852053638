//! A glance at the file, beside a daemon that runs and where none does.

use std::{
    fs::{self, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::*;

async fn glanced(dir: &Path) -> Result<Option<u64>, String> {
    let seen = glance(dir, &QueueOptions::default()).await;
    seen.map(|seen| seen.map(|seen| seen.parked)).map_err(|error| error.to_string())
}

/// The names of what is in a directory, with their lengths.
fn listed(dir: &Path) -> Vec<(String, u64)> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    let mut files: Vec<_> =
        files.map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len())).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_glance_counts_what_is_parked_beside_a_running_daemon_and_after_it_and_changes_nothing() {
    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), at(1))).await.unwrap();
    f.queue.park(Park { held: true, ..park(delivery(2, "g"), at(1)) }).await.unwrap();
    let running = listed(f.dir.path());
    assert_eq!(glanced(f.dir.path()).await, Ok(Some(2)));
    assert_eq!(listed(f.dir.path()), running);
    // The daemon was killed: its log is there, and nobody has it open.
    let killed = tempfile::tempdir().unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        fs::copy(f.dir.path().join(name), killed.path().join(name)).unwrap();
    }
    assert_eq!(glanced(killed.path()).await, Ok(Some(2)));
    // It took and gave no lock that would keep the writer from its work.
    f.queue.park(park(delivery(3, "f"), at(1))).await.unwrap();
    assert_eq!(glanced(f.dir.path()).await, Ok(Some(3)));
    f.queue.close().await;
    f.writer.await.unwrap();
    let stopped = listed(f.dir.path());
    fs::set_permissions(f.dir.path(), Permissions::from_mode(0o500)).unwrap();
    assert_eq!(glanced(f.dir.path()).await, Ok(Some(3)), "a user who may only read");
    assert_eq!(listed(f.dir.path()), stopped);
    fs::set_permissions(f.dir.path(), Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn an_import_that_fails_leaves_no_file_that_was_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let import = async |text: &'static [u8]| {
        let queue = OfflineQueue::write(dir.path(), &QueueOptions::default()).await.unwrap();
        queue.import(text).await.map(drop)
    };
    let names = || listed(dir.path()).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    import(b"no export\n").await.unwrap_err();
    assert_eq!(names(), ["lock"]);
    let unmigrated = QueueOptions { migrate: false, ..QueueOptions::default() };
    OfflineQueue::write(dir.path(), &unmigrated).await.unwrap_err();
    assert_eq!(names(), ["lock"]);

    let f = Fixture::new().await;
    f.queue.park(park(delivery(1, "f"), at(1))).await.unwrap();
    f.queue.park(park(delivery(2, "g"), at(1))).await.unwrap();
    f.queue.close().await;
    f.writer.await.unwrap();
    let there = OfflineQueue::write(f.dir.path(), &QueueOptions::default()).await.unwrap();
    there.import(&b"no export\n"[..]).await.unwrap_err();
    assert_eq!(glanced(f.dir.path()).await, Ok(Some(2)), "what was there stays");
    let mut text = Vec::new();
    let there = OfflineQueue::read(f.dir.path(), &QueueOptions::default()).await.unwrap();
    there.export(&mut text).await.unwrap();
    let here = OfflineQueue::write(dir.path(), &QueueOptions::default()).await.unwrap();
    let imported = here.import(&text[..]).await.unwrap();
    assert_eq!(imported.parked, [(binding(1), 2)], "whose deliveries they are is told");
    assert_eq!(glanced(dir.path()).await, Ok(Some(2)));
}

#[tokio::test]
async fn a_glance_tells_what_is_missing_damaged_older_and_newer() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(glanced(dir.path()).await, Ok(None));
    assert_eq!(glanced(&dir.path().join("not/there")).await, Ok(None));
    let path = dir.path().join("queue.db");
    fs::write(dir.path().join("queue.db-wal"), "commits of a file that is gone").unwrap();
    let said = glanced(dir.path()).await.unwrap_err();
    assert!(said.contains("queue.db was deleted"), "{said}");
    fs::remove_file(dir.path().join("queue.db-wal")).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(glanced(dir.path()).await, Ok(None));
    fs::write(&path, "no database, and long enough to have a header".repeat(100)).unwrap();
    let said = glanced(dir.path()).await.unwrap_err();
    assert!(said.contains("it is damaged"), "{said}");

    for (change, wanted) in [
        ("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)", "lacks"),
        ("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 1", "newer triggerd (migration 9999"),
    ] {
        let f = Fixture::new().await;
        f.run(change).await;
        f.queue.close().await;
        f.writer.await.unwrap();
        let said = glanced(f.dir.path()).await.unwrap_err();
        assert!(said.contains(wanted), "{said}");
    }
    let f = Fixture::new().await;
    f.queue.close().await;
    f.writer.await.unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(f.dir.path().join("queue.db")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"SQLite formal 3\0").unwrap();
    let said = glanced(f.dir.path()).await.unwrap_err();
    assert!(said.contains("it is damaged"), "{said}");
}
