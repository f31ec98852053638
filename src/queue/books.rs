//! What the writer knows by heart: functions by number, bytes parked by function, the size of the quarantine.
//!
//! They are read from counts that triggers keep with the rows (migration 0005), so that opening a file of a million
//! deliveries takes no longer than opening an empty one. Only the writer changes the file, so its books agree with it. They change along with a transaction that may yet
//! fail; then they are thrown away and read anew.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::rows::to_i64;
use crate::domain::delivery::FunctionRef;

#[derive(Debug)]
pub(super) struct Books {
    functions: HashMap<FunctionRef, i64>,
    parked: HashMap<i64, i64>,
    pub(super) quarantine_items: i64,
    pub(super) quarantine_bytes: i64,
}

impl Books {
    /// Forgets functions that nothing is kept for any more.
    pub(super) async fn forget_unused(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "DELETE FROM function WHERE parked = 0 \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.function = function.id) \
             AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.function = function.id)",
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    pub(super) const FUNCTIONS: &str = "SELECT id, platform, name, bytes FROM function";

    /// Reads them from the file.
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query(Self::FUNCTIONS).fetch_all(&mut *conn).await?;
        let functions = rows.iter().map(|row| Ok((function_of(row)?, row.try_get("id")?)));
        let functions = functions.collect::<Result<_, sqlx::Error>>()?;
        let parked = rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("bytes")?)));
        let parked = parked.collect::<Result<_, sqlx::Error>>()?;
        let (quarantine_items, quarantine_bytes) =
            sqlx::query_as("SELECT COUNT(*), COALESCE(SUM(length(bytes)), 0) FROM quarantine")
                .fetch_one(conn)
                .await?;
        Ok(Self { functions, parked, quarantine_items, quarantine_bytes })
    }

    /// The function's number; a new function is given one.
    pub(super) async fn number(
        &mut self,
        conn: &mut SqliteConnection,
        function: &FunctionRef,
    ) -> Result<i64, sqlx::Error> {
        if let Some(number) = self.functions.get(function) {
            return Ok(*number);
        }
        let number = sqlx::query_scalar("INSERT INTO function (platform, name) VALUES (?1, ?2) RETURNING id")
            .bind(&*function.platform)
            .bind(&*function.name)
            .fetch_one(conn)
            .await?;
        self.functions.insert(function.clone(), number);
        Ok(number)
    }

    /// Bytes that this function has parked.
    pub(super) fn parked(&self, number: i64) -> u64 {
        self.parked.get(&number).map_or(0, |bytes| u64::try_from(*bytes).unwrap_or(0))
    }

    /// So many bytes more are parked for this function.
    pub(super) fn add(&mut self, number: i64, bytes: u64) {
        *self.parked.entry(number).or_default() += to_i64(bytes);
    }

    /// So many bytes fewer are parked for this function.
    pub(super) fn remove(&mut self, number: i64, bytes: i64) {
        *self.parked.entry(number).or_default() -= bytes;
    }
}

/// A function from the columns `platform` and `name`.
pub(super) fn function_of(row: &SqliteRow) -> Result<FunctionRef, sqlx::Error> {
    let platform: &str = row.try_get("platform")?;
    let name: &str = row.try_get("name")?;
    Ok(FunctionRef { platform: platform.into(), name: name.into() })
}
