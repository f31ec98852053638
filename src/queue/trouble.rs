//! What is wrong with the file, for a person, and whether something is wrong now.
//!
//! The writer notes how its last transaction ended; readiness shows it, and dispatch asks before it would wait for a
//! disk that does not take anything. Only a transaction that wrote something says that the disk is well again: one that
//! changes nothing touches no disk.
//!
//! **Damage.** A page that is not what SQLite wrote is often met by a reader first, for the writer has its own copy in
//! memory: it would go on parking rows that nobody can read again. So damage, whoever meets it, stays noted until the
//! daemon is started anew, and nothing more is taken on.
//!
//! **The file and its name.** SQLite keeps its files open, so a file that was deleted or replaced under the running
//! daemon goes on taking rows, and loses them with the process. The writer therefore looks, before each transaction,
//! whether the name still leads to the file that it has open. If not, it takes on nothing more (no park, no dead letter,
//! nothing for the quarantine) and goes on recording what becomes of the rows that it has. The same holds for `queue.db-wal`,
//! in which the last commits are until they are moved: somebody who cleans up may take it for a leftover.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::QueueError;

/// How the last write ended, or that the file is damaged; shared by the writer and all handles.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<QueueError>>>);

impl Trouble {
    /// What is wrong now.
    pub(super) fn now(&self) -> Option<QueueError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes it; whether all was well before. Damage stays, whatever comes after it.
    pub(super) fn set(&self, error: QueueError) -> bool {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_well = now.is_none();
        if !now.as_ref().is_some_and(is_damage) {
            *now = Some(error);
        }
        was_well
    }

    /// A write was done; whether that means that all is well again.
    pub(super) fn clear(&self) -> bool {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !now.as_ref().is_some_and(is_damage) && now.take().is_some()
    }

    /// The damage, once it was met.
    pub(super) fn damage(&self) -> Option<QueueError> {
        self.now().filter(is_damage)
    }
}

/// The file that was opened, with its log, to be told from others under the same names.
#[derive(Debug, Clone)]
pub(super) struct OpenedFile {
    path: PathBuf,
    identity: Identity,
    wal: PathBuf,
    /// Since the log was there.
    wal_identity: OnceLock<Identity>,
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Whether the name leads to that file. A disk that cannot say leaves it to the write to fail.
fn leads_to(path: &Path, file: Identity) -> bool {
    match identity(path) {
        Ok(found) => found == file,
        Err(error) => ![io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()),
    }
}

impl OpenedFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let identity = identity(path)?;
        Ok(Self { path: path.to_owned(), identity, wal: wal.into(), wal_identity: OnceLock::new() })
    }

    /// `Gone` when a name leads elsewhere, or nowhere.
    pub(super) fn is_there(&self) -> Result<(), QueueError> {
        let gone = |path: &PathBuf| Err(QueueError::Gone { path: path.clone() });
        if !leads_to(&self.path, self.identity) {
            return gone(&self.path);
        }
        match self.wal_identity.get() {
            Some(known) if !leads_to(&self.wal, *known) => gone(&self.wal),
            Some(_) => Ok(()),
            None => {
                // It is made by the first write, and stays as long as the file is open.
                if let Ok(found) = identity(&self.wal) {
                    self.wal_identity.get_or_init(|| found);
                }
                Ok(())
            }
        }
    }
}

/// Whether the file is not what SQLite wrote.
pub(super) fn is_damage(error: &QueueError) -> bool {
    matches!(error, QueueError::Failed { source, .. } if [Some(11), Some(26)].contains(&code(source)))
}

/// SQLite's primary code of an error.
fn code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    let code: i32 = error.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// What to do about an error of the file.
pub(super) fn remedy(error: &sqlx::Error) -> &'static str {
    const IO: &str = "its disk does not work: look at the kernel's log and at how it is mounted";
    const FULL: &str = "the disk of the state directory is full: make room on it";
    const READ_ONLY: &str =
        "it may not be written: mount its file system writable, and let it belong to triggerd's user";
    const MISSING: &str =
        "it cannot be opened: look whether the state directory is there and belongs to triggerd's user";
    const ELSE: &str = "nothing says that its disk is at fault; triggerd's log holds the whole cause";
    match error {
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => READ_ONLY,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MISSING,
            _ => IO,
        },
        error => match code(error) {
            Some(5 | 6) => {
                "another process has it locked: end that one (a backup or an SQL shell; `fuser` on the file names it)"
            }
            Some(8) => READ_ONLY,
            Some(10) => IO,
            Some(11 | 26) => {
                "it is damaged: stop triggerd; `triggerd queue export` saves what can be read, for `import` into a new file. \
                 If the file does not even open, move it away with queue.db-wal and queue.db-shm and keep them: triggerd \
                 begins a new one, and what is in the old one is lost unless an SQLite tool (`.recover`) gets it out"
            }
            Some(13) => FULL,
            Some(14) => MISSING,
            Some(7) => "there is no memory left: see what takes it",
            _ => ELSE,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_replaced_or_deleted_is_gone_and_one_that_comes_back_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        fs::write(&path, "one").unwrap();
        let file = OpenedFile::of(&path).unwrap();
        file.is_there().unwrap();
        let aside = dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let gone = file.is_there().unwrap_err();
        assert!(gone.to_string().contains(&*path.to_string_lossy()), "{gone}");
        fs::write(&path, "two").unwrap();
        assert!(matches!(file.is_there(), Err(QueueError::Gone { .. })));
        fs::rename(&aside, &path).unwrap();
        file.is_there().unwrap();

        let wal = dir.path().join("queue.db-wal");
        fs::write(&wal, "commits").unwrap();
        file.is_there().unwrap();
        fs::rename(&wal, &aside).unwrap();
        let gone = file.is_there().unwrap_err();
        assert!(gone.to_string().contains("queue.db-wal was deleted"), "{gone}");
        fs::write(&wal, "others").unwrap();
        assert!(file.is_there().is_err());
        fs::rename(&aside, &wal).unwrap();
        file.is_there().unwrap();
    }

    #[test]
    fn each_fault_of_a_disk_has_its_remedy() {
        let said = |kind: io::ErrorKind| remedy(&sqlx::Error::Io(kind.into()));
        assert!(said(io::ErrorKind::StorageFull).contains("make room"));
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("writable"));
        assert!(said(io::ErrorKind::NotFound).contains("is there"));
        assert!(said(io::ErrorKind::Other).contains("kernel's log"));
        for no_fault_of_a_disk in [sqlx::Error::PoolTimedOut, sqlx::Error::RowNotFound] {
            assert!(remedy(&no_fault_of_a_disk).contains("nothing says that its disk is at fault"));
        }
    }
}
