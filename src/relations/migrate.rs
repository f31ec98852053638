//! Which migrations a database lacks, and which it has that this version does not know.
//!
//! Running migrations is each engine's matter, because the lock against a second migrator is: MySQL and MariaDB have
//! named locks, SQLite one write transaction. The lock that sqlx takes by itself is turned off: it asks for one without
//! a time limit by `GET_LOCK(…, -1)`, which MariaDB answers by NULL at once, without having locked anything.

use sqlx::migrate::{MigrateError, Migrator};

use super::RelationsError;

/// How the applied migrations compare with those of this version.
pub(super) fn compare(known: &Migrator, applied: &[i64]) -> Result<(), RelationsError> {
    if let Some(version) = applied.iter().find(|version| !known.version_exists(**version)) {
        return Err(RelationsError::Newer { version: *version });
    }
    let missing = known.iter().filter(|migration| !applied.contains(&migration.version)).count();
    if missing > 0 { Err(RelationsError::NotMigrated { missing }) } else { Ok(()) }
}

/// What a failed run of the migrator means.
pub(super) fn failed(error: MigrateError) -> RelationsError {
    match error {
        MigrateError::VersionMissing(version) => RelationsError::Newer { version },
        MigrateError::Execute(source) if super::is_absence(&source) => RelationsError::Unavailable(source),
        error => RelationsError::Migration(error),
    }
}
