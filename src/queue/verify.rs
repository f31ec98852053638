//! Looking a queue file over, without changing it.
//!
//! SQLite's own check of its pages comes first; then each row is read as the daemon would read it, and what belongs
//! together is held against each other. Nothing is mended: rows that cannot be read go to the quarantine when the daemon
//! meets them, and a damaged file is exported, moved away and imported.

use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    QueueError,
    batch::used_bytes,
    command::Stored,
    open::failed,
    rows::{self, to_i64},
};
use crate::{domain::delivery::FunctionRef, telemetry::Chain};

/// Examples that are shown of what is wrong in one respect.
const EXAMPLES: usize = 5;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, for a person.
    pub detail: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether everything is as it should be.
    pub ok: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// Relations between rows that hold in a sound file: name, what is counted, and what a count above zero means.
const RELATIONS: [(&str, &str, &str); 8] = [
    (
        "events of deliveries",
        "SELECT (SELECT COUNT(*) FROM delivery WHERE event NOT IN (SELECT seq FROM event)) \
             + (SELECT COUNT(*) FROM dead_letter WHERE event NOT IN (SELECT seq FROM event))",
        "deliveries whose event is missing; the daemon moves them to the quarantine",
    ),
    (
        "functions of deliveries",
        "SELECT (SELECT COUNT(*) FROM delivery WHERE function NOT IN (SELECT id FROM function)) \
             + (SELECT COUNT(*) FROM dead_letter WHERE function NOT IN (SELECT id FROM function))",
        "deliveries whose function is missing; they are never called, export and import leaves them out",
    ),
    (
        "events in use",
        "SELECT COUNT(*) FROM event WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.event = event.seq) \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.event = event.seq)",
        "events that no delivery needs; they only take space, export and import leaves them out",
    ),
    (
        "attempts in use",
        "SELECT COUNT(*) FROM attempt WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.id = attempt.delivery) \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.id = attempt.delivery)",
        "attempts of no delivery; they only take space, export and import leaves them out",
    ),
    (
        "parked or dead",
        "SELECT COUNT(*) FROM dead_letter WHERE id IN (SELECT id FROM delivery)",
        "deliveries that are parked and dead at once",
    ),
    (
        "held and since when",
        "SELECT COUNT(*) FROM delivery WHERE (held_since IS NOT NULL) <> held OR (held AND awaiting_since IS NOT NULL)",
        "deliveries that are held and do not say since when, or the other way round, or are held and awaiting at once",
    ),
    (
        "books of functions",
        "SELECT COUNT(*) FROM function f LEFT JOIN \
             (SELECT function, COUNT(*) AS parked, SUM(held) AS held, COUNT(awaiting_since) AS awaiting, SUM(weight) AS bytes \
              FROM delivery GROUP BY function) d ON d.function = f.id \
         WHERE (f.parked, f.held, f.awaiting, f.bytes) IS NOT \
             (coalesce(d.parked, 0), coalesce(d.held, 0), coalesce(d.awaiting, 0), coalesce(d.bytes, 0))",
        "functions whose counts are not those of their rows; export and import sets them right",
    ),
    (
        "weights",
        "SELECT COUNT(*) FROM delivery d JOIN event e ON e.seq = d.event \
         WHERE d.weight < ?1 + length(CAST(e.payload AS BLOB))",
        "deliveries that count for less than they take; their function may take more than its share",
    ),
];

/// Looks at everything. An error means that not even the schema can be read.
pub(super) async fn verify(conn: &mut SqliteConnection, max_bytes: u64) -> Result<Verified, QueueError> {
    let mut checks = vec![pages(conn).await];
    for (name, rows) in [
        ("rows of delivery", deliveries(conn).await),
        ("rows of dead_letter", dead_letters(conn).await),
        ("rows of attempt", attempts(conn).await),
        ("rows of quarantine", quarantine(conn).await),
    ] {
        checks.push(rows.map_or_else(|error| unreadable(name, error), |tally| tally.check(name)));
    }
    for (name, sql, meaning) in RELATIONS {
        checks.push(relation(conn, name, sql, meaning).await);
    }
    checks.push(match used_bytes(conn).await {
        Ok(used) if used <= max_bytes => ok("bytes", format!("{used} of {max_bytes} in use")),
        Ok(used) => wrong("bytes", format!("{used} are in use, more than `queue.max_bytes` ({max_bytes})")),
        Err(error) => unreadable("bytes", error),
    });
    Ok(Verified { ok: checks.iter().all(|check| check.ok), checks })
}

fn ok(name: &'static str, detail: String) -> Check {
    Check { name, ok: true, detail }
}

fn wrong(name: &'static str, detail: String) -> Check {
    Check { name, ok: false, detail }
}

fn unreadable(name: &'static str, error: sqlx::Error) -> Check {
    wrong(name, Chain(&failed("verify", error)).to_string())
}

async fn pages(conn: &mut SqliteConnection) -> Check {
    let said: Result<Vec<String>, _> =
        sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(&mut *conn).await;
    match said {
        Ok(said) if said == ["ok"] => ok("pages", "every page and index is sound".into()),
        Ok(said) => wrong("pages", format!("the file is damaged: {}", said.join("; "))),
        Err(error) => unreadable("pages", error),
    }
}

async fn relation(
    conn: &mut SqliteConnection,
    name: &'static str,
    sql: &'static str,
    meaning: &'static str,
) -> Check {
    match sqlx::query_scalar::<_, i64>(sql).bind(to_i64(Stored::OVERHEAD)).fetch_one(conn).await {
        Ok(0) => ok(name, "as they should be".into()),
        Ok(rows) => wrong(name, format!("{rows} {meaning}")),
        Err(error) => unreadable(name, error),
    }
}

/// Rows that were read, and what is wrong with some.
#[derive(Default)]
struct Tally {
    rows: u64,
    bad: u64,
    examples: Vec<String>,
}

impl Tally {
    fn add<T>(&mut self, row: Result<T, QueueError>) {
        self.rows += 1;
        if let Err(error) = row {
            self.bad += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(Chain(&error).to_string());
            }
        }
    }

    fn check(self, name: &'static str) -> Check {
        let Self { rows, bad, examples } = self;
        if bad == 0 {
            return ok(name, format!("{rows} can be read"));
        }
        wrong(name, format!("{bad} of {rows} cannot be read: {}", examples.join("; ")))
    }
}

/// The columns that dead letters and parked deliveries have in common, as `rows` reads them.
const COMMON: &str = "d.seq, d.id, d.binding, d.accepted_at, d.attempts, d.tries, d.earlier, d.replays, \
     f.platform, f.name, CAST(e.payload AS BLOB) AS payload";

async fn deliveries(conn: &mut SqliteConnection) -> Result<Tally, sqlx::Error> {
    let anybody = FunctionRef { platform: "".into(), name: "".into() };
    let sql = format!(
        "SELECT {COMMON}, d.due, d.letter, d.awaiting_since FROM delivery d LEFT JOIN function f ON f.id = d.function \
         LEFT JOIN event e ON e.seq = d.event"
    );
    let (mut tally, mut stream) = (Tally::default(), sqlx::query(AssertSqlSafe(sql)).fetch(conn));
    while let Some(row) = stream.try_next().await? {
        tally.add(rows::delivery(&row, &anybody));
    }
    Ok(tally)
}

async fn dead_letters(conn: &mut SqliteConnection) -> Result<Tally, sqlx::Error> {
    let sql = format!(
        "SELECT {COMMON}, d.reason, d.detail, d.died_at FROM dead_letter d \
         LEFT JOIN function f ON f.id = d.function LEFT JOIN event e ON e.seq = d.event"
    );
    let (mut tally, mut stream) = (Tally::default(), sqlx::query(AssertSqlSafe(sql)).fetch(conn));
    while let Some(row) = stream.try_next().await? {
        tally.add(rows::dead_letter(&row));
    }
    Ok(tally)
}

async fn attempts(conn: &mut SqliteConnection) -> Result<Tally, sqlx::Error> {
    let sql = "SELECT delivery AS id, at, took_us, class, status, detail FROM attempt";
    let (mut tally, mut stream) = (Tally::default(), sqlx::query(sql).fetch(conn));
    while let Some(row) = stream.try_next().await? {
        tally.add(rows::attempt(&row));
    }
    Ok(tally)
}

async fn quarantine(conn: &mut SqliteConnection) -> Result<Tally, sqlx::Error> {
    let sql = "SELECT seq, source, received_at, reason, bytes, length, tries, tried_at FROM quarantine";
    let (mut tally, mut stream) = (Tally::default(), sqlx::query(sql).fetch(conn));
    while let Some(row) = stream.try_next().await? {
        tally.add(rows::item(&row));
    }
    Ok(tally)
}
