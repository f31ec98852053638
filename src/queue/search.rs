//! Reading dead letters by filter, a bounded piece of a walk at a time.
//!
//! A binding or a function narrows the walk by an index; everything else is looked at row by row, never more than
//! [`SCAN`] of them for one page. A page ends, too, when its events have [`PAGE_BYTES`]: an event may be as large as a source
//! takes it, and hundreds of such at once would be memory that anybody who may list letters could ask for.

use futures_util::TryStreamExt;
use sqlx::{Row, SqlitePool};

use super::{
    DeadLetter, QueueError,
    office::{Cursor, Direction, LetterFilter, LetterQuery, SCAN},
    open::failed,
    read::{Page, add_attempts},
    rows::{self, Table},
};
use crate::domain::{clock::Timestamp, delivery::DeadReason};

/// The bytes of events after which a page ends, though there may be more letters in it.
const PAGE_BYTES: usize = 4 << 20;

/// Most letters that are counted.
const MOST_COUNTED: i64 = 100_000;

/// The statements of one scope and direction.
struct Statements {
    /// The last position that one page may look at.
    edge: &'static str,
    page: &'static str,
    left: &'static str,
}

macro_rules! statements {
    ($scope:literal, $order:literal) => {
        Statements {
            edge: concat!(
                "SELECT l.seq FROM dead_letter l WHERE l.seq > ?1 AND l.seq < ?2 ",
                $scope,
                " ORDER BY l.seq ",
                $order,
                " LIMIT 1 OFFSET ?6"
            ),
            page: concat!(
                "SELECT l.seq, l.id, l.binding, l.accepted_at, l.attempts, l.tries, l.earlier, l.replays, l.reason, l.detail, \
                     l.died_at, f.platform, f.name, CAST(e.payload AS BLOB) AS payload \
                 FROM dead_letter l LEFT JOIN function f ON f.id = l.function LEFT JOIN event e ON e.seq = l.event \
                 WHERE l.seq > ?1 AND l.seq < ?2 ",
                $scope,
                " AND (?3 IS NULL OR l.binding = ?3) AND (?4 IS NULL OR f.platform = ?4) \
                 AND (?5 IS NULL OR f.name = ?5) AND (?7 IS NULL OR l.reason = ?7) \
                 AND (?8 IS NULL OR l.died_at >= ?8) AND (?9 IS NULL OR l.died_at < ?9) \
                 AND (?10 IS NULL OR CASE WHEN json_valid(e.payload) THEN e.payload->>'bucket' END = ?10) \
                 AND (?11 IS NULL OR CASE WHEN json_valid(e.payload) \
                          THEN substr(e.payload->>'key', 1, length(?11)) END = ?11) \
                 ORDER BY l.seq ",
                $order,
                " LIMIT ?6"
            ),
            left: concat!(
                "SELECT COUNT(*) FROM (SELECT 1 FROM dead_letter l WHERE l.seq > ?1 AND l.seq < ?2 ",
                $scope,
                " LIMIT ?6)"
            ),
        }
    };
}

macro_rules! both_ways {
    ($scope:literal) => {
        [statements!($scope, "DESC"), statements!($scope, "ASC")]
    };
}

// The parameters of the scopes have the same numbers in every statement, whether it names them or not.
static ALL: [Statements; 2] = both_ways!("");
static OF_BINDING: [Statements; 2] = both_ways!("AND l.binding = ?3");
static OF_FUNCTION: [Statements; 2] =
    both_ways!("AND l.function = (SELECT id FROM function WHERE platform = ?4 AND name = ?5)");

fn statements(filter: &LetterFilter, direction: Direction) -> &'static Statements {
    let both = if filter.binding.is_some() {
        &OF_BINDING
    } else if filter.platform.is_some() && filter.function.is_some() {
        &OF_FUNCTION
    } else {
        &ALL
    };
    &both[usize::from(direction == Direction::OldestFirst)]
}

/// The parameters ?1 to ?6 of every statement.
macro_rules! bind_window {
    ($statement:expr, $window:expr, $filter:expr, $limit:expr) => {
        $statement
            .bind($window.low)
            .bind($window.high)
            .bind($filter.binding.map(|binding| binding.as_bytes().to_vec()))
            .bind($filter.platform.as_deref())
            .bind($filter.function.as_deref())
            .bind($limit)
    };
}

/// The next page of a walk.
pub(super) async fn page(pool: &SqlitePool, query: &LetterQuery) -> Result<Page<DeadLetter>, QueueError> {
    let read = |error| failed("dead_letters", error);
    let (filter, direction) = (&query.filter, query.direction);
    let window = match query.cursor {
        Some(cursor) => cursor,
        None => beginning(pool, direction).await.map_err(read)?,
    };
    let statements = statements(filter, direction);
    let edge: Option<i64> =
        bind_window!(sqlx::query_scalar(statements.edge), window, filter, i64::from(SCAN) - 1)
            .fetch_optional(pool)
            .await
            .map_err(read)?;
    let looked_at = match (edge, direction) {
        (None, _) => window,
        (Some(edge), Direction::NewestFirst) => Cursor { low: edge - 1, ..window },
        (Some(edge), Direction::OldestFirst) => Cursor { high: edge + 1, ..window },
    };
    let limit = query.limit.clamp(1, LetterQuery::MAX_LIMIT);
    let mut rows = bind_window!(sqlx::query(statements.page), looked_at, filter, limit)
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(filter.since.map(Timestamp::as_micros))
        .bind(filter.until.map(Timestamp::as_micros))
        .bind(filter.bucket.as_deref())
        .bind(filter.key_prefix.as_deref())
        .fetch(pool);
    let (mut page, mut last, mut left, mut room) = (Page::new(), None, limit, PAGE_BYTES);
    while left > 0 && room > 0 {
        let Some(row) = rows.try_next().await.map_err(read)? else { break };
        last = Some(row.try_get::<i64, _>("seq").map_err(read)?);
        let event: Option<&[u8]> = row.try_get("payload").map_err(read)?;
        (left, room) = (left - 1, room.saturating_sub(event.map_or(0, <[u8]>::len)));
        page.add(Table::DeadLetter, &row, rows::dead_letter(&row)).map_err(read)?;
    }
    drop(rows);
    let full = left == 0 || room == 0;
    let last = if full { last } else { edge };
    page.next = last.map(|last| match direction {
        Direction::NewestFirst => Cursor { high: last, ..window },
        Direction::OldestFirst => Cursor { low: last, ..window },
    });
    add_attempts(pool, &mut page.items).await?;
    Ok(page)
}

/// What a new walk looks at. One from the oldest ends with what is there now.
async fn beginning(pool: &SqlitePool, direction: Direction) -> Result<Cursor, sqlx::Error> {
    if direction == Direction::NewestFirst {
        return Ok(Cursor::ALL);
    }
    let newest: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM dead_letter").fetch_one(pool).await?;
    Ok(Cursor { high: newest.unwrap_or(0) + 1, ..Cursor::ALL })
}

/// How many letters of the scope are in the window, counted up to a bound.
pub(super) async fn left(
    pool: &SqlitePool,
    filter: &LetterFilter,
    window: Cursor,
) -> Result<u64, sqlx::Error> {
    let statement = statements(filter, Direction::OldestFirst).left;
    let left: i64 =
        bind_window!(sqlx::query_scalar(statement), window, filter, MOST_COUNTED).fetch_one(pool).await?;
    Ok(u64::try_from(left).unwrap_or(0))
}
