//! The relations in MySQL (≥ 8.4) or MariaDB (≥ 10.6), shared by all daemons.
//!
//! **Absence.** Nothing is asked of the server when this is made: the first verb connects, and checks or runs the
//! migrations, so a daemon starts without its database. A verb whose server is away fails with `Unavailable` after
//! [`MySqlOptions::connect_within`]; one whose server is frozen after [`MySqlOptions::answer_within`]. A verb that
//! failed this way may have been carried out all the same; every one of them is safe to ask again.
//!
//! **Writers** lock the one row of `revision` first, so they come one after another, each sees what the one before it
//! committed (READ COMMITTED), and revisions are committed in their order. Deadlocks and lock timeouts, which another
//! program's transactions may still cause, are retried here and nowhere else. **Readers** that need two tables to
//! agree take a consistent snapshot.

#[path = "../journal.rs"]
#[expect(clippy::duplicate_mod, reason = "compiled once for each engine; see its header")]
mod journal;
mod lock;
mod migration;
#[path = "../statements.rs"]
#[expect(clippy::duplicate_mod, reason = "compiled once for each engine; see its header")]
mod statements;
mod verbs;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Executor, MySql, MySqlPool, Transaction,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions},
};
use tokio::sync::OnceCell;

use super::{RelationsError, failed, rows};

type Connection = sqlx::MySqlConnection;
const LOCK_REVISION: &str = "SELECT revision FROM revision WHERE id = 1 FOR UPDATE";
const NODES: &str = "SELECT name, revision, admin_url, \
     CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) - seen_at AS silent_us FROM node ORDER BY name";

async fn heartbeat(
    tx: &mut Connection,
    node: &str,
    revision: u64,
    admin_url: Option<&str>,
) -> Result<(), RelationsError> {
    let revision = rows::signed(revision);
    // `VALUES(…)` is deprecated in MySQL and its successor unknown to MariaDB, so the values are bound twice.
    sqlx::query(
        "INSERT INTO node (name, revision, admin_url, seen_at) \
         VALUES (?, ?, ?, CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)) \
         ON DUPLICATE KEY UPDATE revision = ?, admin_url = ?, \
         seen_at = CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    )
    .bind(node)
    .bind(revision)
    .bind(admin_url)
    .bind(revision)
    .bind(admin_url)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("note a heartbeat"))
}

/// Tries of a transaction that the server rolls back because of another.
const TRIES: u32 = 10;

/// How long an explanation may take, on top of what has been waited.
const EXPLAIN_WITHIN: Duration = Duration::from_secs(1);

/// How to reach the database and how long to wait for it.
#[derive(Debug, Clone)]
pub struct MySqlOptions {
    /// `mysql://user:password@host/database`, with `?ssl-mode=` as MySQL knows it.
    pub url: SecretString,
    /// Whether the first verb runs missing migrations; otherwise it fails with `NotMigrated`.
    pub migrate: bool,
    /// Longest wait for a connection.
    pub connect_within: Duration,
    /// Longest wait for one verb's answer; ten times as long for the snapshot of everything.
    pub answer_within: Duration,
    /// Changes that the log keeps; a reader further behind reloads everything.
    pub kept_changes: u32,
}

impl MySqlOptions {
    /// The database of this URL with the usual limits: 3 s to connect, 10 s to answer, 100,000 changes kept.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            migrate: true,
            connect_within: Duration::from_secs(3),
            answer_within: Duration::from_secs(10),
            kept_changes: rows::KEPT_CHANGES.try_into().unwrap_or(u32::MAX),
        }
    }
}

/// The relations in MySQL or MariaDB.
#[derive(Debug)]
pub struct MySqlRelations {
    inner: Arc<Inner>,
}

struct Inner {
    pool: MySqlPool,
    options: MySqlOptions,
    connect: MySqlConnectOptions,
    ready: OnceCell<()>,
}

/// Not derived: the driver's options show their password.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = (self.connect.get_host(), self.connect.get_port(), self.database());
        f.debug_struct("Inner").field("server", &server).finish_non_exhaustive()
    }
}

impl Inner {
    async fn prepare(self: Arc<Self>) -> Result<(), RelationsError> {
        // Of callers that come together, one works and the others wait.
        let work = async || {
            if self.options.migrate { self.run_migrations().await } else { self.check_migrations().await }
        };
        match self.ready.get_or_try_init(work).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// A pool that waited in vain does not say for what: one connection of our own does.
    async fn explain(&self, error: RelationsError) -> RelationsError {
        if !matches!(error, RelationsError::Unavailable(sqlx::Error::PoolTimedOut)) {
            return error;
        }
        match tokio::time::timeout(EXPLAIN_WITHIN, self.connect.connect()).await {
            Ok(Err(cause)) => RelationsError::Unavailable(cause),
            Ok(Ok(_)) | Err(_) => error,
        }
    }
}

impl MySqlRelations {
    /// The relations behind this URL; asks nothing of the server yet. Must be called within a runtime.
    pub fn new(options: MySqlOptions) -> Result<Self, RelationsError> {
        let connect = MySqlConnectOptions::from_str(options.url.expose_secret())
            .map_err(RelationsError::Url)?
            .charset("utf8mb4")
            .disable_statement_logging();
        if connect.get_database().is_none() {
            let problem = sqlx::Error::Configuration("it names no database".into());
            return Err(RelationsError::Url(problem));
        }
        let pool = MySqlPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(options.connect_within)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                    connection.execute("SET SESSION innodb_lock_wait_timeout = 5").await?;
                    Ok(())
                })
            })
            .connect_lazy_with(connect.clone());
        Ok(Self { inner: Arc::new(Inner { pool, options, connect, ready: OnceCell::new() }) })
    }

    /// Runs the missing migrations, whatever the options say.
    pub async fn migrate(&self) -> Result<(), RelationsError> {
        self.inner.run_migrations().await
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }

    /// Returns once the schema is known to be this version's.
    async fn prepared(&self) -> Result<(), RelationsError> {
        if self.inner.ready.initialized() {
            return Ok(());
        }
        // On a task of its own: a caller that gives up must not break off a migration halfway, which MySQL cannot
        // roll back.
        match tokio::spawn(Arc::clone(&self.inner).prepare()).await {
            Ok(result) => result,
            Err(_) => Err(RelationsError::Unavailable(sqlx::Error::WorkerCrashed)),
        }
    }

    /// A transaction whose reads are all as of one moment.
    async fn begin_snapshot(
        &self,
        verb: &'static str,
    ) -> Result<Transaction<'static, MySql>, RelationsError> {
        let mut connection = self.inner.pool.acquire().await.map_err(failed(verb))?;
        // Holds for the next transaction of this connection alone.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.map_err(failed(verb))?;
        Transaction::begin(
            connection,
            Some(sqlx::SqlSafeStr::into_sql_str("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")),
        )
        .await
        .map_err(failed(verb))
    }
}

/// Whether the server rolled the transaction back because of another: deadlock, lock timeout, and MariaDB's "record
/// has changed since last read".
fn is_collision(error: &RelationsError) -> bool {
    let RelationsError::Refused { source: sqlx::Error::Database(error), .. } = error else {
        return false;
    };
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    matches!(number, Some(1205 | 1213 | 1020))
}

/// Runs one verb: waits for the schema, bounds the time, and repeats the transaction after a collision.
///
/// A macro because the body borrows both the transaction and the verb's arguments, for which closures that return
/// futures have no type that `Send` could be asked of.
macro_rules! verb {
    ($store:expr, $limit:expr, $attempt:expr) => {{
        $store.prepared().await?;
        let limit: std::time::Duration = $limit;
        let repeated = async {
            let mut tries = 1;
            loop {
                match $attempt.await {
                    Err(error) if tries < super::TRIES && super::is_collision(&error) => {
                        tokio::time::sleep(std::time::Duration::from_millis(5 * u64::from(tries))).await;
                        tries += 1;
                    }
                    result => break result,
                }
            }
        };
        match tokio::time::timeout(limit, repeated).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err($store.inner.explain(error).await),
            Err(_) => Err(crate::relations::silent(limit)),
        }
    }};
}
use verb;
