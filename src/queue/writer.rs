//! The writer: the one task that changes the file.
//!
//! It takes every request that waits (at most [`MAX_BATCH`]), seals the tickets of the parks among them, makes one
//! transaction of all, and answers after its commit. Meanwhile the next batch gathers: the busier it is, the fewer
//! commits an event costs, and an idle one commits at once.
//!
//! **Failures.** When a statement fails for its own data, the batch is rolled back and done again in two halves, until
//! the request that is at fault fails alone. When the disk, the file or the commit fails, the whole batch is answered
//! with that error, the connection is given up, and the next batch begins on a new one: nothing of a failed batch is on
//! disk, nobody was told that it is, and a disk that recovers needs no restart. A crash before the commit is the same
//! without the answers; after it, the rows are there and what waited for the answer is delivered or parked again under
//! the same id, which changes nothing.
//!
//! A file that was removed, or replaced by another, takes commits as ever and keeps none of them. So after each commit
//! the name is asked for its file, and when it is not ours, the batch has failed, and so does every later one.
//!
//! **Space.** After a burst the free pages beyond [`SLACK_PAGES`] are given back to the file system in small steps,
//! only while nobody waits.
//!
//! It ends when it is told to close, or when every handle is gone; every verb answers `Closed` from then on.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};
use tokio::sync::mpsc;

use super::{
    Parked, QueueError,
    batch::{Batch, used_bytes},
    books::Books,
    command::{Answer, Command, Step, Work},
    open::{FileId, Limits, failed},
};
use crate::telemetry::{Chain, Metric};

/// Requests in one transaction at most.
pub(super) const MAX_BATCH: usize = 512;

/// Bytes in one transaction, about, so that one of large events does not make the others wait for all of them.
const BATCH_BYTES: usize = 8 << 20;

/// How long it has to be quiet before space is given back.
const QUIET: Duration = Duration::from_millis(500);

/// Free pages that are kept for the next burst.
const SLACK_PAGES: i64 = 256;

/// Pages given back in one step.
const VACUUM_PAGES: i64 = 256;

/// The writing half of a queue; run it in a task that is watched.
#[derive(Debug)]
pub struct Writer {
    pub(super) requests: mpsc::Receiver<Command>,
    pub(super) options: SqliteConnectOptions,
    /// What was opened; another file of that name is not it.
    pub(super) file: FileId,
    pub(super) limits: Limits,
    /// None after a failure: the next batch opens a new one.
    pub(super) conn: Option<SqliteConnection>,
    /// None after a failure: the next batch reads them anew.
    pub(super) books: Option<Books>,
    pub(super) readers: SqlitePool,
    pub(super) commits: Arc<AtomicU64>,
    /// Whether the last transaction failed; so that a disk that stays away is told of once.
    pub(super) failing: bool,
}

impl Writer {
    /// Runs until the queue is closed or every handle is gone. What was asked for before is done and answered first.
    pub async fn run(mut self) {
        let mut unfinished = VecDeque::new();
        let mut quiet_work = true;
        loop {
            let mut batch: Vec<Command> = unfinished.drain(..).collect();
            if batch.is_empty() {
                match self.gather(&mut batch, quiet_work).await {
                    Gathered::Requests => {}
                    Gathered::Quiet => {
                        quiet_work = self.give_back().await;
                        continue;
                    }
                    Gathered::Ended => break,
                }
            } else {
                while batch.len() < MAX_BATCH
                    && let Ok(command) = self.requests.try_recv()
                {
                    batch.push(command);
                }
            }
            quiet_work = true;
            let batch = self.seal(batch);
            unfinished.extend(self.settle(batch).await);
        }
        self.readers.close().await;
        if let Some(conn) = self.conn
            && let Err(error) = conn.close().await
        {
            tracing::warn!(error = %Chain(&error), "the queue file was not closed cleanly");
        }
    }

    async fn gather(&mut self, batch: &mut Vec<Command>, quiet_work: bool) -> Gathered {
        let received = self.requests.recv_many(batch, MAX_BATCH);
        let received = if quiet_work {
            match tokio::time::timeout(QUIET, received).await {
                Ok(received) => received,
                Err(_) => return Gathered::Quiet,
            }
        } else {
            received.await
        };
        if received == 0 { Gathered::Ended } else { Gathered::Requests }
    }

    /// Takes the parks that were not withdrawn; answers those that were.
    fn seal(&mut self, batch: Vec<Command>) -> Vec<Command> {
        let mut sealed = Vec::with_capacity(batch.len());
        for command in batch {
            match &command.work {
                Work::Park(park) if !park.ticket.seal() => {
                    answer(command, Ok(Answer::Parked(Parked::Withdrawn)));
                }
                Work::Close => {
                    self.requests.close();
                    answer(command, Ok(Answer::Nothing));
                }
                _ => sealed.push(command),
            }
        }
        sealed
    }

    /// Does and answers a batch; what is left are large requests that have more steps to go.
    async fn settle(&mut self, batch: Vec<Command>) -> Vec<Command> {
        let mut unfinished = Vec::new();
        let mut pieces = by_size(batch);
        while let Some(mut piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self.transact(&piece).await {
                Ok(steps) => {
                    for (mut command, step) in piece.into_iter().zip(steps) {
                        match step {
                            Step::More(rows) => {
                                command.so_far += rows;
                                unfinished.push(command);
                            }
                            Step::Done(Ok(Answer::Count(rows))) => {
                                let rows = command.so_far + rows;
                                answer(command, Ok(Answer::Count(rows)));
                            }
                            Step::Done(result) => answer(command, result),
                        }
                    }
                }
                Err(error) if piece.len() > 1 && is_of_one_statement(&error) => {
                    pieces.push(piece.split_off(piece.len() / 2));
                    pieces.push(piece);
                }
                Err(error) => {
                    self.tell(&error, piece.len());
                    let source = Arc::new(error);
                    for command in piece {
                        let verb = command.work.verb();
                        answer(command, Err(QueueError::Failed { verb, source: Arc::clone(&source) }));
                    }
                }
            }
        }
        unfinished
    }

    /// One transaction. After an error, connection and books are gone: both might not agree with the file.
    async fn transact(&mut self, commands: &[Command]) -> Result<Vec<Step>, sqlx::Error> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.options.connect().await?,
        };
        let mut books = match self.books.take() {
            Some(books) => books,
            None => Books::load(&mut conn).await?,
        };
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
        let used = used_bytes(&mut transaction).await?;
        let mut batch = Batch { conn: &mut transaction, books: &mut books, limits: self.limits, used };
        let steps = batch.apply(commands).await?;
        transaction.commit().await?;
        self.file.still_at(self.options.get_filename()).await?;
        self.conn = Some(conn);
        self.books = Some(books);
        self.commits.fetch_add(1, Ordering::Relaxed);
        if std::mem::take(&mut self.failing) {
            tracing::info!("the queue file can be written again");
        }
        Metric::QueueCommits.count(&[]);
        Ok(steps)
    }

    fn tell(&mut self, error: &sqlx::Error, requests: usize) {
        let first = !std::mem::replace(&mut self.failing, !is_of_one_statement(error));
        let error = Chain(error);
        if first {
            tracing::error!(%error, requests, "the queue file could not be written; every batch begins anew");
        } else {
            tracing::debug!(%error, requests, "the queue file can still not be written");
        }
    }

    /// Gives one step of free space back; whether there is more to give.
    async fn give_back(&mut self) -> bool {
        match self.vacuum_step().await {
            Ok(more) => more,
            Err(error) => {
                let error = failed("vacuum", error);
                tracing::warn!(error = %Chain(&error), "free space of the queue file was not given back");
                self.conn = None;
                false
            }
        }
    }

    async fn vacuum_step(&mut self) -> Result<bool, sqlx::Error> {
        let Some(conn) = &mut self.conn else { return Ok(false) };
        let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut *conn).await?;
        if free <= SLACK_PAGES {
            // The file itself shrinks when the log is written back into it.
            sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *conn).await?;
            return Ok(false);
        }
        let mut given = 0;
        while given < free - SLACK_PAGES && self.requests.is_empty() {
            // As many as `VACUUM_PAGES`; a pragma takes no parameters.
            sqlx::query("PRAGMA incremental_vacuum(256)").execute(&mut *conn).await?;
            given += VACUUM_PAGES;
        }
        Ok(true)
    }
}

enum Gathered {
    Requests,
    Quiet,
    Ended,
}

/// Cuts a batch so that no transaction is much larger than [`BATCH_BYTES`]; the last piece is the first to be done.
fn by_size(batch: Vec<Command>) -> Vec<Vec<Command>> {
    let mut pieces = vec![Vec::with_capacity(batch.len())];
    let mut bytes = 0;
    for command in batch {
        bytes += command.work.bytes();
        if let Some(piece) = pieces.last_mut() {
            piece.push(command);
        }
        if bytes >= BATCH_BYTES {
            pieces.push(Vec::new());
            bytes = 0;
        }
    }
    pieces.reverse();
    pieces
}

/// Whether an error is of the statement's own data, so that the rest of its batch may be sound.
fn is_of_one_statement(error: &sqlx::Error) -> bool {
    const CONSTRAINT: i32 = 19;
    const TOO_BIG: i32 = 18;
    const MISMATCH: i32 = 20;
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<i32>().ok());
            code.is_some_and(|code| [CONSTRAINT, TOO_BIG, MISMATCH].contains(&(code & 0xff)))
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// Answers; nobody may be waiting any more, which changes nothing.
fn answer(command: Command, result: Result<Answer, QueueError>) {
    drop(command.reply.send(result));
}
