//! What is kept of functions over a restart: the state of their circuit breakers.

use sqlx::{Row, SqlitePool};

use super::{
    FunctionState,
    batch::Batch,
    books::function_of,
    command::{Answer, Step},
};
use crate::domain::{clock::Timestamp, delivery::FunctionRef};

impl Batch<'_> {
    /// Writes a function's state over the one before, or removes it.
    pub(super) async fn keep_function_state(
        &mut self,
        function: &FunctionRef,
        state: Option<&FunctionState>,
    ) -> Result<Step, sqlx::Error> {
        let query = match state {
            Some(state) => sqlx::query(
                "INSERT INTO function_state (platform, name, open_until, opened, reason) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (platform, name) DO UPDATE \
                 SET open_until = excluded.open_until, opened = excluded.opened, reason = excluded.reason",
            )
            .bind(&*function.platform)
            .bind(&*function.name)
            .bind(state.open_until.as_micros())
            .bind(state.opened)
            .bind(&*state.reason),
            None => sqlx::query("DELETE FROM function_state WHERE platform = ?1 AND name = ?2")
                .bind(&*function.platform)
                .bind(&*function.name),
        };
        query.execute(&mut *self.conn).await?;
        Ok(Step::Done(Ok(Answer::Nothing)))
    }
}

/// What is kept of all functions.
pub(super) async fn function_states(pool: &SqlitePool) -> Result<Vec<FunctionState>, sqlx::Error> {
    let rows = sqlx::query("SELECT platform, name, open_until, opened, reason FROM function_state")
        .fetch_all(pool)
        .await?;
    let states = rows.iter().map(|row| {
        Ok(FunctionState {
            function: function_of(row)?,
            open_until: Timestamp::from_micros(row.try_get("open_until")?),
            opened: u32::try_from(row.try_get::<i64, _>("opened")?).unwrap_or(1),
            reason: row.try_get("reason")?,
        })
    });
    states.collect()
}
