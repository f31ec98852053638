//! Migrations on SQLite: all of them in one write transaction, so a second migrator waits and then finds nothing to do.

use sqlx::migrate::Migrator;

use super::{super::migrate, RelationsError, SqliteRelations, failed};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

impl SqliteRelations {
    pub(super) async fn run_migrations(&self) -> Result<(), RelationsError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed("migrate"))?;
        // `run` would do the same, but is so general that the future's `Send` could not be seen any more.
        MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(migrate::failed)?;
        tx.commit().await.map_err(failed("migrate"))
    }

    pub(super) async fn check_migrations(&self) -> Result<(), RelationsError> {
        let verb = "read its migrations";
        let tables: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed(verb))?;
        let applied: Vec<i64> = if tables == 0 {
            Vec::new()
        } else {
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
                .fetch_all(&self.pool)
                .await
                .map_err(failed(verb))?
        };
        migrate::compare(&MIGRATIONS, &applied)
    }
}
