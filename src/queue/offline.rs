//! The queue file of a daemon that does not run: looked over, exported, imported into.
//!
//! Whoever opens it this way owns the state directory for as long as it is open. Only a [`glance`] owns nothing: it may be
//! taken beside a running daemon.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
};

use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::{
    QueueError, QueueOptions, StateDirError, StateDirLock,
    batch::used_bytes,
    open::{self, connect_options, failed, prepare_file, read_options},
    spool::lock_state_dir,
    transfer::{self, Exported, Imported, TransferError},
    verify::{self, Verified},
};

/// Why the file of a stopped daemon was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The daemon runs, or the directory cannot be used.
    #[error("this needs the daemon stopped")]
    Lock(#[source] StateDirError),
    /// There is no queue.
    #[error("there is no queue.db in {}", dir.display())]
    Missing {
        /// Where.
        dir: PathBuf,
    },
    /// It cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: QueueError,
    },
}

/// What a glance at the file shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Deliveries that are parked, those that are held or await a result included.
    pub parked: u64,
    /// Bytes in use.
    pub bytes: u64,
}

/// Looks whether the file can be read, and by this version, whether a daemon runs or not; none when there is no file. It
/// changes nothing, holds nothing up, and says nothing of pages that it need not read.
pub async fn glance(state_dir: &Path, options: &QueueOptions) -> Result<Option<Glance>, QueueError> {
    let path = state_dir.join("queue.db");
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            open::is_missed(&path)?;
            return Ok(None);
        }
        // As it is when the daemon was killed at its very first start.
        Ok(file) if file.len() == 0 => return Ok(None),
        found => found.map_err(|error| failed("open", sqlx::Error::Io(error)))?,
    };
    // Without a log nobody has it open, and all of it is in the file: SQLite need not make a log in order to read.
    let alone = !state_dir.join("queue.db-wal").exists();
    let reader = connect_options(&path, options);
    let reader = read_options(&reader, options).read_only(true).immutable(alone);
    let mut conn = reader.connect().await.map_err(|error| failed("open", error))?;
    let seen = open::is_of_this_version(&mut conn).await;
    let seen = match seen {
        Ok(()) => counts(&mut conn).await.map_err(|error| failed("read", error)),
        Err(error) => Err(error),
    };
    // What was only read need not be closed well.
    let _unclosed = conn.close().await;
    seen.map(Some)
}

async fn counts(conn: &mut SqliteConnection) -> Result<Glance, sqlx::Error> {
    let parked: i64 =
        sqlx::query_scalar("SELECT coalesce(sum(parked), 0) FROM function").fetch_one(&mut *conn).await?;
    Ok(Glance { parked: u64::try_from(parked).unwrap_or(0), bytes: used_bytes(conn).await? })
}

/// The queue file of a daemon that does not run.
#[derive(Debug)]
pub struct OfflineQueue {
    conn: SqliteConnection,
    max_bytes: u64,
    /// The file, if it was made in order to be opened.
    made: Option<Made>,
    _lock: StateDirLock,
}

/// A file that was not there before.
#[derive(Debug)]
struct Made(PathBuf);

impl Made {
    /// Takes it away: it holds nothing, and would pass for a queue that was worked off.
    fn forget(self) {
        for end in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(end);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, file = %path.display(), "an empty queue file is left behind");
            }
        }
    }
}

impl OfflineQueue {
    /// Opens it to be read: nothing is made, migrated or changed. A schema that this version does not know is an error;
    /// an older one is not.
    pub async fn read(state_dir: &Path, options: &QueueOptions) -> Result<Self, OfflineError> {
        if !state_dir.join("queue.db").is_file() {
            return Err(OfflineError::Missing { dir: state_dir.to_owned() });
        }
        let lock = lock_state_dir(state_dir).map_err(OfflineError::Lock)?;
        let path = state_dir.join("queue.db");
        let opened = async {
            let writer = connect_options(&path, options);
            let mut conn = read_options(&writer, options).connect().await.map_err(|e| failed("open", e))?;
            open::refuse_newer(&mut conn).await?;
            Ok(conn)
        };
        let conn = opened.await.map_err(|source| OfflineError::Open { path: path.clone(), source })?;
        Ok(Self { conn, max_bytes: options.max_bytes, made: None, _lock: lock })
    }

    /// Opens it to be imported into; it is made and migrated as needed. One that was made here goes again when nothing comes
    /// of it.
    pub async fn write(state_dir: &Path, options: &QueueOptions) -> Result<Self, OfflineError> {
        let lock = lock_state_dir(state_dir).map_err(OfflineError::Lock)?;
        let path = state_dir.join("queue.db");
        let made = (!path.exists()).then(|| Made(path.clone()));
        let opened = async {
            prepare_file(&path)?;
            let mut conn = connect_options(&path, options).connect().await.map_err(|e| failed("open", e))?;
            open::migrate(&mut conn, options.migrate).await?;
            Ok(conn)
        };
        match opened.await {
            Ok(conn) => Ok(Self { conn, max_bytes: options.max_bytes, made, _lock: lock }),
            Err(source) => {
                if let Some(made) = made {
                    made.forget();
                }
                Err(OfflineError::Open { path, source })
            }
        }
    }

    /// Looks it over.
    pub async fn verify(mut self) -> Result<Verified, QueueError> {
        let verified = verify::verify(&mut self.conn, self.max_bytes).await;
        self.close().await;
        verified
    }

    /// Writes everything that it holds.
    pub async fn export(mut self, out: impl Write) -> Result<Exported, TransferError> {
        let exported = transfer::export(&mut self.conn, out).await;
        self.close().await;
        exported
    }

    /// Takes over what an export holds; all of it or nothing.
    pub async fn import(mut self, from: impl BufRead) -> Result<Imported, TransferError> {
        let imported = transfer::import(&mut self.conn, from, self.max_bytes).await;
        let made = self.made.take();
        // Before the lock is let go: else a daemon that starts now would lose its file.
        close_well(self.conn).await;
        if let (Err(_), Some(made)) = (&imported, made) {
            made.forget();
        }
        imported
    }

    async fn close(self) {
        close_well(self.conn).await;
    }
}

async fn close_well(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        tracing::warn!(%error, "the queue file was not closed cleanly");
    }
}
