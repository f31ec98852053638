//! The relations: bindings, their handshake, their secrets; what all daemons share.
//!
//! One trait of verbs, each a transaction of its own; no transaction type leaves this module, so none can span a
//! network call. Two implementations pass one conformance suite: `mysql` (MySQL ≥ 8.4, MariaDB ≥ 10.6; the authority
//! where it is configured) and `sqlite` (`relations.db`; the authority where nothing else is, the mirror otherwise).
//!
//! **Revision.** Every change increments one counter in the same transaction, so commit order is revision order, and
//! notes which binding changed. A reader that knows a revision asks for what changed since. A reader whose database id
//! differs, or whose revision is greater than the database's (a restored backup), must reload everything.
//!
//! **Zero rows changed is a normal answer**: the verbs that depend on a state say so in their result, never by an error.

mod migrate;
mod mysql;
mod rows;
mod sqlite;

use std::{fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;

use crate::domain::{
    binding::{Binding, BindingSpec, State, Step},
    clock::Timestamp,
    ids::BindingId,
    secret::SigningSecret,
};

pub use mysql::{MySqlOptions, MySqlRelations};
pub use sqlite::{Role, SqliteRelations, Touched};

/// What went wrong with the relations.
#[derive(Debug, thiserror::Error)]
pub enum RelationsError {
    /// The database does not answer. Events go on from the mirror; changes of bindings wait.
    #[error("the relations database does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A statement was refused.
    #[error("the relations database refused to {verb}")]
    Refused {
        /// What was asked of it.
        verb: &'static str,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// A row that does not make sense.
    #[error("table `{table}`, row {row}: column `{column}` cannot be read: {problem}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong.
        problem: String,
    },
    /// The schema was made by a newer version of triggerd.
    #[error(
        "the relations database was migrated by a newer triggerd (migration {version} is unknown here); \
         upgrade this daemon, or give it another database"
    )]
    Newer {
        /// The migration that is unknown.
        version: i64,
    },
    /// The schema is older than this version needs, and migrating at start is turned off.
    #[error("the relations database lacks {missing} migration(s); run `triggerd migrate`")]
    NotMigrated {
        /// How many are missing.
        missing: usize,
    },
    /// A migration failed.
    #[error("migrating the relations database failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// Another daemon migrates, and did not end in time.
    #[error("another process has been migrating the relations database for {} s; wait for it, then start again", waited.as_secs())]
    MigrationLocked {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The URL cannot be used.
    #[error("`relations.url` is no URL of a MySQL database; write mysql://user:password@host/database")]
    Url(#[source] sqlx::Error),
    /// The local file cannot be made, or not be kept from other users.
    #[error("{} cannot be opened for this user alone", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that holds what must not be overwritten, or that is only a copy.
    #[error(
        "{} is {found}, but the config wants {wanted}: with `relations.url` set it is a copy, without it the only \
         place where bindings are kept; set `relations.url` as it was, or move the file away", path.display()
    )]
    WrongRole {
        /// Which file.
        path: PathBuf,
        /// What it is.
        found: Role,
        /// What it was opened as.
        wanted: Role,
    },
}

/// Which database, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Random, made with the database: another id is another database.
    pub database: [u8; 16],
    /// Number of changes so far.
    pub revision: u64,
}

/// What changed between two revisions.
#[derive(Debug, Clone)]
pub enum Changes {
    /// These bindings changed, and these are gone; now the head is there.
    Since {
        /// Where the reader is after taking these over.
        head: Head,
        /// As they are now.
        changed: Vec<Binding>,
        /// No longer there.
        gone: Vec<BindingId>,
    },
    /// The reader must load everything: another database, a revision from the future, or a pruned log.
    Reload,
}

/// Every binding, as of one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// As of when.
    pub head: Head,
    /// All of them, in no particular order.
    pub bindings: Vec<Binding>,
}

/// A binding to be made.
#[derive(Debug, Clone)]
pub struct NewBinding {
    /// The id it gets if it is new.
    pub id: BindingId,
    /// What is asked for; valid.
    pub spec: BindingSpec,
    /// The secret it gets if it is new.
    pub secret: SigningSecret,
    /// Who asks, for the audit: `operator`, or a platform's name.
    pub by: String,
    /// When.
    pub now: Timestamp,
    /// It is not made when its platform has as many, those that are being taken back included; nor when it has as many
    /// rejected ones, which do not count among the others.
    pub most: u32,
}

/// What came of asking for a binding.
#[derive(Debug, Clone)]
pub enum Bound {
    /// It was made.
    Created(Binding),
    /// The same was there already.
    Same(Binding),
    /// One with the same filter and function but other settings is there.
    Conflict(Binding),
    /// The same one is there and is being taken back; ask again when it is gone.
    Unbinding(Binding),
    /// It is not there, and its platform has as many as it may have.
    Full,
}

/// What the reconciler found out about a binding.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Where it stands now.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// What each step came to.
    pub steps: Vec<Step>,
    /// When.
    pub now: Timestamp,
}

/// Which bindings to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only this platform's.
    pub platform: Option<String>,
    /// Only those after this one, in the order of ids (which is the order in which they were made).
    pub after: Option<BindingId>,
    /// At most this many.
    pub limit: u32,
}

/// A daemon that uses these relations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in its config.
    pub name: String,
    /// The revision that its catalog has in force.
    pub revision: u64,
    /// Where its admin API is reached, if it says so.
    pub admin_url: Option<String>,
    /// How long ago it was heard of, by the database's clock.
    pub silent_for: Duration,
}

/// One change of a binding's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The revision that the change made.
    pub revision: u64,
    /// When.
    pub at: Timestamp,
    /// The state since then.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number; later entries have greater ones.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// `operator`, or a platform's name, or `reconciler`.
    pub by: String,
    /// `bind`, `unbind` or `remove`.
    pub action: String,
    /// Which binding.
    pub binding: BindingId,
    /// Which bucket and function, for a person: the binding may be gone.
    pub detail: String,
}

/// Leave to write one bucket's notification configuration; given up when dropped, or when its connection breaks.
pub trait BucketLock: Send + fmt::Debug {}

/// The verbs.
#[async_trait]
pub trait Relations: Send + Sync + fmt::Debug {
    /// Which database, and its revision.
    async fn head(&self) -> Result<Head, RelationsError>;

    /// What changed since the reader's head.
    async fn changes_since(&self, seen: Head) -> Result<Changes, RelationsError>;

    /// Everything, as of one revision.
    async fn snapshot(&self) -> Result<Snapshot, RelationsError>;

    /// Makes a binding in state `pending`, or finds the one that is there.
    async fn bind(&self, new: NewBinding) -> Result<Bound, RelationsError>;

    /// Turns what is wanted of a binding to absent and its state to `unbinding`; none when there is no such binding.
    async fn unbind(
        &self,
        id: BindingId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Binding>, RelationsError>;

    /// One binding.
    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError>;

    /// A page of bindings.
    async fn bindings(&self, query: &ListQuery) -> Result<Vec<Binding>, RelationsError>;

    /// Notes what the reconciler found, if the binding is still as it was at `seen_revision`; whether it was.
    ///
    /// Progress that equals what is stored (moments aside) changes nothing, the revision included.
    async fn record(
        &self,
        id: BindingId,
        seen_revision: u64,
        progress: &Progress,
    ) -> Result<bool, RelationsError>;

    /// Removes a binding that is `unbinding`; whether there was one.
    async fn remove(&self, id: BindingId, now: Timestamp) -> Result<bool, RelationsError>;

    /// The last changes of a binding's state, newest first; a binding that is gone has none.
    async fn history(&self, id: BindingId, limit: u32) -> Result<Vec<HistoryEntry>, RelationsError>;

    /// Who did what, newest first; only entries before the one given.
    async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, RelationsError>;

    /// Says that this daemon lives, and which revision it has in force.
    async fn heartbeat(
        &self,
        node: &str,
        revision: u64,
        admin_url: Option<&str>,
    ) -> Result<(), RelationsError>;

    /// The daemons that were ever heard of and not forgotten.
    async fn nodes(&self) -> Result<Vec<Node>, RelationsError>;

    /// Forgets a daemon that will not return; whether it was known.
    async fn forget_node(&self, node: &str) -> Result<bool, RelationsError>;

    /// The lock of one bucket's notification configuration; none when another daemon holds it.
    async fn lock_bucket(
        &self,
        storage: &str,
        bucket: &str,
    ) -> Result<Option<Box<dyn BucketLock>>, RelationsError>;
}

/// Sorts what the driver says into "does not answer" and "refuses".
fn failed(verb: &'static str) -> impl Fn(sqlx::Error) -> RelationsError {
    move |source| {
        if is_absence(&source) {
            RelationsError::Unavailable(source)
        } else {
            RelationsError::Refused { verb, source }
        }
    }
}

fn is_absence(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    match error {
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed | Protocol(_) => true,
        // Too many connections, shutting down, host blocked, connection killed; read-only after a fail-over.
        Database(error) => match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            Some(error) => {
                matches!(error.number(), 1040 | 1053 | 1129 | 1203 | 1290 | 1792 | 1836 | 1927 | 2006 | 2013)
            }
            None => false,
        },
        _ => false,
    }
}

/// The error of a database that has not answered within `limit`.
fn silent(limit: Duration) -> RelationsError {
    let text = format!("no answer within {} s", limit.as_secs_f32());
    RelationsError::Unavailable(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
}
