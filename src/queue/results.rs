//! Deliveries whose result is awaited: the verbs for them, and what they do within a transaction.
//!
//! Such a delivery is parked before its function is called. Once the call is accepted the row says since when its result
//! is awaited, and is due when the wait is over; it is never held meanwhile. A report may come at any moment, whichever
//! attempt runs then, so whatever is recorded here finds its row or changes nothing: what a report has removed does not
//! come back.

use std::fmt;

use async_trait::async_trait;

use super::{
    DeadLetter, QueueError, SqliteQueue,
    batch::Batch,
    command::{LetterRow, Step, Work},
    deliveries::attempt_weight,
    open::failed,
    read,
};
use crate::domain::{
    clock::Timestamp,
    delivery::Delivery,
    ids::DeliveryId,
    outcome::{Attempt, Class},
};

/// A delivery whose result is awaited from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Which.
    pub id: DeliveryId,
    /// In which life ([`Delivery::earlier`]).
    pub earlier: u32,
    /// After how many tries.
    pub tries: u32,
    /// When the call was made that was accepted.
    pub since: Timestamp,
    /// When it has waited long enough: it is due then.
    pub until: Timestamp,
}

impl Wait {
    /// For the result of a call that was made for the delivery as it is here.
    pub fn of(delivery: &Delivery, since: Timestamp, until: Timestamp) -> Self {
        Self { id: delivery.id, earlier: delivery.earlier, tries: delivery.tries, since, until }
    }
}

/// The verbs for results. Each `Ok` means: on disk.
#[async_trait]
pub trait Results: Send + Sync + fmt::Debug {
    /// A parked delivery, due or not, whether an attempt owns it or not; none when it is not parked (any more).
    async fn parked(&self, id: DeliveryId) -> Result<Option<Delivery>, QueueError>;

    /// Has a parked delivery wait for its result, held or not; whether it was there, as it was called.
    async fn wait_for_result(&self, wait: Wait) -> Result<bool, QueueError>;

    /// Makes a dead letter of a delivery that is parked, with its attempts; false when it is not parked (any more), or was
    /// replayed meanwhile.
    async fn bury_parked(&self, letter: DeadLetter) -> Result<bool, QueueError>;

    /// Adds to a dead letter that its function has succeeded after all, once; whether there is such a letter.
    async fn came_late(&self, id: DeliveryId, attempt: Attempt) -> Result<bool, QueueError>;
}

#[async_trait]
impl Results for SqliteQueue {
    async fn parked(&self, id: DeliveryId) -> Result<Option<Delivery>, QueueError> {
        self.noted(read::parked(self.readers()?, id).await)
    }

    async fn wait_for_result(&self, wait: Wait) -> Result<bool, QueueError> {
        self.was(Work::Await(wait)).await
    }

    async fn bury_parked(&self, letter: DeadLetter) -> Result<bool, QueueError> {
        let row = LetterRow::new(letter);
        let row = row.map_err(|error| failed("bury", sqlx::Error::Encode(error.into())))?;
        self.was(Work::Bury(Box::new(LetterRow { only_parked: true, ..row }))).await
    }

    async fn came_late(&self, id: DeliveryId, attempt: Attempt) -> Result<bool, QueueError> {
        self.was(Work::CameLate(id, attempt)).await
    }
}

impl Batch<'_> {
    pub(super) async fn wait_for_result(&mut self, wait: Wait) -> Result<Step, sqlx::Error> {
        let changed = sqlx::query(
            "UPDATE delivery SET due = ?2, awaiting_since = ?3, held = 0, held_since = NULL \
             WHERE id = ?1 AND earlier = ?4 AND tries = ?5",
        )
        .bind(&wait.id.as_bytes()[..])
        .bind(wait.until.as_micros())
        .bind(wait.since.as_micros())
        .bind(wait.earlier)
        .bind(wait.tries)
        .execute(&mut *self.conn)
        .await?
        .rows_affected();
        Ok(Step::was(changed > 0))
    }

    pub(super) async fn came_late(&mut self, id: DeliveryId, attempt: &Attempt) -> Result<Step, sqlx::Error> {
        let told: Option<bool> = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM attempt a WHERE a.delivery = l.id AND a.class = ?2) \
             FROM dead_letter l WHERE l.id = ?1",
        )
        .bind(&id.as_bytes()[..])
        .bind(Class::Ok.as_str())
        .fetch_optional(&mut *self.conn)
        .await?;
        let Some(told) = told else { return Ok(Step::was(false)) };
        // In a full file it goes unrecorded: the letter is there, as it was.
        if !told && !self.beyond(attempt_weight(attempt), self.limits.max_bytes) {
            self.insert_attempt(id, attempt).await?;
        }
        Ok(Step::was(true))
    }
}
