//! The quarantine: what could never be processed, with its bytes; bounded, the oldest go, are counted, and told of once
//! their transaction is on disk: of each source once a minute.
//!
//! Rows of our own tables that cannot be read any more end here too, so that one of them does not keep others back.

use std::{collections::BTreeMap, time::Duration};

use sqlx::Row;

use super::{
    Quarantined, QueueError,
    batch::Batch,
    command::{Answer, Step},
    open::Limits,
    rows::{Table, to_i64},
};
use crate::{
    domain::clock::{Clock, SystemClock, Timestamp},
    telemetry::{Metric, letters::ItemsEvicted},
};

/// The source of items that were rows of our own tables; their bytes are an event as we write it.
pub const REJECTED_ROWS: &str = "queue";

/// Most bytes kept of one item.
const MAX_ITEM: usize = 64 << 10;

/// Bytes of an item's row beside what was received, about.
const OVERHEAD: u64 = 256;

/// How often it is told that items of one source went for one bound.
const TOLD: Duration = Duration::from_mins(1);

/// Sources (and bounds) that are told of by themselves. Files that were imported may name any number of sources.
const APART: usize = 64;

/// Which of our bounds was reached: the key of `[queue]` that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bound {
    Items,
    Bytes,
    File,
}

impl Bound {
    fn setting(self) -> &'static str {
        match self {
            Self::Items => "quarantine_items",
            Self::Bytes => "quarantine_bytes",
            Self::File => "max_bytes",
        }
    }

    fn of(self, limits: Limits) -> u64 {
        match self {
            Self::Items => limits.quarantine_items,
            Self::Bytes => limits.quarantine_bytes,
            Self::File => limits.max_bytes,
        }
    }
}

/// How many items made room, by their source and the bound that was reached.
pub(super) type Evicted = BTreeMap<(String, Bound), u64>;

/// Tells of items that made room, once they are gone for good.
#[derive(Debug)]
pub(super) struct Evictions {
    /// The system's own, whatever clock the rest goes by: only log lines depend on it.
    clock: SystemClock,
    /// When each was told of last, and how many went since.
    told: BTreeMap<(String, Bound), (Duration, u64)>,
}

impl Evictions {
    pub(super) fn new() -> Self {
        Self { clock: SystemClock::new(), told: BTreeMap::new() }
    }

    /// Counts them all, and tells of those whose time has come.
    pub(super) fn tell(&mut self, evicted: Evicted, limits: Limits) {
        if evicted.is_empty() {
            return;
        }
        Metric::QuarantineEvicted.add(evicted.values().sum(), &[]);
        for ((source, reached), count) in self.due(evicted, self.clock.monotonic()) {
            ItemsEvicted { count, source: &source, setting: reached.setting(), bound: reached.of(limits) }
                .tell();
        }
    }

    /// What is to be told now, with all that went since it was told last.
    fn due(&mut self, evicted: Evicted, now: Duration) -> Evicted {
        let mut due = Evicted::new();
        for (mut kind, count) in evicted {
            if self.told.len() >= APART && !self.told.contains_key(&kind) {
                "others".clone_into(&mut kind.0);
            }
            let told = self.told.get_mut(&kind);
            match told {
                Some((last, untold)) if now.saturating_sub(*last) < TOLD => *untold += count,
                Some((last, untold)) => {
                    *last = now;
                    *due.entry(kind).or_default() += count + std::mem::take(untold);
                }
                None => {
                    self.told.insert(kind.clone(), (now, 0));
                    due.insert(kind, count);
                }
            }
        }
        due
    }
}

impl Batch<'_> {
    pub(super) async fn quarantine(&mut self, item: &Quarantined) -> Result<Step, sqlx::Error> {
        let bytes = &item.bytes[..item.bytes.len().min(MAX_ITEM)];
        let size = bytes.len() as u64 + OVERHEAD;
        // In a full file what came last is worth more than what was there: it is the one being asked about.
        while self.beyond(size, self.limits.max_bytes) {
            let freed = self.evict_oldest(Bound::File).await?;
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
        loop {
            let reached = if self.books.quarantine_items > to_i64(self.limits.quarantine_items) {
                Bound::Items
            } else if self.books.quarantine_bytes > to_i64(self.limits.quarantine_bytes) {
                Bound::Bytes
            } else {
                break;
            };
            if self.evict_oldest(reached).await? == 0 {
                break;
            }
        }
        let id = u64::try_from(kept.last_insert_rowid()).unwrap_or(0);
        Ok(Step::Done(Ok(Answer::Kept(id))))
    }

    /// Drops the oldest item; its bytes, 0 when there is none.
    async fn evict_oldest(&mut self, reached: Bound) -> Result<u64, sqlx::Error> {
        let gone = sqlx::query(
            "DELETE FROM quarantine WHERE seq = (SELECT min(seq) FROM quarantine) \
             RETURNING length(bytes) AS size, source",
        )
        .fetch_optional(&mut *self.conn)
        .await?;
        let Some(gone) = gone else { return Ok(0) };
        let size: i64 = gone.try_get("size")?;
        self.books.quarantine_items -= 1;
        self.books.quarantine_bytes -= size;
        // A name that cannot be read keeps nothing from making room.
        let source: String = gone.try_get("source").unwrap_or_default();
        *self.evicted.entry((source, reached)).or_default() += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_told_of_once_a_minute_with_all_that_went_and_many_together() {
        let mut evictions = Evictions::new();
        let of = |source: &str, count| Evicted::from([((source.to_owned(), Bound::Items), count)]);
        let second = Duration::from_secs;
        assert_eq!(evictions.due(of("minio", 2), second(0)), of("minio", 2));
        assert_eq!(evictions.due(of("minio", 3), second(59)), Evicted::new());
        assert_eq!(evictions.due(of("mqtt", 1), second(59)), of("mqtt", 1));
        assert_eq!(evictions.due(of("minio", 4), second(60)), of("minio", 7));
        for number in 2..APART {
            let source = format!("s{number}");
            assert_eq!(evictions.due(of(&source, 1), second(60)), of(&source, 1));
        }
        assert_eq!(evictions.due(of("one-more", 1), second(60)), of("others", 1));
        assert_eq!(evictions.due(of("another", 5), second(61)), Evicted::new());
        assert_eq!(evictions.due(of("one-more", 1), second(120)), of("others", 6));
        assert_eq!(evictions.told.len(), APART + 1);
    }
}
