//! The quarantine: what could never be processed, with its bytes; bounded, the oldest go and are counted.
//!
//! Rows of our own tables that cannot be read any more end here too, so that one of them does not keep others back.

use sqlx::Row;

use super::{
    Quarantined, QueueError,
    batch::Batch,
    command::{Answer, Step},
    rows::{Table, to_i64},
};
use crate::{domain::clock::Timestamp, telemetry::Metric};

/// The source of items that were rows of our own tables; their bytes are an event as we write it.
pub const REJECTED_ROWS: &str = "queue";

/// Most bytes kept of one item.
const MAX_ITEM: usize = 64 << 10;

/// Bytes of an item's row beside what was received, about.
const OVERHEAD: u64 = 256;

impl Batch<'_> {
    pub(super) async fn quarantine(&mut self, item: &Quarantined) -> Result<Step, sqlx::Error> {
        let bytes = &item.bytes[..item.bytes.len().min(MAX_ITEM)];
        let size = bytes.len() as u64 + OVERHEAD;
        // In a full file what came last is worth more than what was there: it is the one being asked about.
        while self.beyond(size, self.limits.max_bytes) {
            let freed = self.evict_oldest().await?;
            if freed == 0 {
                return Ok(Step::Done(Err(QueueError::Full { bytes: self.used })));
            }
            self.used = self.used.saturating_sub(freed);
        }
        let kept = sqlx::query(
            "INSERT INTO quarantine (source, received_at, reason, bytes, length) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(&item.source)
        .bind(item.received_at.as_micros())
        .bind(&item.reason)
        .bind(bytes)
        .bind(to_i64(item.length))
        .execute(&mut *self.conn)
        .await?;
        self.used += size;
        self.books.quarantine_items += 1;
        self.books.quarantine_bytes += to_i64(bytes.len() as u64);
        while self.books.quarantine_items > to_i64(self.limits.quarantine_items)
            || self.books.quarantine_bytes > to_i64(self.limits.quarantine_bytes)
        {
            if self.evict_oldest().await? == 0 {
                break;
            }
        }
        let id = u64::try_from(kept.last_insert_rowid()).unwrap_or(0);
        Ok(Step::Done(Ok(Answer::Kept(id))))
    }

    /// Drops the oldest item; its bytes, 0 when there is none.
    async fn evict_oldest(&mut self) -> Result<u64, sqlx::Error> {
        let size: Option<i64> = sqlx::query_scalar(
            "DELETE FROM quarantine WHERE seq = (SELECT min(seq) FROM quarantine) RETURNING length(bytes)",
        )
        .fetch_optional(&mut *self.conn)
        .await?;
        let Some(size) = size else { return Ok(0) };
        self.books.quarantine_items -= 1;
        self.books.quarantine_bytes -= size;
        Metric::QuarantineEvicted.count(&[]);
        Ok(u64::try_from(size).unwrap_or(0) + OVERHEAD)
    }

    /// Notes that an item was tried again in vain.
    pub(super) async fn requarantine(
        &mut self,
        id: u64,
        reason: &str,
        now: Timestamp,
    ) -> Result<Step, sqlx::Error> {
        let kept: Option<String> = sqlx::query_scalar("SELECT reason FROM quarantine WHERE seq = ?1")
            .bind(to_i64(id))
            .fetch_optional(&mut *self.conn)
            .await?;
        let Some(kept) = kept else { return Ok(Step::was(false)) };
        let changed =
            sqlx::query("UPDATE quarantine SET reason = ?2, tries = tries + 1, tried_at = ?3 WHERE seq = ?1")
                .bind(to_i64(id))
                .bind(Quarantined::reason_after(&kept, reason))
                .bind(now.as_micros())
                .execute(&mut *self.conn)
                .await?;
        Ok(Step::was(changed.rows_affected() > 0))
    }

    /// Forgets an item.
    pub(super) async fn unquarantine(&mut self, id: u64) -> Result<Step, sqlx::Error> {
        let size: Option<i64> =
            sqlx::query_scalar("DELETE FROM quarantine WHERE seq = ?1 RETURNING length(bytes)")
                .bind(to_i64(id))
                .fetch_optional(&mut *self.conn)
                .await?;
        let Some(size) = size else { return Ok(Step::was(false)) };
        self.books.quarantine_items -= 1;
        self.books.quarantine_bytes -= size;
        Ok(Step::was(true))
    }

    /// Moves a row that cannot be read, with its event's bytes, to the quarantine. Attempts of it go.
    pub(super) async fn reject(
        &mut self,
        table: Table,
        seq: i64,
        problem: &str,
    ) -> Result<Step, sqlx::Error> {
        let query = match table {
            Table::Delivery => sqlx::query(
                "SELECT d.id, d.event, d.accepted_at, CAST(e.payload AS BLOB) AS payload \
                 FROM delivery d LEFT JOIN event e ON e.seq = d.event WHERE d.seq = ?1",
            ),
            Table::DeadLetter => sqlx::query(
                "SELECT l.id, l.event, l.accepted_at, CAST(e.payload AS BLOB) AS payload \
                 FROM dead_letter l LEFT JOIN event e ON e.seq = l.event WHERE l.seq = ?1",
            ),
        };
        let Some(row) = query.bind(seq).fetch_optional(&mut *self.conn).await? else {
            return Ok(Step::was(false));
        };
        let bytes = row.try_get::<Option<Vec<u8>>, _>("payload")?.unwrap_or_default();
        let item = Quarantined {
            source: REJECTED_ROWS.to_owned(),
            received_at: Timestamp::from_micros(row.try_get("accepted_at")?),
            reason: problem.to_owned(),
            length: bytes.len() as u64,
            bytes,
        };
        if let Step::Done(Err(full)) = self.quarantine(&item).await? {
            return Ok(Step::Done(Err(full)));
        }
        let id: Vec<u8> = row.try_get("id")?;
        sqlx::query("DELETE FROM attempt WHERE delivery = ?1").bind(id).execute(&mut *self.conn).await?;
        match table {
            Table::Delivery => {
                let removed: Option<(i64, i64)> =
                    sqlx::query_as("DELETE FROM delivery WHERE seq = ?1 RETURNING function, weight")
                        .bind(seq)
                        .fetch_optional(&mut *self.conn)
                        .await?;
                if let Some((function, weight)) = removed {
                    self.books.remove(function, weight);
                }
            }
            Table::DeadLetter => {
                sqlx::query("DELETE FROM dead_letter WHERE seq = ?1")
                    .bind(seq)
                    .execute(&mut *self.conn)
                    .await?;
            }
        }
        self.remove_unused_events(&[row.try_get("event")?]).await?;
        Ok(Step::was(true))
    }
}
