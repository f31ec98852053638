//! Moving a queue to another host: an export of `queue.db`, and its import into another.
//!
//! The form is lines of JSON (docs/queue-export.md says it whole): a header with format, version, schema and the columns
//! of each table; a line for each row; a trailer with the counts and the SHA-256 of everything before it. Rows are
//! streamed both ways; a million of them need no more memory than a few hundred.
//!
//! **Export** reads one state of the file. A row whose event or function is missing is left out and counted, and so is
//! the rest of a table that cannot be read further: what comes out can always be imported.
//!
//! **Import** is one transaction: the trailer is checked before the commit, so that a file that is cut short, damaged,
//! foreign or from a newer version changes nothing, and a crash in the middle neither. A delivery that is here already,
//! parked or dead, is left as it is with its attempts, so the same file can be imported again. (What was delivered here
//! meanwhile is parked again, under the same delivery id: at least once.) Dead letters that were handed to their handler
//! functions there are not handed over again, unless some that died here still have to be. The bound of the file holds, a function's
//! share does not: what another host has taken responsibility for is not refused.
//!
//! Neither goes on beside the daemon: the caller owns the state directory.

mod import;

use std::io::{self, Write};

use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteRow};

pub(super) use self::import::import;
use super::{
    QueueError,
    handover::count_unhanded,
    open::failed,
    tables::{Column, Kind, TABLES, Table},
};
use crate::{domain::ids::BindingId, telemetry::Chain};

/// The word that an export begins with.
const FORMAT: &str = "triggerd-queue";

/// The version of the form that is written, and the newest that is read.
const VERSION: u32 = 1;

/// Why a queue was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The queue's file.
    #[error("the queue file cannot be {verb}")]
    Queue {
        /// What was wanted.
        verb: &'static str,
        /// Why not.
        #[source]
        source: QueueError,
    },
    /// The other file.
    #[error("the export cannot be {verb}")]
    File {
        /// What was wanted.
        verb: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not what `triggerd queue export` writes.
    #[error("line {line} is not of a queue's export ({problem}); nothing was changed")]
    Foreign {
        /// Where.
        line: u64,
        /// Why not.
        problem: String,
    },
    /// From a version that knows more.
    #[error("the export was made by a newer triggerd ({what}); upgrade this one; nothing was changed")]
    Newer {
        /// What is unknown here.
        what: String,
    },
    /// The end is missing.
    #[error(
        "the export is cut short: it ends after line {line}, without its last line; copy it again; nothing was changed"
    )]
    Truncated {
        /// The last line.
        line: u64,
    },
    /// Not what was written.
    #[error("the export was changed since it was written ({problem}); copy it again; nothing was changed")]
    Changed {
        /// How it is seen.
        problem: String,
    },
    /// The bound of this queue.
    #[error("the export does not fit into {max_bytes} bytes; raise `queue.max_bytes`; nothing was changed")]
    Full {
        /// The bound.
        max_bytes: u64,
    },
}

/// How many rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The table.
    pub table: String,
    /// Its rows in the export.
    pub rows: u64,
}

/// What was written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Exported {
    /// Rows by table.
    pub rows: Vec<Count>,
    /// Rows that could not be read, or whose event or function is missing.
    pub left_out: u64,
    /// What could not be read further, for a person.
    pub problems: Vec<String>,
}

/// What was read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Imported {
    /// Rows that are new here, by table.
    pub rows: Vec<Count>,
    /// Rows that were here already, or whose event is missing in the export.
    pub left: u64,
    /// How many deliveries are parked here now, by binding.
    #[serde(skip)]
    pub parked: Vec<(BindingId, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// The newest migration of the file it comes from.
    schema: i64,
    tables: Vec<Columns>,
    /// How many of the last dead letters no handler function was sought for yet; none when that cannot be read.
    #[serde(default)]
    unhanded: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Columns {
    name: String,
    columns: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    end: bool,
    rows: Vec<Count>,
    sha256: String,
}

fn reading(source: sqlx::Error) -> TransferError {
    TransferError::Queue { verb: "read", source: failed("export", source) }
}

async fn schema(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations").fetch_one(conn).await
}

/// Writes lines and counts them into a checksum.
struct Lines<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Lines<W> {
    fn line(&mut self, text: &[u8]) -> Result<(), TransferError> {
        self.hash.update(text);
        self.hash.update(b"\n");
        let written = self.out.write_all(text).and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|source| TransferError::File { verb: "written", source })
    }

    fn value(&mut self, value: &impl Serialize) -> Result<(), TransferError> {
        let text = serde_json::to_vec(value)
            .map_err(|error| TransferError::File { verb: "written", source: error.into() })?;
        self.line(&text)
    }
}

/// Writes everything that the queue holds.
///
/// # Errors
///
/// Only when nothing useful was written: the schema cannot be read, or the output cannot be written.
pub(super) async fn export(conn: &mut SqliteConnection, out: impl Write) -> Result<Exported, TransferError> {
    let mut transaction = conn.begin().await.map_err(reading)?;
    let mut columns = Vec::new();
    for table in &TABLES {
        columns.push(table.columns(&mut transaction).await.map_err(reading)?);
    }
    let mut lines = Lines { out, hash: Sha256::new() };
    let tables = TABLES.iter().zip(&columns).map(|(table, columns)| Columns {
        name: table.name.to_owned(),
        columns: columns.iter().map(|column| column.name.clone()).collect(),
    });
    let schema = schema(&mut transaction).await.map_err(reading)?;
    let (format, tables) = (FORMAT.to_owned(), tables.collect());
    let unhanded = count_unhanded(&mut transaction).await.ok();
    lines.value(&Header { format, version: VERSION, schema, tables, unhanded })?;
    let mut exported = Exported::default();
    for (table, columns) in TABLES.iter().zip(&columns) {
        let rows = export_table(&mut transaction, (table, columns), &mut lines, &mut exported).await?;
        exported.rows.push(Count { table: table.name.to_owned(), rows });
    }
    let sha256 = hex(&lines.hash.clone().finalize());
    lines.value(&Trailer { end: true, rows: exported.rows.clone(), sha256 })?;
    lines.out.flush().map_err(|source| TransferError::File { verb: "written", source })?;
    Ok(exported)
}

async fn export_table<W: Write>(
    conn: &mut SqliteConnection,
    (table, columns): (&Table, &[Column]),
    lines: &mut Lines<W>,
    exported: &mut Exported,
) -> Result<u64, TransferError> {
    let mut rows = sqlx::query(table.select(columns)).fetch(conn);
    let (mut written, mut text) = (0, Vec::new());
    loop {
        match rows.try_next().await {
            Ok(Some(row)) => {
                text.clear();
                match put_row(&mut text, table, columns, &row) {
                    Ok(true) => {
                        lines.line(&text)?;
                        written += 1;
                    }
                    Ok(false) => exported.left_out += 1,
                    Err(error) => {
                        exported.left_out += 1;
                        exported.problems.push(format!("a row of `{}`: {}", table.name, Chain(&error)));
                        exported.problems.truncate(100);
                    }
                }
            }
            Ok(None) => return Ok(written),
            Err(error) => {
                let error = failed("export", error);
                let said =
                    format!("`{}` cannot be read beyond {written} rows: {}", table.name, Chain(&error));
                exported.left_out += 1;
                exported.problems.push(said);
                return Ok(written);
            }
        }
    }
}

/// One row as a line; false when it refers to something that is missing.
fn put_row(
    text: &mut Vec<u8>,
    table: &Table,
    columns: &[Column],
    row: &SqliteRow,
) -> Result<bool, sqlx::Error> {
    text.extend_from_slice(b"[\"");
    text.extend_from_slice(table.name.as_bytes());
    text.push(b'"');
    for (at, column) in columns.iter().enumerate() {
        text.push(b',');
        if column.kind == Kind::Integer {
            let number: Option<i64> = row.try_get(at)?;
            if let Some(number) = number.filter(|number| !column.can_hold(*number)) {
                return Err(sqlx::Error::Decode(format!("{number} as its `{}`", column.name).into()));
            }
            text.extend_from_slice(number.map_or("null".to_owned(), |number| number.to_string()).as_bytes());
            continue;
        }
        let bytes: Option<&[u8]> = row.try_get(at)?;
        match (column.kind, bytes) {
            (Kind::Event | Kind::Function, None) => return Ok(false),
            (_, None) => text.extend_from_slice(b"null"),
            // JSON as SQLite made it.
            (Kind::Function, Some(bytes)) => text.extend_from_slice(bytes),
            (Kind::Text, Some(bytes)) => put_text(text, bytes)?,
            (_, Some(bytes)) => text.extend_from_slice(format!("\"{}\"", hex(bytes)).as_bytes()),
        }
    }
    text.push(b']');
    Ok(true)
}

/// Text as text; what is none (or holds a NUL, at which SQLite's own JSON would end it) as its bytes.
fn put_text(text: &mut Vec<u8>, bytes: &[u8]) -> Result<(), sqlx::Error> {
    match std::str::from_utf8(bytes) {
        Ok(read) if !bytes.contains(&0) => {
            serde_json::to_writer(text, read).map_err(|error| sqlx::Error::Encode(error.into()))
        }
        _ => {
            text.extend_from_slice(format!("{{\"hex\":\"{}\"}}", hex(bytes)).as_bytes());
            Ok(())
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
