//! The queue file in other hands: damaged, locked, deleted under the running daemon, wanted by a second one.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use super::disk_faults::{PATIENCE, Spool, keys};
use crate::harness::{
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_damaged_queue_file_is_named_at_the_start_and_nothing_is_taken_in within 180;
        [Minio] a_queue_file_damaged_while_it_runs_holds_back_what_must_be_parked within 180;
        [Minio] a_queue_file_locked_by_another_process_is_waited_for within 240;
        [Minio] a_log_of_the_queue_deleted_under_the_daemon_takes_on_nothing_more within 180;
        [Minio] a_state_directory_deleted_under_the_daemon_takes_on_nothing_more within 180;
        [Minio] a_second_daemon_is_told_who_owns_the_state_directory;
    }
}

/// Overwrites everything behind the first page, and all that the log holds.
fn spoil(state: &Path) -> Result<()> {
    for (name, from) in [("queue.db", 4_096), ("queue.db-wal", 0)] {
        let path = state.join(name);
        let Ok(length) = path.metadata().map(|file| file.len()) else { continue };
        let file = OpenOptions::new().write(true).open(&path)?;
        for at in (from..length).step_by(4_096) {
            let junk = vec![0xa5; usize::try_from((length - at).min(4_096))?];
            file.write_all_at(&junk, at)?;
        }
    }
    Ok(())
}

pub(crate) async fn a_damaged_queue_file_is_named_at_the_start_and_nothing_is_taken_in(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    ensure!(spool.notify("docs", "before").await? == StatusCode::OK);
    spool.world.daemon.stop().await?;
    let file = spool.disk.state().join("queue.db");
    spoil(spool.disk.state())?;
    let output = spool.world.daemon.run_cli(&["run"])?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    for words in ["queue.db", "damaged", "queue export"] {
        ensure!(said.contains(words), "no `{words}` in {said}");
    }
    // The remedy helps: away with the file, and what the sender kept comes.
    spool.upload("docs", "meanwhile").await?;
    fs::rename(&file, ctx.folder().join("damaged.db"))?;
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&["meanwhile".to_owned()]).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_queue_file_damaged_while_it_runs_holds_back_what_must_be_parked(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    for key in keys("before", 20) {
        spool.insist("docs", &key).await?;
    }
    spoil(spool.disk.state())?;
    // The deliveries that wait are read again and again.
    eventually("the damage is met", PATIENCE, async || {
        let (.., detail) = spool.queue_health().await?;
        ensure!(detail.contains("damaged"), "{detail}");
        Ok(())
    })
    .await?;
    let status = spool.notify("docs", "held-back").await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "what cannot be parked is answered {status}");
    for key in keys("healthy", 6) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    let log = spool.world.daemon.log()?;
    ensure!(log.contains("queue export") && !log.contains("panicked"), "the remedy is not told");
    spool.world.daemon.kill9().await?;
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        fs::remove_file(spool.disk.state().join(name))?;
    }
    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.insist("docs", "held-back").await?;
    spool.wait_until_done(&["held-back".to_owned()]).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_queue_file_locked_by_another_process_is_waited_for(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    ensure!(spool.notify("docs", "before").await? == StatusCode::OK);
    let options = SqliteConnectOptions::new().filename(spool.disk.state().join("queue.db"));
    let mut other = options.connect().await?;
    let lock = other.begin_with("BEGIN IMMEDIATE").await?;
    let status = spool.notify("docs", "during").await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "what cannot be parked is answered {status}");
    spool.wait_until_told("another process has it locked").await?;
    for key in keys("healthy", 6) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    lock.rollback().await?;
    other.close().await?;
    spool.mend()?;
    spool.wait_until_well().await?;
    spool.insist("docs", "during").await?;
    spool.wait_until_done(&["before".to_owned(), "during".to_owned()]).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_log_of_the_queue_deleted_under_the_daemon_takes_on_nothing_more(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    let before = keys("before", 10);
    for key in &before {
        spool.insist("docs", key).await?;
    }
    fs::remove_file(spool.disk.state().join("queue.db-wal"))?;
    for key in keys("during", 3) {
        let status = spool.notify("docs", &key).await?;
        ensure!(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "{key}, parked in a deleted log, is answered {status}"
        );
    }
    spool.wait_until_told("queue.db-wal was deleted or replaced").await?;
    // What it held it works off, and what its memory has of the log goes into the file at the end.
    spool.mend()?;
    spool.wait_until_done(&before).await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_state_directory_deleted_under_the_daemon_takes_on_nothing_more(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    let before = keys("before", 10);
    for key in &before {
        spool.insist("docs", key).await?;
    }
    fs::remove_dir_all(spool.disk.state())?;
    for key in keys("during", 3) {
        let status = spool.notify("docs", &key).await?;
        ensure!(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "{key}, parked in a deleted file, is answered {status}"
        );
    }
    spool.wait_until_told("deleted or replaced").await?;
    for key in keys("healthy", 6) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    // What it held before it works off, as long as it lives; each once.
    spool.mend()?;
    spool.wait_until_done(&before).await?;
    spool.world.daemon.stop().await?;
    let done = fs::read_to_string(spool.world.platform.file("etl.done"))?;
    let repeated = before.iter().filter(|key| done.lines().filter(|line| line == key).count() != 1).count();
    ensure!(repeated == 0, "{repeated} were done more than once: {done}");
    Ok(())
}

pub(crate) async fn a_second_daemon_is_told_who_owns_the_state_directory(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    let second = spool.world.daemon.run_cli(&["run"])?;
    let said = String::from_utf8_lossy(&[second.stdout, second.stderr].concat()).into_owned();
    let owner = format!("process {}", spool.world.daemon.id()?);
    let state = spool.disk.state().display().to_string();
    ensure!(second.status.code() == Some(1) && said.contains(&owner) && said.contains(&state), "{said}");
    ensure!(said.contains("`state_dir`"), "no remedy in {said}");
    ensure!(spool.notify("docs", "still").await? == StatusCode::OK, "the first is disturbed");
    spool.world.daemon.stop().await
}
