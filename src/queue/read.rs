//! Reading, on connections of its own: readers see what was committed last and never wait for the writer.

use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use super::{
    Backlog, DeadLetter, QueueError,
    batch::used_bytes,
    books::function_of,
    office::{Cursor, Item},
    open::failed,
    rows::{self, Table, json},
};
use crate::{
    domain::{
        clock::Timestamp,
        delivery::{Delivery, FunctionRef},
        ids::{BindingId, DeliveryId},
        outcome::Attempt,
    },
    telemetry::Chain,
};

/// Picks from the covering index alone and reads the rows only of what is taken.
pub(super) const DUE: &str = "\
    SELECT d.seq, d.id, d.binding, d.accepted_at, d.due, d.attempts, d.tries, d.earlier, d.letter, d.awaiting_since, \
        CAST(e.payload AS BLOB) AS payload \
    FROM (SELECT seq FROM delivery INDEXED BY delivery_due \
          WHERE function = (SELECT id FROM function WHERE platform = ?1 AND name = ?2) \
          AND held = 0 AND due <= ?3 AND id NOT IN (SELECT unhex(value) FROM json_each(?4)) \
          ORDER BY due, seq LIMIT ?5) AS next \
    CROSS JOIN delivery d ON d.seq = next.seq \
    LEFT JOIN event e ON e.seq = d.event";

/// What was read, and the rows that could not be.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) unreadable: Vec<(Table, i64, QueueError)>,
    /// Where a walk goes on.
    pub(super) next: Option<Cursor>,
}

impl<T> Page<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), unreadable: Vec::new(), next: None }
    }

    pub(super) fn add(
        &mut self,
        table: Table,
        row: &SqliteRow,
        item: Result<T, QueueError>,
    ) -> Result<(), sqlx::Error> {
        match item {
            Ok(item) => self.items.push(item),
            Err(error) => self.unreadable.push((table, row.try_get("seq")?, error)),
        }
        Ok(())
    }
}

pub(super) async fn due(
    pool: &SqlitePool,
    function: &FunctionRef,
    now: Timestamp,
    running: &[DeliveryId],
    limit: u32,
) -> Result<Page<Delivery>, sqlx::Error> {
    let mut rows = sqlx::query(DUE)
        .bind(&*function.platform)
        .bind(&*function.name)
        .bind(now.as_micros())
        .bind(json(running.iter())?)
        .bind(limit)
        .fetch_all(pool)
        .await?;
    rows.sort_by_key(|row| {
        (row.try_get::<i64, _>("due").unwrap_or_default(), row.try_get::<i64, _>("seq").unwrap_or_default())
    });
    let mut page = Page::new();
    for row in &rows {
        page.add(Table::Delivery, row, rows::delivery(row, function))?;
    }
    Ok(page)
}

pub(super) async fn next_due(
    pool: &SqlitePool,
    function: &FunctionRef,
    running: &[DeliveryId],
) -> Result<Option<Timestamp>, sqlx::Error> {
    let due: Option<i64> = sqlx::query_scalar(
        "SELECT due FROM delivery INDEXED BY delivery_due \
         WHERE function = (SELECT id FROM function WHERE platform = ?1 AND name = ?2) \
         AND held = 0 AND id NOT IN (SELECT unhex(value) FROM json_each(?3)) ORDER BY due LIMIT 1",
    )
    .bind(&*function.platform)
    .bind(&*function.name)
    .bind(json(running.iter())?)
    .fetch_optional(pool)
    .await?;
    Ok(due.map(Timestamp::from_micros))
}

/// From the functions' own counts and three searches of an index for each: however much is parked, it reads no more.
pub(super) const BACKLOG: &str = "\
    SELECT f.platform, f.name, f.parked - f.held - f.awaiting AS parked, f.held, f.awaiting, \
        (SELECT d.due FROM delivery d INDEXED BY delivery_due WHERE d.function = f.id AND d.held = 0 \
         ORDER BY d.due LIMIT 1) AS earliest, \
        (SELECT d.due FROM delivery d INDEXED BY delivery_due WHERE d.function = f.id AND d.held = 0 \
         ORDER BY d.due DESC LIMIT 1) AS latest, \
         (SELECT d.accepted_at FROM delivery d INDEXED BY delivery_of_function WHERE d.function = f.id \
          ORDER BY d.seq LIMIT 1) AS oldest \
    FROM function f WHERE f.parked > 0 ORDER BY f.platform, f.name";

pub(super) async fn backlog(pool: &SqlitePool) -> Result<Vec<Backlog>, sqlx::Error> {
    let rows = sqlx::query(BACKLOG).fetch_all(pool).await?;
    let backlog = rows.iter().map(|row| {
        let count = |column| row.try_get::<i64, _>(column).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Backlog {
            function: function_of(row)?,
            parked: count("parked")?,
            earliest_due: row.try_get::<Option<i64>, _>("earliest")?.map(Timestamp::from_micros),
            latest_due: row.try_get::<Option<i64>, _>("latest")?.map(Timestamp::from_micros),
            held: count("held")?,
            awaiting: count("awaiting")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(Timestamp::from_micros),
        })
    });
    backlog.collect()
}

pub(super) async fn skew(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT micros FROM skew WHERE one = 1").fetch_one(pool).await
}

/// From one binding to the next by their index: it does not read the deliveries in between.
const HELD_BINDINGS: &str = "\
    WITH RECURSIVE each(binding) AS ( \
        SELECT min(binding) FROM delivery \
        UNION ALL \
        SELECT (SELECT min(binding) FROM delivery WHERE binding > each.binding) \
        FROM each WHERE each.binding IS NOT NULL) \
    SELECT binding FROM each WHERE binding IS NOT NULL \
    AND EXISTS (SELECT 1 FROM delivery d WHERE d.binding = each.binding AND d.held = 1)";

pub(super) async fn held_bindings(pool: &SqlitePool) -> Result<Vec<BindingId>, sqlx::Error> {
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(HELD_BINDINGS).fetch_all(pool).await?;
    let ids = rows.iter().map(|id| BindingId::from_slice(id).map_err(|e| sqlx::Error::Decode(e.into())));
    ids.collect()
}

pub(super) async fn parked_of(pool: &SqlitePool, binding: BindingId) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM delivery WHERE binding = ?1")
        .bind(&binding.as_bytes()[..])
        .fetch_one(pool)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) async fn attempts(pool: &SqlitePool, id: DeliveryId) -> Result<Vec<Attempt>, QueueError> {
    let attempts = attempts_of(pool, &[id]).await.map_err(|error| failed("attempts", error))?;
    attempts.into_iter().map(|attempt| attempt.map(|(_, attempt)| attempt)).collect()
}

type ReadAttempt = Result<(DeliveryId, Attempt), QueueError>;

/// A parked delivery, due or not.
pub(super) async fn parked(pool: &SqlitePool, id: DeliveryId) -> Result<Option<Delivery>, QueueError> {
    let row = sqlx::query(
        "SELECT d.id, d.binding, d.accepted_at, d.attempts, d.tries, d.earlier, d.letter, d.awaiting_since, f.platform, f.name, \
             CAST(e.payload AS BLOB) AS payload \
         FROM delivery d JOIN function f ON f.id = d.function LEFT JOIN event e ON e.seq = d.event WHERE d.id = ?1",
    )
    .bind(&id.as_bytes()[..])
    .fetch_optional(pool)
    .await
    .map_err(|error| failed("parked", error))?;
    let read = |row: &SqliteRow| {
        let function = function_of(row).map_err(|error| failed("parked", error))?;
        rows::delivery(row, &function)
    };
    row.as_ref().map(read).transpose()
}

/// Attempts of these deliveries, parked or dead, oldest first.
async fn attempts_of(pool: &SqlitePool, ids: &[DeliveryId]) -> Result<Vec<ReadAttempt>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT delivery AS id, at, took_us, class, status, detail FROM attempt \
         WHERE delivery IN (SELECT unhex(value) FROM json_each(?1)) ORDER BY delivery, n",
    )
    .bind(json(ids.iter())?)
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(rows::attempt).collect())
}

/// Adds the attempts. One that cannot be read is told of and left out, rather than its letter hidden.
pub(super) async fn add_attempts(pool: &SqlitePool, letters: &mut [DeadLetter]) -> Result<(), QueueError> {
    let ids: Vec<DeliveryId> = letters.iter().map(|letter| letter.delivery.id).collect();
    let mut by_id: std::collections::HashMap<DeliveryId, Vec<Attempt>> = std::collections::HashMap::new();
    for attempt in attempts_of(pool, &ids).await.map_err(|error| failed("dead_letters", error))? {
        match attempt {
            Ok((id, attempt)) => by_id.entry(id).or_default().push(attempt),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "an attempt of a dead letter cannot be read");
            }
        }
    }
    for letter in letters {
        letter.attempts = by_id.remove(&letter.delivery.id).unwrap_or_default();
    }
    Ok(())
}

pub(super) async fn dead_letter(pool: &SqlitePool, id: DeliveryId) -> Result<Option<DeadLetter>, QueueError> {
    let row = sqlx::query(
        "SELECT l.id, l.binding, l.accepted_at, l.attempts, l.tries, l.earlier, l.replays, l.reason, l.detail, l.died_at, \
             f.platform, f.name, CAST(e.payload AS BLOB) AS payload \
         FROM dead_letter l LEFT JOIN function f ON f.id = l.function LEFT JOIN event e ON e.seq = l.event \
         WHERE l.id = ?1",
    )
    .bind(&id.as_bytes()[..])
    .fetch_optional(pool)
    .await
    .map_err(|error| failed("dead_letter", error))?;
    let Some(row) = row else { return Ok(None) };
    let mut letters = [rows::dead_letter(&row)?];
    add_attempts(pool, &mut letters).await?;
    let [letter] = letters;
    Ok(Some(letter))
}

/// The function of a delivery that is parked.
pub(super) async fn parked_function(
    pool: &SqlitePool,
    id: DeliveryId,
) -> Result<Option<FunctionRef>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT f.platform, f.name FROM delivery d JOIN function f ON f.id = d.function WHERE d.id = ?1",
    )
    .bind(&id.as_bytes()[..])
    .fetch_optional(pool)
    .await?;
    row.as_ref().map(function_of).transpose()
}

pub(super) async fn quarantine_page(
    pool: &SqlitePool,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<Item>, QueueError> {
    let rows = sqlx::query(
        "SELECT seq, source, received_at, reason, substr(bytes, 1, 256) AS bytes, length, tries, tried_at \
         FROM quarantine WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    )
    .bind(before.map_or(i64::MAX, rows::to_i64))
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(|error| failed("quarantine_page", error))?;
    rows.iter().map(rows::item).collect()
}

pub(super) async fn quarantine_item(pool: &SqlitePool, id: u64) -> Result<Option<Item>, QueueError> {
    let row = sqlx::query(
        "SELECT seq, source, received_at, reason, bytes, length, tries, tried_at FROM quarantine WHERE seq = ?1",
    )
    .bind(rows::to_i64(id))
    .fetch_optional(pool)
    .await
    .map_err(|error| failed("quarantine_item", error))?;
    row.as_ref().map(rows::item).transpose()
}

pub(super) async fn usage(pool: &SqlitePool) -> Result<u64, sqlx::Error> {
    used_bytes(&mut *pool.acquire().await?).await
}
