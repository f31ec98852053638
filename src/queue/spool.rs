//! The state directory and its one owner.
//!
//! The owner holds a lock on the file `lock` in the directory for as long as it lives. The kernel lets go of it when the
//! process ends, however it ends, so there is nothing to clean up after a crash. The file's text, the owner's process
//! id, is only for people.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Why the state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process owns it.
    #[error(
        "the state directory {} is in use by another triggerd ({owner}); stop that one, or give this one its own `state_dir`",
        dir.display()
    )]
    Owned {
        /// Which directory.
        dir: PathBuf,
        /// `process 123`, or that it is not known.
        owner: String,
    },
    /// It cannot be made or written.
    #[error(
        "the state directory {} cannot be used; it must be writable, and belong to the user that runs triggerd",
        dir.display()
    )]
    Unusable {
        /// Which directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Ownership of the state directory, until it is dropped.
#[derive(Debug)]
pub struct StateDirLock {
    _file: File,
}

/// Makes the directory if it is missing (mode 0700) and takes ownership of it.
pub fn lock_state_dir(dir: &Path) -> Result<StateDirLock, StateDirError> {
    let unusable = |source| StateDirError::Unusable { dir: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StateDirError::Owned { dir: dir.to_owned(), owner: owner(&file) });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    // Only for people: a full disk is no reason not to start, for what is parked makes room as it is worked off.
    let _unwritten: io::Result<()> =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(StateDirLock { _file: file })
}

fn owner(file: &File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => format!("process {}", text.trim()),
        _ => "its process is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn second_owner_is_told_who_the_first_is_and_gets_in_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state/triggerd");
        let first = lock_state_dir(&dir).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let error = lock_state_dir(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(&*dir.to_string_lossy()), "{error}");
        drop(first);
        lock_state_dir(&dir).unwrap();
    }

    #[test]
    fn directory_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = lock_state_dir(&file.join("state")).unwrap_err();
        assert!(matches!(&error, StateDirError::Unusable { .. }), "{error}");
        assert!(error.to_string().contains("file/state"), "{error}");
    }
}
