//! MySQL and MariaDB really start, give each test a database, and come back with their rows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlx::Connection as _;

use crate::harness::database::{self, Database, Engine, SqlServer};
use crate::harness::process::Halt;
use crate::harness::suite::{Ctx, Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [MySql] mysql_is_9_or_newer_and_gives_each_test_its_own_database;
        [MariaDb] mariadb_gives_each_test_its_own_database;
        [MySql] mysql_keeps_rows_over_a_crash;
        [MariaDb] mariadb_keeps_rows_over_a_crash;
    }
}

async fn mysql_is_9_or_newer_and_gives_each_test_its_own_database(_: Ctx) -> Result<()> {
    let version = own_databases(Engine::MySql).await?;
    let major: u32 = version.split('.').next().context("no version")?.parse()?;
    ensure!(major >= 9, "MySQL is {version}");
    Ok(())
}

async fn mariadb_gives_each_test_its_own_database(_: Ctx) -> Result<()> {
    let version = own_databases(Engine::MariaDb).await?;
    ensure!(version.contains("MariaDB"), "MariaDB calls itself {version}");
    Ok(())
}

async fn own_databases(engine: Engine) -> Result<String> {
    let (one, two) = (database::shared(engine).await?, database::shared(engine).await?);
    write_row(&one).await?;
    ensure!(read_row(&one).await? == 42);
    ensure!(read_row(&two).await.is_err(), "a table of one database is in another");
    let mut connection = one.connect().await?;
    let version = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(version)
}

async fn write_row(database: &Database) -> Result<()> {
    let mut connection = database.connect().await?;
    sqlx::raw_sql("CREATE TABLE kept (n BIGINT NOT NULL); INSERT INTO kept VALUES (42)")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

async fn read_row(database: &Database) -> Result<i64> {
    let mut connection = database.connect().await?;
    let n = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(n)
}

async fn mysql_keeps_rows_over_a_crash(_: Ctx) -> Result<()> {
    keeps_rows_over_a_crash(Engine::MySql).await
}

async fn mariadb_keeps_rows_over_a_crash(_: Ctx) -> Result<()> {
    keeps_rows_over_a_crash(Engine::MariaDb).await
}

async fn keeps_rows_over_a_crash(engine: Engine) -> Result<()> {
    let mut server = SqlServer::start(engine).await?;
    let database = server.create_database().await?;
    write_row(&database).await?;
    for how in [Halt::Kill, Halt::Term] {
        server.restart(how).await?;
        ensure!(read_row(&database).await? == 42, "another row after {how:?}");
    }
    server.pause()?;
    let early = tokio::time::timeout(Duration::from_millis(300), read_row(&database)).await;
    ensure!(early.is_err(), "a paused server answered: {early:?}");
    server.resume()?;
    ensure!(read_row(&database).await? == 42);
    server.kill9().await?;
    ensure!(read_row(&database).await.is_err(), "a stopped server answered");
    server.start_again().await?;
    ensure!(read_row(&database).await? == 42);
    Ok(())
}
