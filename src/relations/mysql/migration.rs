//! Migrations on MySQL and MariaDB, one migrator at a time.

use std::time::Duration;

use sqlx::{Connection, MySqlConnection, migrate::Migrator};

use super::{super::migrate, Inner, RelationsError, failed};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/mysql");

/// How long another migrator is waited for.
const LOCK_WAIT: Duration = Duration::from_mins(1);

impl Inner {
    /// Runs what is missing. Of several daemons that start at once, one does and the others find nothing to do.
    pub(super) async fn run_migrations(&self) -> Result<(), RelationsError> {
        // This connection holds the lock and is taken out of the pool: closing it gives up the lock on every way out.
        let pooled = self.pool.acquire().await.map_err(failed("migrate"))?;
        let mut connection = pooled.detach();
        let result = self.migrate_locked(&mut connection).await;
        // What was migrated is committed; a connection that does not close orderly changes nothing of it.
        drop(connection.close().await);
        result
    }

    async fn migrate_locked(&self, connection: &mut MySqlConnection) -> Result<(), RelationsError> {
        let name = super::lock::name(&[b"migrate", self.database().as_bytes()]);
        let got: Option<i64> = sqlx::query_scalar("SELECT CAST(GET_LOCK(?, ?) AS SIGNED)")
            .bind(name)
            .bind(i64::try_from(LOCK_WAIT.as_secs()).unwrap_or(60))
            .fetch_one(connection)
            .await
            .map_err(failed("lock the migrations"))?;
        if got != Some(1) {
            return Err(RelationsError::MigrationLocked { waited: LOCK_WAIT });
        }
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrator.set_locking(false);
        migrator.run(&self.pool).await.map_err(migrate::failed)
    }

    /// Compares the schema with this version's.
    pub(super) async fn check_migrations(&self) -> Result<(), RelationsError> {
        let verb = "read its migrations";
        let mut connection = self.pool.acquire().await.map_err(failed(verb))?;
        let tables: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(failed(verb))?;
        let applied: Vec<i64> = if tables == 0 {
            Vec::new()
        } else {
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
                .fetch_all(&mut *connection)
                .await
                .map_err(failed(verb))?
        };
        migrate::compare(&MIGRATIONS, &applied)
    }

    /// The database's name, which `new` made sure of.
    pub(super) fn database(&self) -> &str {
        self.connect.get_database().unwrap_or_default()
    }
}
