//! Files that are whole or absent, whatever happens: written under another name, flushed to the disk,
//! renamed, and the folder flushed too. When `write` returns, the content survives a power failure; a
//! crash before that leaves the old content, and at most a `*.tmp` that `remove_drafts` clears away at the next start.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Makes `folder/name` hold `content`, readable by this user only. Two writers of one name do not
/// disturb each other: the later rename wins.
pub(crate) fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let draft = folder.join(format!("{name}.{}.tmp", WRITES.fetch_add(1, Ordering::Relaxed)));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, folder.join(name)));
    if let Err(error) = written {
        fs::remove_file(&draft).ok();
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Removes `folder/name` for good; that it was not there is success.
pub(crate) fn remove(folder: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(folder)?.sync_all(),
    }
}

/// The names of a folder's `*.json` files, in order.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|kind| kind == "json") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Clears away what a crash left half written. Only for the process that owns the folder.
pub(crate) fn remove_drafts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "tmp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
