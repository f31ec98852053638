//! Dead letters: made, replayed, discarded.
//!
//! A replay begins a life of its own: the attempts are counted anew, and numbered on (`Delivery::number`), one number further
//! than was counted, because a call may have been under way when the delivery died. What an attempt of another life would
//! record finds nothing to record it on.
//!
//! A dead letter keeps its delivery's id, event row and attempts; becoming one, or being parked again, moves one small
//! row and nothing else, in one transaction.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    QueueError,
    batch::Batch,
    books::function_of,
    command::{Answer, LetterRow, Step, Stored},
    rows::{json, to_i64},
};
use crate::domain::{
    clock::Timestamp,
    delivery::DeadReason,
    ids::{BindingId, DeliveryId},
};

/// A dead letter's row to be written; its event is there.
#[derive(Debug)]
pub(super) struct NewLetter<'a> {
    pub(super) stored: &'a Stored,
    pub(super) function: i64,
    pub(super) reason: DeadReason,
    pub(super) detail: &'a str,
    pub(super) died_at: Timestamp,
    pub(super) replays: i64,
}

impl Batch<'_> {
    pub(super) async fn bury(&mut self, letter: &LetterRow) -> Result<Step, sqlx::Error> {
        let stored = &letter.stored;
        let dead: Option<i64> = sqlx::query_scalar("SELECT seq FROM dead_letter WHERE id = ?1")
            .bind(&stored.id.as_bytes()[..])
            .fetch_optional(&mut *self.conn)
            .await?;
        if dead.is_some() {
            return Ok(Step::was(false));
        }
        // However a handler's delivery ends, no dead letter comes of it.
        if !self.handlers_among(&[stored.id]).await?.is_empty() {
            self.remove_deliveries(&[stored.id]).await?;
            return Ok(Step::was(false));
        }
        let parked: Option<(i64, i64, i64, bool)> = sqlx::query_as(
            "SELECT function, weight, replays, earlier = ?2 AND tries <= ?3 FROM delivery WHERE id = ?1",
        )
        .bind(&stored.id.as_bytes()[..])
        .bind(stored.earlier)
        .bind(stored.tries)
        .fetch_optional(&mut *self.conn)
        .await?;
        let mut replays = i64::from(letter.replays);
        if let Some((function, weight, replayed, is_this)) = parked {
            if !is_this {
                return Ok(Step::was(false));
            }
            sqlx::query("DELETE FROM delivery WHERE id = ?1")
                .bind(&stored.id.as_bytes()[..])
                .execute(&mut *self.conn)
                .await?;
            self.books.remove(function, weight);
            replays = replays.max(replayed);
        } else if letter.only_parked {
            return Ok(Step::was(false));
        } else if self.beyond(stored.weight(), self.limits.max_bytes) {
            return Ok(Step::Done(Err(QueueError::Full { bytes: self.used })));
        } else {
            self.used += stored.weight();
        }
        let function = self.books.number(self.conn, &stored.function).await?;
        self.insert_event(stored.event, &stored.payload).await?;
        self.insert_letter(&NewLetter {
            stored,
            function,
            reason: letter.reason,
            detail: &letter.detail,
            died_at: letter.died_at,
            replays,
        })
        .await?;
        self.add_missing_attempts(letter).await?;
        Ok(Step::was(true))
    }

    async fn add_missing_attempts(&mut self, letter: &LetterRow) -> Result<(), sqlx::Error> {
        let kept: Vec<i64> = sqlx::query_scalar("SELECT at FROM attempt WHERE delivery = ?1")
            .bind(&letter.stored.id.as_bytes()[..])
            .fetch_all(&mut *self.conn)
            .await?;
        let missing = letter.attempts.iter().filter(|attempt| !kept.contains(&attempt.at.as_micros()));
        let missing: Vec<_> = missing.collect();
        let bound = usize::try_from(self.limits.attempts).unwrap_or(usize::MAX);
        for attempt in missing.iter().skip(missing.len().saturating_sub(bound)) {
            self.insert_attempt(letter.stored.id, attempt).await?;
        }
        Ok(())
    }

    pub(super) async fn insert_letter(&mut self, letter: &NewLetter<'_>) -> Result<(), sqlx::Error> {
        let stored = letter.stored;
        sqlx::query(
            "INSERT INTO dead_letter (id, event, binding, function, accepted_at, attempts, tries, earlier, \
                 replays, weight, reason, detail, died_at) \
             VALUES (?1, (SELECT seq FROM event WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )
        .bind(&stored.id.as_bytes()[..])
        .bind(&stored.event.as_bytes()[..])
        .bind(&stored.binding.as_bytes()[..])
        .bind(letter.function)
        .bind(stored.accepted_at.as_micros())
        .bind(stored.attempts)
        .bind(stored.tries)
        .bind(stored.earlier)
        .bind(letter.replays)
        .bind(to_i64(stored.weight()))
        .bind(letter.reason.as_str())
        .bind(letter.detail)
        .bind(letter.died_at.as_micros())
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }

    /// Makes dead letters of parked deliveries of a binding that is taken back.
    pub(super) async fn deliveries_to_letters(
        &mut self,
        ids: &[DeliveryId],
        binding: BindingId,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let ids = json(ids.iter())?;
        sqlx::query(
            "INSERT INTO dead_letter (id, event, binding, function, accepted_at, attempts, tries, earlier, \
                 replays, weight, reason, detail, died_at) \
             SELECT id, event, binding, function, accepted_at, attempts, tries, earlier, replays, weight, ?2, \
                 CASE WHEN awaiting_since IS NULL THEN ?4 || ' while it waited' \
                 ELSE ?4 || ' while its result was awaited' END, ?3 \
             FROM delivery WHERE id IN (SELECT unhex(value) FROM json_each(?1)) ORDER BY seq",
        )
        .bind(&ids)
        .bind(DeadReason::Unbound.as_str())
        .bind(now.as_micros())
        .bind(format!("binding {binding} was taken back (`unbind`), and cleared here at {now},"))
        .execute(&mut *self.conn)
        .await?;
        let rows = sqlx::query(
            "DELETE FROM delivery WHERE id IN (SELECT unhex(value) FROM json_each(?1)) \
             RETURNING function, weight",
        )
        .bind(&ids)
        .fetch_all(&mut *self.conn)
        .await?;
        for row in &rows {
            self.books.remove(row.try_get("function")?, row.try_get("weight")?);
        }
        Ok(())
    }

    pub(super) async fn replay(&mut self, id: DeliveryId, now: Timestamp) -> Result<Step, sqlx::Error> {
        let row: Option<SqliteRow> = sqlx::query(
            "SELECT l.function, l.weight, f.platform, f.name \
             FROM dead_letter l JOIN function f ON f.id = l.function WHERE l.id = ?1",
        )
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut *self.conn)
        .await?;
        let Some(row) = row else { return Ok(Step::Done(Ok(Answer::Function(None)))) };
        sqlx::query(
            "INSERT INTO delivery (id, event, binding, function, accepted_at, due, held, attempts, tries, \
                 earlier, replays, weight) \
             SELECT id, event, binding, function, ?2, ?2, 0, 0, 0, earlier + tries + 1, replays + 1, weight \
             FROM dead_letter WHERE id = ?1",
        )
        .bind(&id.as_bytes()[..])
        .bind(now.as_micros())
        .execute(&mut *self.conn)
        .await?;
        sqlx::query("DELETE FROM dead_letter WHERE id = ?1")
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.conn)
            .await?;
        self.remove_attempts(&[id]).await?;
        let weight: i64 = row.try_get("weight")?;
        self.books.remove(row.try_get("function")?, -weight);
        Ok(Step::Done(Ok(Answer::Function(Some(function_of(&row)?)))))
    }

    pub(super) async fn rebind(&mut self, id: DeliveryId, binding: BindingId) -> Result<Step, sqlx::Error> {
        let changed = sqlx::query("UPDATE dead_letter SET binding = ?2 WHERE id = ?1")
            .bind(&id.as_bytes()[..])
            .bind(&binding.as_bytes()[..])
            .execute(&mut *self.conn)
            .await?
            .rows_affected();
        Ok(Step::was(changed > 0))
    }

    pub(super) async fn discard(&mut self, id: DeliveryId) -> Result<Step, sqlx::Error> {
        let event: Option<i64> = sqlx::query_scalar("DELETE FROM dead_letter WHERE id = ?1 RETURNING event")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.conn)
            .await?;
        let Some(event) = event else { return Ok(Step::was(false)) };
        self.remove_attempts(&[id]).await?;
        self.remove_unused_events(&[event]).await?;
        Ok(Step::was(true))
    }
}
