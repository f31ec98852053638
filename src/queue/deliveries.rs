//! Parked deliveries: delivered, put off, held and released, cleared with their binding.
//!
//! Requests that may touch very many rows are done in steps of a bounded number, each in a transaction of its own among
//! those of others. A crash between two steps leaves the rest as it was; asking again does the rest.

use sqlx::Row;

use super::{
    Disposal, Retry,
    batch::Batch,
    command::{Answer, Command, Step, Work},
    rows::{class_word, end_of_attempt, json, to_i64},
};
use crate::domain::{
    clock::Timestamp,
    delivery::FunctionRef,
    ids::{BindingId, DeliveryId},
    outcome::Attempt,
};

/// Rows that one step of a large request changes at most.
pub(super) const STEP: i64 = 500;

impl Batch<'_> {
    /// Removes each that is there; all of them are `Delivered`.
    pub(super) async fn delivered_all(&mut self, commands: &[Command]) -> Result<Vec<Step>, sqlx::Error> {
        let ids: Vec<DeliveryId> = commands
            .iter()
            .filter_map(|command| match &command.work {
                Work::Delivered(id) => Some(*id),
                _ => None,
            })
            .collect();
        let mut removed = self.remove_deliveries(&ids).await?;
        // A request that repeats another of its batch finds nothing left.
        Ok(ids
            .iter()
            .map(|id| {
                let at = removed.iter().position(|other| other == id);
                Step::was(at.map(|at| removed.swap_remove(at)).is_some())
            })
            .collect())
    }

    /// Removes deliveries with their attempts and, with the last of them, their events; which were there.
    pub(super) async fn remove_deliveries(
        &mut self,
        ids: &[DeliveryId],
    ) -> Result<Vec<DeliveryId>, sqlx::Error> {
        let rows = sqlx::query(
            "DELETE FROM delivery WHERE id IN (SELECT unhex(value) FROM json_each(?1)) \
             RETURNING id, event, function, weight",
        )
        .bind(json(ids.iter())?)
        .fetch_all(&mut *self.conn)
        .await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut removed = Vec::with_capacity(rows.len());
        let mut events: Vec<i64> = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = DeliveryId::from_slice(row.try_get("id")?).map_err(|e| sqlx::Error::Decode(e.into()))?;
            removed.push(id);
            events.push(row.try_get("event")?);
            self.books.remove(row.try_get("function")?, row.try_get("weight")?);
        }
        self.remove_attempts(&removed).await?;
        self.remove_unused_events(&events).await?;
        Ok(removed)
    }

    /// Forgets the attempts of these.
    pub(super) async fn remove_attempts(&mut self, ids: &[DeliveryId]) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM attempt WHERE delivery IN (SELECT unhex(value) FROM json_each(?1))")
            .bind(json(ids.iter())?)
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    /// Removes those of these events that no delivery and no dead letter needs any more.
    pub(super) async fn remove_unused_events(&mut self, events: &[i64]) -> Result<(), sqlx::Error> {
        sqlx::query(
            "DELETE FROM event WHERE seq IN (SELECT value FROM json_each(?1)) \
             AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.event = event.seq) \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.event = event.seq)",
        )
        .bind(json(events.iter())?)
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }

    pub(super) async fn retry(&mut self, retry: &Retry) -> Result<Step, sqlx::Error> {
        let moment = retry.attempt.as_ref().map_or(retry.due, end_of_attempt);
        // In a full file an attempt goes unrecorded rather than its delivery lost.
        let attempt = retry.attempt.as_ref().filter(|attempt| {
            let bytes = attempt_weight(attempt);
            !self.beyond(bytes, self.limits.max_bytes)
        });
        // Beyond the bound each new attempt takes the place of an old one.
        let grows = attempt.filter(|_| retry.tries <= self.limits.attempts);
        let grows_by = grows.map_or(0, attempt_weight);
        let function: Option<i64> = sqlx::query_scalar(
            "UPDATE delivery SET due = ?2, attempts = ?4, tries = ?5, weight = weight + ?7, \
                 accepted_at = accepted_at + CASE WHEN held AND NOT ?3 THEN max(0, ?6 - held_since) ELSE 0 END, \
                 held_since = CASE WHEN ?3 THEN coalesce(held_since, ?6) END, held = ?3, awaiting_since = NULL \
             WHERE id = ?1 AND earlier = ?8 AND tries <= ?5 RETURNING function",
        )
        .bind(&retry.id.as_bytes()[..])
        .bind(retry.due.as_micros())
        .bind(retry.held)
        .bind(retry.attempts)
        .bind(retry.tries)
        .bind(moment.as_micros())
        .bind(to_i64(grows_by))
        .bind(retry.earlier)
        .fetch_optional(&mut *self.conn)
        .await?;
        let Some(function) = function else { return Ok(Step::was(false)) };
        if let Some(attempt) = attempt {
            self.books.add(function, grows_by);
            self.insert_attempt(retry.id, attempt).await?;
        }
        Ok(Step::was(true))
    }

    /// Adds an attempt after those that are there; beyond the bound the oldest goes.
    pub(super) async fn insert_attempt(
        &mut self,
        delivery: DeliveryId,
        attempt: &Attempt,
    ) -> Result<(), sqlx::Error> {
        let n: i64 = sqlx::query_scalar(
            "INSERT INTO attempt (delivery, n, at, took_us, class, status, detail) \
             VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM attempt WHERE delivery = ?1), ?2, ?3, ?4, ?5, ?6) \
             RETURNING n",
        )
        .bind(&delivery.as_bytes()[..])
        .bind(attempt.at.as_micros())
        .bind(to_i64(attempt.took_us))
        .bind(class_word(attempt.class))
        .bind(attempt.status)
        .bind(&attempt.detail)
        .fetch_one(&mut *self.conn)
        .await?;
        self.used += attempt_weight(attempt);
        let oldest = n - i64::from(self.limits.attempts);
        if oldest > 0 {
            sqlx::query("DELETE FROM attempt WHERE delivery = ?1 AND n <= ?2")
                .bind(&delivery.as_bytes()[..])
                .bind(oldest)
                .execute(&mut *self.conn)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn hold(
        &mut self,
        binding: BindingId,
        held: bool,
        now: Timestamp,
    ) -> Result<Step, sqlx::Error> {
        let query = if held {
            // What was called waits for its result, whatever becomes of its binding.
            sqlx::query(
                "UPDATE delivery SET held = 1, held_since = ?2 \
                 WHERE seq IN (SELECT seq FROM delivery WHERE binding = ?1 AND held = 0 AND awaiting_since IS NULL LIMIT ?3)",
            )
        } else {
            sqlx::query(
                "UPDATE delivery SET held = 0, held_since = NULL, due = ?2, \
                     accepted_at = accepted_at + max(0, ?2 - held_since) \
                 WHERE seq IN (SELECT seq FROM delivery WHERE binding = ?1 AND held = 1 LIMIT ?3)",
            )
        };
        let query = query.bind(binding.as_bytes().to_vec()).bind(now.as_micros()).bind(STEP);
        let changed = query.execute(&mut *self.conn).await?.rows_affected();
        Ok(step_of(changed))
    }

    /// What awaits its result is not due now, which would end the wait, but at the latest.
    pub(super) async fn bring_forward(
        &mut self,
        function: &FunctionRef,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<Step, sqlx::Error> {
        let changed = sqlx::query(
            "UPDATE delivery SET due = iif(awaiting_since IS NULL, ?4, ?3) WHERE seq IN \
                 (SELECT seq FROM delivery INDEXED BY delivery_due \
                  WHERE function = (SELECT id FROM function WHERE platform = ?1 AND name = ?2) \
                  AND held = 0 AND due > ?3 ORDER BY due LIMIT ?5)",
        )
        .bind(&*function.platform)
        .bind(&*function.name)
        .bind(latest.as_micros())
        .bind(now.as_micros())
        .bind(STEP)
        .execute(&mut *self.conn)
        .await?
        .rows_affected();
        Ok(step_of(changed))
    }

    pub(super) async fn dispose(
        &mut self,
        binding: BindingId,
        disposal: Disposal,
        running: &[DeliveryId],
        now: Timestamp,
    ) -> Result<Step, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT id FROM delivery WHERE binding = ?1 \
             AND id NOT IN (SELECT unhex(value) FROM json_each(?2)) LIMIT ?3",
        )
        .bind(&binding.as_bytes()[..])
        .bind(json(running.iter())?)
        .bind(STEP)
        .fetch_all(&mut *self.conn)
        .await?;
        let ids = rows.iter().map(|row| {
            DeliveryId::from_slice(row.try_get("id")?).map_err(|error| sqlx::Error::Decode(error.into()))
        });
        let ids: Vec<DeliveryId> = ids.collect::<Result<_, _>>()?;
        match disposal {
            Disposal::Discard => {
                self.remove_deliveries(&ids).await?;
            }
            Disposal::DeadLetter => {
                // What a handler function was to be given lies among the dead letters already.
                let handlers = self.handlers_among(&ids).await?;
                self.remove_deliveries(&handlers).await?;
                self.deliveries_to_letters(&ids, binding, now).await?;
            }
        }
        Ok(step_of(ids.len() as u64))
    }
}

/// Bytes of an attempt's row, about.
pub(super) fn attempt_weight(attempt: &Attempt) -> u64 {
    64 + attempt.detail.len() as u64
}

fn step_of(rows: u64) -> Step {
    if to_i64(rows) < STEP { Step::Done(Ok(Answer::Count(rows))) } else { Step::More(rows) }
}
