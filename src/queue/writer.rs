//! The writer: the one task that changes the file.
//!
//! It takes every request that waits (at most [`MAX_BATCH`]), seals the tickets of the parks among them, makes one
//! transaction of all, and answers after its commit. Meanwhile the next batch gathers: the busier it is, the fewer
//! commits an event costs, and an idle one commits at once.
//!
//! Attempts that failed are put off last, and only so many in one batch: functions that fail faster than that can be written
//! down delay each other's retries, and not what senders wait for.
//!
//! Large requests go in steps, of which a batch holds one at most ([`Long`]), after everything else in it.
//!
//! **Failures.** When a statement fails for its own data, the batch is rolled back and done again in two halves, until
//! the request that is at fault fails alone. When the disk, the file or the commit fails, the whole batch is answered
//! with that error, the connection is given up, and the next batch begins on a new one: nothing of a failed batch is on
//! disk, nobody was told that it is, and a disk that recovers needs no restart. A crash before the commit is the same
//! without the answers; after it, the rows are there and what waited for the answer is delivered or parked again under
//! the same id, which changes nothing.
//!
//! A file that is damaged, or was deleted or replaced, takes on nothing more: `trouble` says why.
//!
//! **Space.** After a burst the free pages beyond [`SLACK_PAGES`] are given back to the file system in small steps,
//! only while nobody waits.
//!
//! It ends when it is told to close, or when every handle is gone; every verb answers `Closed` from then on.

use std::{
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
    long::Long,
    open::{Limits, failed},
    quarantine::{Evicted, Evictions},
    trouble::{OpenedFile, Trouble},
};
use crate::telemetry::{Chain, Metric};

/// Requests in one transaction at most.
pub(super) const MAX_BATCH: usize = 512;

/// Of deliveries put off in one transaction at most, beside those.
pub(super) const MAX_RETRIES: usize = 64;

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
    /// Those that can wait.
    pub(super) retries: mpsc::Receiver<Command>,
    pub(super) options: SqliteConnectOptions,
    pub(super) limits: Limits,
    /// None after a failure: the next batch opens a new one.
    pub(super) conn: Option<SqliteConnection>,
    /// None after a failure: the next batch reads them anew.
    pub(super) books: Option<Books>,
    pub(super) readers: SqlitePool,
    pub(super) commits: Arc<AtomicU64>,
    /// The file that is written, while its name leads to it.
    pub(super) file: OpenedFile,
    /// How the last transaction ended; so that a disk that stays away is told of once.
    pub(super) trouble: Trouble,
    pub(super) evictions: Evictions,
}

impl Writer {
    /// Runs until the queue is closed or every handle is gone. What was asked for before is done and answered first.
    pub async fn run(mut self) {
        let mut long = Long::default();
        let mut quiet_work = true;
        loop {
            let mut batch = Vec::new();
            if long.is_empty() {
                match self.gather(&mut batch, quiet_work).await {
                    Gathered::Requests => {}
                    Gathered::Quiet => {
                        quiet_work = self.give_back().await;
                        continue;
                    }
                    Gathered::Ended => break,
                }
            }
            self.fill(&mut batch);
            quiet_work = true;
            let mut batch = self.seal(batch, &mut long);
            batch.extend(long.next());
            let unfinished = self.settle(batch).await;
            long.ended(unfinished);
        }
        self.readers.close().await;
        if let Err(gone) = self.file.is_there() {
            tracing::error!(error = %Chain(&gone), "the queue file ends with this process: what is still parked in it is lost");
        }
        if let Some(conn) = self.conn
            && let Err(error) = conn.close().await
        {
            tracing::warn!(error = %Chain(&error), "the queue file was not closed cleanly");
        }
    }

    async fn gather(&mut self, batch: &mut Vec<Command>, quiet_work: bool) -> Gathered {
        let received = async {
            tokio::select! {
                biased;
                Some(command) = self.requests.recv() => Some(command),
                Some(command) = self.retries.recv() => Some(command),
                else => None,
            }
        };
        let received = if quiet_work {
            match tokio::time::timeout(QUIET, received).await {
                Ok(received) => received,
                Err(_) => return Gathered::Quiet,
            }
        } else {
            received.await
        };
        let Some(command) = received else { return Gathered::Ended };
        batch.push(command);
        Gathered::Requests
    }

    /// Adds what waits.
    fn fill(&mut self, batch: &mut Vec<Command>) {
        while batch.len() < MAX_BATCH
            && let Ok(command) = self.requests.try_recv()
        {
            batch.push(command);
        }
        let retries = std::iter::from_fn(|| self.retries.try_recv().ok());
        batch.extend(retries.take(MAX_RETRIES));
    }

    /// Takes the parks that were not withdrawn; answers those that were. What is long gets in line.
    fn seal(&mut self, batch: Vec<Command>, long: &mut Long) -> Vec<Command> {
        let mut sealed = Vec::with_capacity(batch.len());
        for command in batch {
            match &command.work {
                Work::Park(park) if !park.ticket.seal() => {
                    answer(command, Ok(Answer::Parked(Parked::Withdrawn)));
                }
                Work::Close => {
                    self.requests.close();
                    self.retries.close();
                    answer(command, Ok(Answer::Nothing));
                }
                work if work.is_long() => long.add(command),
                _ => sealed.push(command),
            }
        }
        sealed
    }

    /// Does and answers a batch; what is left is its long request, if that has more steps to go.
    async fn settle(&mut self, batch: Vec<Command>) -> Option<Command> {
        let mut unfinished = None;
        let mut pieces = by_size(self.without_what_is_lost(batch));
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
                                unfinished = Some(command);
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
                    let of_one_statement = is_of_one_statement(&error);
                    let source = Arc::new(error);
                    if !of_one_statement {
                        let error = QueueError::Failed { verb: "write", source: Arc::clone(&source) };
                        self.tell(error, piece.len());
                    }
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
        let (limits, evicted) = (self.limits, Evicted::new());
        let mut batch = Batch { conn: &mut transaction, books: &mut books, limits, used, evicted };
        let steps = batch.apply(commands).await?;
        let evicted = batch.evicted;
        transaction.commit().await?;
        self.evictions.tell(evicted, limits);
        self.conn = Some(conn);
        self.books = Some(books);
        self.commits.fetch_add(1, Ordering::Relaxed);
        // A file that nothing leads to is written as before, and is lost with the process.
        let is_trouble = steps.iter().any(Step::wrote) && self.trouble.now().is_some();
        if is_trouble && self.file.is_there().is_ok() && self.trouble.clear() {
            tracing::info!("the queue file can be written again");
        }
        Metric::QueueCommits.count(&[]);
        Ok(steps)
    }

    /// Refuses what would be taken on in a file that is damaged, or was deleted or replaced; what is left is done.
    fn without_what_is_lost(&mut self, batch: Vec<Command>) -> Vec<Command> {
        let lost = self.trouble.damage().or_else(|| self.file.is_there().err());
        let Some(lost) = lost else { return batch };
        let (refused, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|command| command.work.takes_on());
        self.tell(lost.clone(), refused.len());
        for command in refused {
            answer(command, Err(lost.clone()));
        }
        rest
    }

    fn tell(&mut self, error: QueueError, requests: usize) {
        let told = Chain(&error).to_string();
        if self.trouble.set(error) {
            tracing::error!(
                error = told,
                requests,
                "nothing more is safe in the queue file; every batch begins anew"
            );
        } else {
            tracing::debug!(error = told, requests, "the queue file can still not be written");
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
