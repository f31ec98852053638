//! Handing dead letters over to the functions that handle them.
//!
//! One row (`handed_over`) says up to which position every dead letter was looked at. Whoever looks resolves the handler
//! function of each further letter, and has the queue park a delivery for it (with the letter's id, under an id made of
//! it) and move the position, in one transaction. However a letter came to be, the position does not pass it
//! unseen, and a crash before the commit leaves it to be looked at again: none is left out. In a full file it moves as far
//! as there was room.
//!
//! A delivery to a handler waits, is tried again and is paced as any other. It ends by being removed: nothing that
//! happens to it makes a dead letter, so a handler that fails is not called about its own failure.

use std::sync::Arc;

use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{
    QueueError,
    batch::Batch,
    command::{Answer, Step, Stored},
    rows::{json, to_i64},
};
use crate::domain::{
    clock::Timestamp,
    delivery::FunctionRef,
    ids::{BindingId, DeliveryId},
};

/// Dead letters that are to be looked at.
#[derive(Debug, Clone, Default)]
pub struct Unhanded {
    /// The letters, in the order in which they died.
    pub letters: Vec<UnhandedLetter>,
    /// The position of the last of them; none when there is none.
    pub upto: Option<i64>,
}

/// A dead letter that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnhandedLetter {
    /// The delivery that was given up.
    pub id: DeliveryId,
    /// Its binding.
    pub binding: BindingId,
    /// The platform of its function.
    pub platform: Arc<str>,
}

/// A letter to be handed over.
#[derive(Debug, Clone)]
pub struct Handover {
    /// The dead letter.
    pub letter: DeliveryId,
    /// The function that is given it.
    pub function: FunctionRef,
    /// When: its attempts are due from then, and its age is counted from then.
    pub now: Timestamp,
}

pub(super) async fn unhanded(pool: &SqlitePool, limit: u32) -> Result<Unhanded, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT l.seq, l.id, l.binding, f.platform \
         FROM dead_letter l LEFT JOIN function f ON f.id = l.function \
         WHERE l.seq > (SELECT seq FROM handed_over WHERE one = 1) ORDER BY l.seq LIMIT ?1",
    )
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let mut unhanded = Unhanded::default();
    for row in &rows {
        unhanded.upto = Some(row.try_get("seq")?);
        // A row that makes no sense is told of when it is listed; here it is passed by.
        let (Ok(id), Ok(binding)) =
            (DeliveryId::from_slice(row.try_get("id")?), BindingId::from_slice(row.try_get("binding")?))
        else {
            continue;
        };
        let platform: Option<&str> = row.try_get("platform")?;
        unhanded.letters.push(UnhandedLetter { id, binding, platform: platform.unwrap_or_default().into() });
    }
    Ok(unhanded)
}

/// How many of the last dead letters nobody has looked at yet.
pub(super) async fn count_unhanded(conn: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM dead_letter WHERE seq > (SELECT seq FROM handed_over WHERE one = 1)",
    )
    .fetch_one(conn)
    .await
}

/// Passes by what was moved here and was looked at where it comes from: all but the last `unhanded` letters.
pub(super) async fn pass_all_but(conn: &mut SqliteConnection, unhanded: u64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE handed_over SET seq = max(seq, coalesce( \
             (SELECT seq FROM dead_letter ORDER BY seq DESC LIMIT 1 OFFSET ?1), 0)) WHERE one = 1",
    )
    .bind(to_i64(unhanded))
    .execute(conn)
    .await?;
    Ok(())
}

impl Batch<'_> {
    pub(super) async fn hand_over(&mut self, letters: &[Handover], upto: i64) -> Result<Step, sqlx::Error> {
        let mut parked = 0;
        for Handover { letter, function, now } in letters {
            let found: Option<(i64, i64)> =
                sqlx::query_as("SELECT seq, died_at FROM dead_letter WHERE id = ?1")
                    .bind(&letter.as_bytes()[..])
                    .fetch_optional(&mut *self.conn)
                    .await?;
            let Some((seq, died_at)) = found else { continue };
            // Its event is there already; the row itself is all that it weighs.
            let weight = Stored::OVERHEAD;
            if self.beyond(weight, self.limits.max_bytes) {
                // Those before it are handed over, and would be again and again while there is no room for this one.
                self.all_handed_over(seq - 1).await?;
                return Ok(Step::Done(Err(QueueError::Full { bytes: self.used })));
            }
            let number = self.books.number(self.conn, function).await?;
            let inserted = sqlx::query(
                "INSERT INTO delivery (id, event, binding, function, accepted_at, due, held, attempts, tries, \
                     replays, weight, letter) \
                 SELECT ?2, event, binding, ?3, ?4, ?4, 0, 0, 0, 0, ?5, id FROM dead_letter WHERE id = ?1 \
                 ON CONFLICT (id) DO NOTHING",
            )
            .bind(&letter.as_bytes()[..])
            .bind(&DeliveryId::of_letter(*letter, Timestamp::from_micros(died_at)).as_bytes()[..])
            .bind(number)
            .bind(now.as_micros())
            .bind(to_i64(weight))
            .execute(&mut *self.conn)
            .await?
            .rows_affected();
            if inserted > 0 {
                self.books.add(number, weight);
                self.used += weight;
            }
            parked += inserted;
        }
        self.all_handed_over(upto).await?;
        Ok(Step::Done(Ok(Answer::Count(parked))))
    }

    async fn all_handed_over(&mut self, upto: i64) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE handed_over SET seq = max(seq, ?1) WHERE one = 1")
            .bind(upto)
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    /// Those of these deliveries that are for handler functions.
    pub(super) async fn handlers_among(
        &mut self,
        ids: &[DeliveryId],
    ) -> Result<Vec<DeliveryId>, sqlx::Error> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT id FROM delivery WHERE letter IS NOT NULL \
             AND id IN (SELECT unhex(value) FROM json_each(?1))",
        )
        .bind(json(ids.iter())?)
        .fetch_all(&mut *self.conn)
        .await?;
        let ids = rows.iter().map(|id| DeliveryId::from_slice(id).map_err(|e| sqlx::Error::Decode(e.into())));
        ids.collect()
    }
}
