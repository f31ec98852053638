//! The runner fails what should fail, cleans up, and says what it left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::harness::installed::{Server, parse_skipped};
use crate::harness::suite::{Ctx, Test, skip_summary, tests};
use crate::harness::wait::{eventually, wait_for};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] test_over_its_limit_fails_by_name within 10;
        [] panicking_test_fails;
        [] each_test_has_an_empty_folder_that_goes_with_it;
        [] wait_that_ends_in_vain_says_for_what;
        [] skip_list_refuses_unknown_names;
        [] skip_summary_counts_a_test_once_and_names_it_by_server;
    }
}

/// Runs a test as the runner would, beside this one.
async fn run_beside(test: Test) -> Result<()> {
    tokio::task::spawn_blocking(move || test.run()).await?
}

async fn test_over_its_limit_fails_by_name(_: Ctx) -> Result<()> {
    let endless =
        Test::new("an_endless_test", &[], |_| std::future::pending()).within(Duration::from_millis(50));
    let Err(error) = run_beside(endless).await else { bail!("an endless test passed") };
    ensure!(error.to_string().contains("an_endless_test") && error.to_string().contains("50ms"), "{error:#}");
    Ok(())
}

async fn panicking_test_fails(_: Ctx) -> Result<()> {
    // It unwinds as a panic does; the message and backtrace of one would hide those of a test that has failed.
    let panicking =
        Test::new("a_panicking_test", &[], async |_| std::panic::resume_unwind(Box::new("on purpose")));
    ensure!(run_beside(panicking).await.is_err(), "a panicking test passed");
    Ok(())
}

async fn each_test_has_an_empty_folder_that_goes_with_it(ctx: Ctx) -> Result<()> {
    ensure!(std::fs::read_dir(ctx.folder())?.next().is_none());
    std::fs::write(ctx.folder().join("file"), "content")?;
    let (send, receive) = std::sync::mpsc::channel();
    let other = Test::new("with_a_folder", &[], async move |ctx: Ctx| {
        std::fs::write(ctx.folder().join("file"), "content")?;
        Ok(send.send(ctx.folder().to_owned())?)
    });
    run_beside(other).await?;
    let folder = receive.recv()?;
    ensure!(
        folder.is_absolute() && folder != ctx.folder() && !folder.exists(),
        "{} is left",
        folder.display()
    );
    Ok(())
}

async fn wait_that_ends_in_vain_says_for_what(_: Ctx) -> Result<()> {
    let limit = Duration::from_millis(50);
    let Err(error) = wait_for("the moon", limit, async || false).await else { bail!("the moon came") };
    ensure!(error.to_string().contains("the moon"), "{error:#}");
    let failing = eventually("the sun", limit, async || -> Result<()> { bail!("cloudy") }).await;
    let Err(error) = failing else { bail!("the sun came") };
    let error = format!("{error:#}");
    ensure!(error.contains("the sun") && error.contains("cloudy"), "{error}");
    Ok(())
}

async fn skip_list_refuses_unknown_names(_: Ctx) -> Result<()> {
    ensure!(parse_skipped("")?.is_empty());
    ensure!(parse_skipped(" mysql,,minio ")? == BTreeSet::from([Server::Minio, Server::MySql]));
    let Err(error) = parse_skipped("mysql,postgres") else { bail!("a misspelt skip was taken") };
    ensure!(error.to_string().contains("postgres") && error.to_string().contains("mosquitto"), "{error}");
    Ok(())
}

async fn skip_summary_counts_a_test_once_and_names_it_by_server(_: Ctx) -> Result<()> {
    ensure!(skip_summary(&BTreeMap::new()).contains("0 tests"));
    let both = vec!["a::needs_both".to_owned()];
    let summary = skip_summary(&BTreeMap::from([(Server::Minio, both.clone()), (Server::MySql, both)]));
    ensure!(summary.contains(": 1 tests\n"), "{summary}");
    ensure!(
        summary.contains("minio: 1 (a::needs_both)") && summary.contains("mysql: 1 (a::needs_both)"),
        "{summary}"
    );
    Ok(())
}
