//! Migrations: at once, older, newer; and what only a file has, its permissions and its role.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, bail, ensure};
use triggerd::relations::{Relations as _, RelationsError, Role, Snapshot, SqliteRelations};

use super::{How, World, bind, conformance};
use crate::harness::suite::{Ctx, Test, tests};

const CHECK: How = How { migrate: false, kept_changes: 1_000 };
const MIGRATE: How = How { migrate: true, kept_changes: 1_000 };

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = conformance! {
        daemons_that_migrate_at_once_do_not_collide;
        an_older_schema_is_told_when_it_is_only_checked;
        a_newer_schema_is_refused;
    };
    tests.extend(tests! {
        [] a_file_of_relations_is_for_its_user_alone;
        [] a_file_knows_whether_it_is_a_copy;
    });
    tests
}

async fn daemons_that_migrate_at_once_do_not_collide(world: World) -> Result<()> {
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let world = world.clone();
        starting.spawn(async move { world.open_as(MIGRATE).await });
    }
    let mut heads = Vec::new();
    while let Some(relations) = starting.join_next().await {
        heads.push(relations??.head().await?);
    }
    ensure!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    world.open_as(CHECK).await?;
    Ok(())
}

async fn an_older_schema_is_told_when_it_is_only_checked(world: World) -> Result<()> {
    let Err(RelationsError::NotMigrated { missing: all }) = world.open_as(CHECK).await else {
        bail!("an empty database passed")
    };
    world.open_as(MIGRATE).await?;
    world.open_as(CHECK).await?;
    world.execute("DROP TABLE audit; DELETE FROM _sqlx_migrations WHERE version = 3").await?;
    let Err(RelationsError::NotMigrated { missing: 1 }) = world.open_as(CHECK).await else {
        bail!("an older schema passed")
    };
    ensure!(all == 3, "{all} migrations");
    let relations = world.open_as(MIGRATE).await?;
    bind(&*relations, "photos", "thumb", 1).await?;
    Ok(())
}

async fn a_newer_schema_is_refused(world: World) -> Result<()> {
    world.open_as(MIGRATE).await?;
    world
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', TRUE, 'x', 1)",
        )
        .await?;
    for how in [CHECK, MIGRATE] {
        let answer = world.open_as(how).await;
        ensure!(matches!(answer, Err(RelationsError::Newer { version: 9999 })), "{how:?}: {answer:?}");
    }
    Ok(())
}

async fn a_file_of_relations_is_for_its_user_alone(ctx: Ctx) -> Result<()> {
    let path = ctx.folder().join("relations.db");
    std::fs::write(&path, "")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    let relations = SqliteRelations::open(&path, Role::Authority).await?;
    bind(&relations, "photos", "thumb", 1).await?;
    for file in ["relations.db", "relations.db-wal", "relations.db-shm"] {
        let mode = std::fs::metadata(ctx.folder().join(file))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} has mode {mode:o}");
    }
    Ok(())
}

async fn a_file_knows_whether_it_is_a_copy(ctx: Ctx) -> Result<()> {
    let (kept, copied) = (ctx.folder().join("kept.db"), ctx.folder().join("copied.db"));
    let authority = SqliteRelations::open(&kept, Role::Authority).await?;
    bind(&authority, "photos", "thumb", 1).await?;
    authority.close().await;
    let answer = SqliteRelations::open(&kept, Role::Mirror).await;
    ensure!(matches!(answer, Err(RelationsError::WrongRole { .. })), "bindings would be overwritten");
    SqliteRelations::open(&kept, Role::Authority).await?;
    // An authority without a binding has nothing to lose.
    SqliteRelations::open(&copied, Role::Authority).await?.close().await;
    let copy = SqliteRelations::open(&copied, Role::Mirror).await?;
    ensure!(copy.copied_head().await?.is_none());
    let snapshot = Snapshot { head: authority_head(&kept).await?, bindings: Vec::new() };
    copy.take_over_all(&snapshot).await?;
    copy.close().await;
    let answer = SqliteRelations::open(&copied, Role::Authority).await;
    let Err(error @ RelationsError::WrongRole { .. }) = answer else { bail!("a copy became the authority") };
    ensure!(error.to_string().contains("relations.url"), "{error}");
    Ok(())
}

async fn authority_head(path: &std::path::Path) -> Result<triggerd::relations::Head> {
    Ok(SqliteRelations::open(path, Role::Authority).await?.head().await?)
}
