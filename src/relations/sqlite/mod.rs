//! The relations in `relations.db`: the authority where no MySQL is configured, else this host's copy of it.
//!
//! The file holds secrets, so only its user may read it. WAL with `synchronous=FULL`: a change that was answered for
//! survives a power cut. The process owns the state directory, so nobody else writes; the `BEGIN IMMEDIATE` of each
//! writer orders those of this process, and keeps a second migrator out should two ever start at once.
//!
//! **Roles.** A file that is a copy must not be taken for the authority (it lacks what was bound elsewhere since), nor
//! the authority be overwritten by a copy. So the file knows what it is, and opening it as the other is refused, except
//! that an authority that holds no binding may become a copy.

#[path = "../journal.rs"]
mod journal;
mod local;
mod migration;
#[path = "../statements.rs"]
mod statements;
mod verbs;

use std::{
    collections::HashSet,
    fmt,
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use super::{RelationsError, failed, rows};

pub use local::Touched;

type Connection = sqlx::SqliteConnection;
/// `BEGIN IMMEDIATE` has locked it already.
const LOCK_REVISION: &str = "SELECT revision FROM revision WHERE id = 1";
const NODES: &str = "SELECT name, revision, admin_url, \
     CAST(unixepoch('subsec') * 1000000 AS INTEGER) - seen_at AS silent_us FROM node ORDER BY name";

/// How long a statement waits for a lock of another process.
const BUSY: Duration = Duration::from_secs(10);
/// The pause before a file is opened again that another process had locked.
const REOPEN: Duration = Duration::from_millis(20);

async fn heartbeat(
    tx: &mut Connection,
    node: &str,
    revision: u64,
    admin_url: Option<&str>,
) -> Result<(), RelationsError> {
    sqlx::query(
        "INSERT INTO node (name, revision, admin_url, seen_at) \
         VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER)) \
         ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, admin_url = excluded.admin_url, \
         seen_at = excluded.seen_at",
    )
    .bind(node)
    .bind(rows::signed(revision))
    .bind(admin_url)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("note a heartbeat"))
}

/// What a file of relations is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The place where bindings are kept.
    Authority,
    /// A copy of a shared database.
    Mirror,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Mirror => "mirror",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "the only place where bindings are kept",
            Self::Mirror => "a copy of a shared database",
        })
    }
}

/// The relations in a file.
#[derive(Debug)]
pub struct SqliteRelations {
    pool: SqlitePool,
    kept_changes: i64,
    revision: watch::Sender<u64>,
    locked: Arc<Mutex<HashSet<(String, String)>>>,
}

impl SqliteRelations {
    /// Opens the file or makes it, and brings its schema up to this version's.
    pub async fn open(path: &Path, role: Role) -> Result<Self, RelationsError> {
        let relations = Self::connect(path).await?;
        relations.run_migrations().await?;
        relations.take_role(path, role).await?;
        Ok(relations)
    }

    /// Opens the file and only compares its schema with this version's (`NotMigrated`, `Newer`).
    pub async fn open_migrated(path: &Path, role: Role) -> Result<Self, RelationsError> {
        let relations = Self::connect(path).await?;
        relations.check_migrations().await?;
        relations.take_role(path, role).await?;
        Ok(relations)
    }

    /// The same with a log that keeps this many changes (else 100,000); a reader further behind reloads everything.
    #[must_use]
    pub fn keep_changes(mut self, kept: u32) -> Self {
        self.kept_changes = i64::from(kept);
        self
    }

    /// Sees each revision that this process makes in this file.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn connect(path: &Path) -> Result<Self, RelationsError> {
        keep_private(path).map_err(|source| RelationsError::File { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let pool = open_pool(options).await.map_err(failed("open its file"))?;
        Ok(Self {
            pool,
            kept_changes: rows::KEPT_CHANGES,
            revision: watch::Sender::new(0),
            locked: Arc::default(),
        })
    }

    async fn take_role(&self, path: &Path, role: Role) -> Result<(), RelationsError> {
        let verb = "take up its role";
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed(verb))?;
        let is: Option<String> = sqlx::query_scalar("SELECT role FROM revision WHERE id = 1")
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(verb))?;
        let bindings: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM (SELECT 1 FROM binding LIMIT 1)")
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(verb))?;
        let found = match is.as_deref() {
            Some("authority") => Some(Role::Authority),
            Some("mirror") => Some(Role::Mirror),
            _ => None,
        };
        match (found, role) {
            (Some(Role::Authority), Role::Mirror) if bindings == 0 => {}
            (Some(found), wanted) if found != wanted => {
                return Err(RelationsError::WrongRole { path: path.to_owned(), found, wanted });
            }
            _ => {}
        }
        if found != Some(role) {
            sqlx::query("UPDATE revision SET role = ? WHERE id = 1")
                .bind(role.as_str())
                .execute(&mut *tx)
                .await
                .map_err(failed(verb))?;
        }
        let revision = statements::head(&mut tx).await?.head()?.revision;
        tx.commit().await.map_err(failed(verb))?;
        self.revision.send_replace(revision);
        Ok(())
    }

    fn lock_table(&self) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file, again while another process has it locked, for twice [`BUSY`] at most.
///
/// SQLite waits for a lock by itself ([`BUSY`]) in all but one case: two that turn a new file to WAL at the same moment
/// could wait for each other, so one of them is told at once that it is locked.
async fn open_pool(options: SqliteConnectOptions) -> sqlx::Result<SqlitePool> {
    let mut locked = None;
    let opened = tokio::time::timeout(2 * BUSY, async {
        loop {
            let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(BUSY);
            match pool.connect_with(options.clone()).await {
                Err(error) if is_locked(&error) => locked = Some(error),
                outcome => return outcome,
            }
            tokio::time::sleep(REOPEN).await;
        }
    });
    let opened = opened.await;
    opened.unwrap_or_else(|_| Err(locked.unwrap_or(sqlx::Error::PoolTimedOut)))
}

/// Whether it is SQLite's `SQLITE_BUSY`, in any of its extended codes.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}

/// Makes the file if it is not there; from then on only its user may read it. SQLite gives its companions (`-wal`,
/// `-shm`) the same permissions.
fn keep_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}
