//! Opening the file: its mode, its pragmas, its migrations.
//!
//! `auto_vacuum` has to be set before the first table is made, and the journal mode after it: sqlx sends the pragmas in
//! that order. The file is made with mode 0600 before SQLite sees it; the log and its index take over that mode.

use std::{
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, SqliteConnection,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::QueueError;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/queue");

/// The bounds of the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueOptions {
    /// Most bytes of the file in use. Its log comes on top, usually below 20 MiB.
    pub max_bytes: u64,
    /// How much of `max_bytes` one function's parked deliveries may take, between 0 and 1; beyond it its new
    /// deliveries become dead letters (*overflow*).
    pub function_share: f64,
    /// How many bytes of `max_bytes` only dead letters may use.
    pub dead_letter_reserve: u64,
    /// Most attempts kept with a delivery; the oldest go. At least 1.
    pub max_attempts_kept: u32,
    /// Most items kept in quarantine; the oldest go.
    pub quarantine_items: u64,
    /// Most bytes kept in quarantine; the oldest go.
    pub quarantine_bytes: u64,
    /// Whether the schema may be migrated; if not, an older one is an error.
    pub migrate: bool,
    /// How long a statement waits for another process that has locked the file (a backup, for example).
    pub busy_timeout: Duration,
}

impl Default for QueueOptions {
    /// 2 GiB, a quarter of it for one function at most, an eighth for dead letters only.
    fn default() -> Self {
        Self {
            max_bytes: 2 << 30,
            function_share: 0.25,
            dead_letter_reserve: 256 << 20,
            max_attempts_kept: 20,
            quarantine_items: 10_000,
            quarantine_bytes: 64 << 20,
            migrate: true,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// The same bounds as the writer counts them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    /// Parked deliveries may fill the file up to here.
    pub(super) parked_bytes: u64,
    pub(super) function_bytes: u64,
    pub(super) attempts: u32,
    pub(super) quarantine_items: u64,
    pub(super) quarantine_bytes: u64,
}

impl From<&QueueOptions> for Limits {
    fn from(options: &QueueOptions) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of the file need not be exact to the byte, and is held between nothing and the whole"
        )]
        let function_bytes = (options.max_bytes as f64 * options.function_share.clamp(0.0, 1.0)) as u64;
        Self {
            max_bytes: options.max_bytes,
            parked_bytes: options.max_bytes.saturating_sub(options.dead_letter_reserve),
            function_bytes,
            attempts: options.max_attempts_kept.max(1),
            quarantine_items: options.quarantine_items,
            quarantine_bytes: options.quarantine_bytes,
        }
    }
}

/// How the writer connects.
pub(super) fn connect_options(path: &Path, options: &QueueOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(options.busy_timeout)
        // 16 MiB of pages in memory, a checkpoint every 16 MiB of log, at most 64 MiB of log kept after a burst.
        .pragma("cache_size", "-16384")
        .pragma("wal_autocheckpoint", "4096")
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging()
}

/// How readers connect: the same file, no writing.
///
/// They are told neither the journal mode nor `auto_vacuum`, which the file knows: setting the latter writes, so that a
/// reader would wait for whoever has the file locked.
pub(super) fn read_options(writer: &SqliteConnectOptions, options: &QueueOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(writer.get_filename())
        .create_if_missing(false)
        .busy_timeout(options.busy_timeout)
        // Rows that wait between SQLite and their reader; some have an event of a megabyte in them.
        .row_buffer_size(8)
        .pragma("cache_size", "-4096")
        .pragma("query_only", "ON")
        .disable_statement_logging()
}

/// `Gone` when there is no such file, and a log of one is there: SQLite removes a log and never its file, so somebody has
/// deleted or moved that, and what was parked in it is not here.
pub(super) fn is_missed(path: &Path) -> Result<(), QueueError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let of_a_file = Path::new(&log).metadata().is_ok_and(|log| log.len() > 0);
    if of_a_file && !path.exists() { Err(QueueError::Gone { path: path.to_owned() }) } else { Ok(()) }
}

/// Makes the file if it is missing, and keeps others from reading it.
pub(super) fn prepare_file(path: &Path) -> Result<(), QueueError> {
    let made = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    made.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
        .map_err(|error| failed("open", sqlx::Error::Io(error)))
}

/// Refuses a schema that this version does not know, without changing anything.
pub(super) async fn refuse_newer(conn: &mut SqliteConnection) -> Result<(), QueueError> {
    let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(conn)
        .await
        .map_err(|error| failed("open", error))?;
    if MIGRATIONS.version_exists(newest) { Ok(()) } else { Err(QueueError::Newer { version: newest }) }
}

/// Refuses every schema but this version's, without changing anything.
pub(super) async fn is_of_this_version(conn: &mut SqliteConnection) -> Result<(), QueueError> {
    refuse_newer(conn).await?;
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations")
        .fetch_all(conn)
        .await
        .map_err(|error| failed("open", error))?;
    match MIGRATIONS.iter().find(|migration| !applied.contains(&migration.version)) {
        Some(missing) => Err(QueueError::Older { missing: missing.version }),
        None => Ok(()),
    }
}

/// Brings the schema up to date, or says why not.
pub(super) async fn migrate(conn: &mut SqliteConnection, allowed: bool) -> Result<(), QueueError> {
    let broken = |error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed("migrate", error),
        error => QueueError::Migration(Arc::new(error)),
    };
    let table = "_sqlx_migrations";
    conn.ensure_migrations_table(table).await.map_err(broken)?;
    let applied = conn.list_applied_migrations(table).await.map_err(broken)?;
    if let Some(unknown) = applied.iter().find(|migration| !MIGRATIONS.version_exists(migration.version)) {
        return Err(QueueError::Newer { version: unknown.version });
    }
    let is_applied = |version| applied.iter().any(|migration| migration.version == version);
    if !allowed && let Some(missing) = MIGRATIONS.iter().find(|migration| !is_applied(migration.version)) {
        return Err(QueueError::Older { missing: missing.version });
    }
    MIGRATIONS.run(conn).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => QueueError::Newer { version },
        error => broken(error),
    })
}

/// The error of this verb. A pool that was closed means that the writer has ended.
pub(super) fn failed(verb: &'static str, source: sqlx::Error) -> QueueError {
    match source {
        sqlx::Error::PoolClosed => QueueError::Closed,
        source => QueueError::Failed { verb, source: Arc::new(source) },
    }
}
