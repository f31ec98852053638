//! Reading an export: lines in, rows into the file, all in one transaction.

use std::io::{BufRead, Read};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use sqlx::{Connection, SqliteConnection};

use super::{Count, FORMAT, Header, Imported, Trailer, TransferError, VERSION, hex, schema};
use crate::{
    domain::ids::BindingId,
    queue::{
        batch::used_bytes,
        handover::{count_unhanded, pass_all_but},
        open::failed,
        tables::{Column, Kind, TABLES},
    },
    telemetry::excerpt,
};

/// Longest line that is read; far beyond the largest notification that a source takes.
const MAX_LINE: u64 = 256 << 20;

/// Rows and bytes that are written by one statement, about.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

fn writing(source: sqlx::Error) -> TransferError {
    TransferError::Queue { verb: "written", source: failed("import", source) }
}

/// Takes over what an export holds; all of it or nothing.
pub(in crate::queue) async fn import(
    conn: &mut SqliteConnection,
    from: impl BufRead,
    max_bytes: u64,
) -> Result<Imported, TransferError> {
    let mut lines = Incoming { from, hash: Sha256::new(), line: 0, text: Vec::new() };
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(writing)?;
    let (columns, unhanded) = header(&mut lines, &mut transaction).await?;
    let ours_unhanded = count_unhanded(&mut transaction).await.map_err(writing)?;
    note_quarantine(&mut transaction).await.map_err(writing)?;
    let mut taken = Taken { counts: vec![0; TABLES.len()], new: vec![0; TABLES.len()], max_bytes };
    let mut batch = Batch { table: 0, json: String::from("["), rows: 0 };
    let trailer = loop {
        let before = lines.hash.clone();
        if !lines.next()? {
            return Err(TransferError::Truncated { line: lines.line });
        }
        if lines.text.first() == Some(&b'{') {
            break (lines.parse::<Trailer>()?, before);
        }
        let table = row(&lines, &columns)?;
        if table != batch.table || batch.rows >= BATCH_ROWS || batch.json.len() >= BATCH_BYTES {
            taken.write(&mut transaction, &mut batch, &columns).await?;
            batch.table = table;
        }
        batch.push(std::str::from_utf8(&lines.text).unwrap_or_default());
    };
    taken.write(&mut transaction, &mut batch, &columns).await?;
    taken.agrees_with(trailer)?;
    if lines.next()? {
        return Err(TransferError::Foreign {
            line: lines.line,
            problem: "there is more after its end".into(),
        });
    }
    forget_unneeded(&mut transaction).await.map_err(writing)?;
    // One position is kept: where ours are before it, theirs are handed over once more.
    if let (Some(unhanded), 0) = (unhanded, ours_unhanded) {
        pass_all_but(&mut transaction, unhanded).await.map_err(writing)?;
    }
    let parked = parked_by_binding(&mut transaction).await.map_err(writing)?;
    transaction.commit().await.map_err(writing)?;
    let counts: u64 = taken.counts.iter().sum();
    let new: u64 = taken.new.iter().sum();
    let rows = TABLES.iter().zip(&taken.new);
    let rows = rows.map(|(table, rows)| Count { table: table.name.to_owned(), rows: *rows }).collect();
    Ok(Imported { rows, left: counts - new, parked })
}

/// Reads the header: the columns of each table as the export has them, and how many letters are not handed over.
async fn header<R: BufRead>(
    lines: &mut Incoming<R>,
    conn: &mut SqliteConnection,
) -> Result<(Vec<Vec<Column>>, Option<u64>), TransferError> {
    if !lines.next()? {
        return Err(TransferError::Truncated { line: 0 });
    }
    let header: Header = lines.parse()?;
    let foreign = |problem: String| TransferError::Foreign { line: 1, problem };
    if header.format != FORMAT {
        return Err(foreign(format!("its format is `{}`", header.format.escape_default())));
    }
    if header.version > VERSION {
        return Err(TransferError::Newer { what: format!("version {} of the format", header.version) });
    }
    let ours = schema(conn).await.map_err(writing)?;
    if header.schema > ours {
        return Err(TransferError::Newer { what: format!("migration {} of queue.db", header.schema) });
    }
    let mut columns = vec![Vec::new(); TABLES.len()];
    for theirs in header.tables {
        let at = TABLES.iter().position(|table| table.name == theirs.name);
        let unknown = |what: &str| TransferError::Newer { what: what.escape_default().to_string() };
        let at = at.ok_or_else(|| unknown(&theirs.name))?;
        let known = TABLES[at].columns(conn).await.map_err(writing)?;
        for name in &theirs.columns {
            let column = known.iter().find(|column| column.name == *name).ok_or_else(|| unknown(name))?;
            columns[at].push(column.clone());
        }
    }
    Ok((columns, header.unhanded))
}

/// Which table the line is a row of; that it is one.
fn row<R>(lines: &Incoming<R>, columns: &[Vec<Column>]) -> Result<usize, TransferError> {
    let foreign = |problem: String| TransferError::Foreign { line: lines.line, problem };
    let items: Vec<&RawValue> =
        serde_json::from_slice(&lines.text).map_err(|error| foreign(error.to_string()))?;
    let name: Option<&str> = items.first().and_then(|name| serde_json::from_str(name.get()).ok());
    let at = TABLES.iter().position(|table| Some(table.name) == name);
    let at = at.ok_or_else(|| foreign("it names no table".into()))?;
    if items.len() != columns[at].len() + 1 || columns[at].is_empty() {
        return Err(foreign(format!("{} columns of `{}`", items.len() - 1, TABLES[at].name)));
    }
    for (item, column) in
        items[1..].iter().zip(&columns[at]).filter(|(_, column)| column.kind == Kind::Integer)
    {
        let number: Result<Option<i64>, _> = serde_json::from_str(item.get());
        if !number.is_ok_and(|number| number.is_none_or(|number| column.can_hold(number))) {
            let (said, table) = (excerpt(item.get().as_bytes(), 64), TABLES[at].name);
            return Err(foreign(format!("{said} is no `{}` of a row of `{table}`", column.name)));
        }
    }
    Ok(at)
}

/// So that an item of the quarantine, which has no id, is not taken twice.
async fn note_quarantine(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "DROP TABLE IF EXISTS temp.quarantine_here; \
         CREATE TEMP TABLE quarantine_here AS SELECT received_at, source, reason, bytes FROM quarantine; \
         CREATE INDEX temp.quarantine_here_at ON quarantine_here (received_at);",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Events and attempts that came for deliveries which did not.
async fn forget_unneeded(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "DELETE FROM event WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.event = event.seq) \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.event = event.seq); \
         DELETE FROM attempt WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.id = attempt.delivery) \
             AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.id = attempt.delivery); \
         DROP TABLE temp.quarantine_here;",
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn parked_by_binding(conn: &mut SqliteConnection) -> Result<Vec<(BindingId, u64)>, sqlx::Error> {
    let rows: Vec<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT binding, COUNT(*) FROM delivery GROUP BY binding ORDER BY binding")
            .fetch_all(conn)
            .await?;
    // An id that is none is told of by the daemon, which takes its rows to the quarantine.
    let known = rows.into_iter().filter_map(|(id, count)| {
        Some((BindingId::from_bytes(id.try_into().ok()?), u64::try_from(count).unwrap_or(0)))
    });
    Ok(known.collect())
}

/// Rows of one table that wait to be written.
struct Batch {
    table: usize,
    json: String,
    rows: usize,
}

impl Batch {
    fn push(&mut self, row: &str) {
        if self.rows > 0 {
            self.json.push(',');
        }
        self.json.push_str(row);
        self.rows += 1;
    }
}

/// What was read so far.
struct Taken {
    counts: Vec<u64>,
    new: Vec<u64>,
    max_bytes: u64,
}

impl Taken {
    async fn write(
        &mut self,
        conn: &mut SqliteConnection,
        batch: &mut Batch,
        columns: &[Vec<Column>],
    ) -> Result<(), TransferError> {
        if batch.rows == 0 {
            return Ok(());
        }
        batch.json.push(']');
        let insert = TABLES[batch.table].insert(&columns[batch.table]);
        let done = sqlx::query(insert).bind(&batch.json).execute(&mut *conn).await.map_err(writing)?;
        self.counts[batch.table] += batch.rows as u64;
        self.new[batch.table] += done.rows_affected();
        if used_bytes(conn).await.map_err(writing)? > self.max_bytes {
            return Err(TransferError::Full { max_bytes: self.max_bytes });
        }
        batch.json.clear();
        batch.json.push('[');
        batch.rows = 0;
        Ok(())
    }

    fn agrees_with(&self, (trailer, hash): (Trailer, Sha256)) -> Result<(), TransferError> {
        for count in &trailer.rows {
            let at = TABLES.iter().position(|table| table.name == count.table);
            let read = at.map_or(0, |at| self.counts[at]);
            if read != count.rows {
                let problem =
                    format!("{read} rows of `{}`, not {}", count.table.escape_default(), count.rows);
                return Err(TransferError::Changed { problem });
            }
        }
        if !trailer.end || hex(&hash.finalize()) != trailer.sha256 {
            return Err(TransferError::Changed { problem: "its checksum is another".into() });
        }
        Ok(())
    }
}

/// Reads lines, and counts them into a checksum.
struct Incoming<R> {
    from: R,
    hash: Sha256,
    line: u64,
    /// The last line, without its end.
    text: Vec<u8>,
}

impl<R: BufRead> Incoming<R> {
    /// Reads the next line; false at the end. A last line without its end is no line.
    fn next(&mut self) -> Result<bool, TransferError> {
        self.text.clear();
        let read = self.from.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.text);
        let read = read.map_err(|source| TransferError::File { verb: "read", source })?;
        if read == 0 {
            return Ok(false);
        }
        if self.text.last() != Some(&b'\n') {
            return if read as u64 == MAX_LINE {
                Err(TransferError::Foreign { line: self.line + 1, problem: "it is too long".into() })
            } else {
                Err(TransferError::Truncated { line: self.line })
            };
        }
        self.hash.update(&self.text);
        self.text.pop();
        self.line += 1;
        Ok(true)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self) -> Result<T, TransferError> {
        serde_json::from_slice(&self.text)
            .map_err(|error| TransferError::Foreign { line: self.line, problem: error.to_string() })
    }
}
