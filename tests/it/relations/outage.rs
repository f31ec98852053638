//! A server that is away, frozen or back.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use sqlx::MySqlConnection;
use triggerd::relations::{MySqlOptions, MySqlRelations, Relations as _, RelationsError};

use super::{at, bind};
use crate::harness::{
    database::{self, Engine, SqlServer},
    ports::free_port,
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] an_absent_server_is_told_within_seconds;
        [] a_url_without_a_database_is_refused;
        [MySql] mysql_may_freeze_and_go_and_come_back;
        [MariaDb] mariadb_may_freeze_and_go_and_come_back;
        [MySql] mysql_deadlock_with_another_program_is_not_seen;
        [MariaDb] mariadb_deadlock_with_another_program_is_not_seen;
    }
}

fn options(url: &str) -> MySqlOptions {
    let mut options = MySqlOptions::new(url.to_owned().into());
    options.connect_within = Duration::from_secs(2);
    options.answer_within = Duration::from_secs(3);
    options
}

async fn an_absent_server_is_told_within_seconds(_: Ctx) -> Result<()> {
    let url = format!("mysql://triggerd:hunter2@127.0.0.1:{}/triggerd", free_port()?);
    let relations = MySqlRelations::new(options(&url))?;
    for what in ["head", "lock"] {
        let asked = async {
            match what {
                "head" => relations.head().await.map(drop),
                _ => relations.lock_bucket("default", "photos").await.map(drop),
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await?;
        ensure!(matches!(answer, Err(RelationsError::Unavailable(_))), "{what}: {answer:?}");
        ensure!(!format!("{answer:?}").contains("hunter2"));
    }
    ensure!(!format!("{relations:?}").contains("hunter2"), "the password is in Debug");
    Ok(())
}

async fn a_url_without_a_database_is_refused(_: Ctx) -> Result<()> {
    for url in ["mysql://triggerd:hunter2@127.0.0.1/", "mysql://triggerd:hunter2@127.0.0.1:x/y", "nonsense"] {
        let Err(error) = MySqlRelations::new(options(url)) else { bail!("{url} was taken") };
        ensure!(matches!(error, RelationsError::Url(_)) && !format!("{error:?}").contains("hunter2"));
    }
    Ok(())
}

async fn mysql_may_freeze_and_go_and_come_back(_: Ctx) -> Result<()> {
    outage(Engine::MySql).await
}

async fn mariadb_may_freeze_and_go_and_come_back(_: Ctx) -> Result<()> {
    outage(Engine::MariaDb).await
}

async fn outage(engine: Engine) -> Result<()> {
    let limit = Duration::from_secs(8);
    let mut server = SqlServer::start(engine).await?;
    let database = server.create_database().await?;
    let relations = MySqlRelations::new(options(&database.url))?;
    let made = bind(&relations, "photos", "a", 1).await?;
    server.pause()?;
    let frozen = tokio::time::timeout(limit, relations.head()).await?;
    ensure!(matches!(frozen, Err(RelationsError::Unavailable(_))), "{frozen:?}");
    server.resume()?;
    let back = async || Ok(relations.head().await?);
    let head = eventually("the server answers again", Duration::from_secs(20), back).await?;
    ensure!(head.revision == 1);
    server.kill9().await?;
    let gone = tokio::time::timeout(limit, relations.head()).await?;
    ensure!(matches!(gone, Err(RelationsError::Unavailable(_))), "{gone:?}");
    server.start_again().await?;
    let head = eventually("the server answers again", Duration::from_secs(20), back).await?;
    ensure!(head.revision == 1 && relations.binding(made.id).await?.is_some(), "{head:?}");
    Ok(())
}

async fn mysql_deadlock_with_another_program_is_not_seen(_: Ctx) -> Result<()> {
    deadlock(Engine::MySql).await
}

async fn mariadb_deadlock_with_another_program_is_not_seen(_: Ctx) -> Result<()> {
    deadlock(Engine::MariaDb).await
}

/// Another transaction holds the binding's row and then wants the revision's, which our verb holds. It has written
/// more, so the server rolls back ours.
async fn deadlock(engine: Engine) -> Result<()> {
    let database = database::shared(engine).await?;
    let relations = Arc::new(MySqlRelations::new(options(&database.url))?);
    let made = bind(&*relations, "photos", "a", 1).await?;
    let mut other = database.connect().await?;
    let begun = "CREATE TABLE heavy (n BIGINT) ENGINE = InnoDB; START TRANSACTION; \
         INSERT INTO heavy VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14); \
         UPDATE binding SET concurrency = concurrency + 1";
    sqlx::raw_sql(begun).execute(&mut other).await?;
    let mine = Arc::clone(&relations);
    let unbinding = tokio::spawn(async move { mine.unbind(made.id, "operator", at(1)).await });
    let mut observer = database.connect().await?;
    // Not `innodb_trx`: it is not refreshed while it is read more often than every 0.1 s.
    let name = database.url.split(['/', '?']).nth(3).context("no database in the URL")?;
    let row = format!("`{name}`.`binding`");
    eventually("our verb waits for the row", Duration::from_secs(5), async || {
        let status = innodb_status(&mut observer).await?;
        ensure!(status.lines().any(|line| line.contains(&row) && line.contains("waiting")), "{status}");
        Ok(())
    })
    .await?;
    sqlx::raw_sql("SELECT revision FROM revision FOR UPDATE; COMMIT").execute(&mut other).await?;
    let unbound = unbinding.await??;
    ensure!(unbound.is_some_and(|binding| binding.revision == 2), "not unbound");
    let status = innodb_status(&mut observer).await?;
    ensure!(status.contains("LATEST DETECTED DEADLOCK"), "there was no deadlock to be retried");
    Ok(())
}

async fn innodb_status(connection: &mut MySqlConnection) -> Result<String> {
    let status: (String, String, String) =
        sqlx::query_as("SHOW ENGINE INNODB STATUS").fetch_one(connection).await?;
    Ok(status.2)
}
