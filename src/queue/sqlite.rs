//! The queue on SQLite: the handle that everyone holds.
//!
//! Verbs that change something go to the [`Writer`]; the others read on connections of their own.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Backlog, DeadLetter, Disposal, FunctionState, Handover, Park, Parked, Quarantined, Queue, QueueError,
    QueueOptions, Retry, Unhanded, Writer,
    books::Books,
    command::{Answer, Command, LetterRow, ParkRow, Work},
    functions, handover,
    open::{Limits, connect_options, failed, is_missed, migrate, prepare_file, read_options},
    quarantine::Evictions,
    read::{self, Page},
    rows::Table,
    trouble::{OpenedFile, Trouble, is_damage},
    writer::MAX_BATCH,
};
use crate::{
    domain::{
        clock::Timestamp,
        delivery::{Delivery, FunctionRef},
        ids::{BindingId, DeliveryId},
        outcome::Attempt,
    },
    telemetry::{Chain, Metric},
};

/// Connections for reading.
const READERS: u32 = 2;

/// Rounds of `due` and `dead_letters` that may be spent on rows that cannot be read.
const ROUNDS: usize = 4;

/// The queue in `queue.db`. Cheap to clone; all clones are the same queue.
#[derive(Debug, Clone)]
pub struct SqliteQueue {
    requests: mpsc::Sender<Command>,
    retries: mpsc::Sender<Command>,
    readers: SqlitePool,
    max_bytes: u64,
    commits: Arc<AtomicU64>,
    trouble: Trouble,
}

impl SqliteQueue {
    /// Opens the file, making and migrating it as needed. Verbs are answered once the [`Writer`] runs.
    ///
    /// # Errors
    ///
    /// `Newer` or `Older` when the schema is not that of this version, `Migration` and `Failed` when the disk or the
    /// file is at fault.
    pub async fn open(path: &Path, options: &QueueOptions) -> Result<(Self, Writer), QueueError> {
        if let Err(gone) = is_missed(path) {
            tracing::warn!(error = %Chain(&gone), "a new queue file is begun: what was parked in the other one is not in it");
        }
        prepare_file(path)?;
        Self::open_with(connect_options(path, options), options).await
    }

    pub(super) async fn open_with(
        connect: SqliteConnectOptions,
        options: &QueueOptions,
    ) -> Result<(Self, Writer), QueueError> {
        let opening = |error| failed("open", error);
        let mut conn = connect.connect().await.map_err(opening)?;
        let file = OpenedFile::of(connect.get_filename()).map_err(|error| opening(sqlx::Error::Io(error)))?;
        migrate(&mut conn, options.migrate).await?;
        if let Err(error) = Books::forget_unused(&mut conn).await {
            tracing::warn!(error = %Chain(&error), "functions without deliveries stay in the queue file");
        }
        let books = Books::load(&mut conn).await.map_err(opening)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            // All of them from the start: a file that is deleted later can still be read.
            .min_connections(READERS)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(30))
            .test_before_acquire(false)
            .connect_with(read_options(&connect, options))
            .await
            .map_err(opening)?;
        let (sender, receiver) = mpsc::channel(2 * MAX_BATCH);
        let (retries, retries_receiver) = mpsc::channel(2 * MAX_BATCH);
        let (commits, trouble) = (Arc::new(AtomicU64::new(0)), Trouble::default());
        let queue = Self {
            requests: sender,
            retries,
            readers: readers.clone(),
            max_bytes: options.max_bytes,
            commits: Arc::clone(&commits),
            trouble: trouble.clone(),
        };
        let writer = Writer {
            requests: receiver,
            retries: retries_receiver,
            options: connect,
            file,
            limits: Limits::from(options),
            conn: Some(conn),
            books: Some(books),
            readers,
            commits,
            trouble,
            evictions: Evictions::new(),
        };
        Ok((queue, writer))
    }

    /// Tells the writer to end once it has done and answered what was asked before; its task is what to wait for.
    pub async fn close(&self) {
        // Closed already is as good.
        drop(self.ask(Work::Close).await);
    }

    /// How many transactions were committed since the queue was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Shows that the file can be written. While all is well that costs a commit of nothing, which touches no disk; after
    /// a write that failed it writes.
    pub async fn probe(&self) -> Result<(), QueueError> {
        self.ask(Work::Probe { write: self.trouble.now().is_some() }).await.map(drop)
    }

    /// Where to read, as long as the writer runs.
    pub(super) fn readers(&self) -> Result<&SqlitePool, QueueError> {
        if self.requests.is_closed() { Err(QueueError::Closed) } else { Ok(&self.readers) }
    }

    /// Notes that the file is damaged, if that is what a reader met.
    pub(super) fn noted<T>(&self, read: Result<T, QueueError>) -> Result<T, QueueError> {
        read.inspect_err(|error| {
            if is_damage(error) && self.trouble.set(error.clone()) {
                tracing::error!(error = %Chain(error), "the queue file takes on nothing more");
            }
        })
    }

    pub(super) async fn ask(&self, work: Work) -> Result<Answer, QueueError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { work, reply, so_far: 0 };
        let requests = if command.work.can_wait() { &self.retries } else { &self.requests };
        requests.send(command).await.map_err(|_| QueueError::Closed)?;
        answer.await.map_err(|_| QueueError::Closed)?
    }

    pub(super) async fn was(&self, work: Work) -> Result<bool, QueueError> {
        Ok(matches!(self.ask(work).await?, Answer::Was(true)))
    }

    pub(super) async fn count(&self, work: Work) -> Result<u64, QueueError> {
        match self.ask(work).await? {
            Answer::Count(count) => Ok(count),
            _ => Ok(0),
        }
    }

    /// Moves rows that cannot be read out of the way, and says so; whether they are.
    async fn reject(&self, unreadable: Vec<(Table, i64, QueueError)>) -> Result<(), QueueError> {
        for (table, seq, problem) in unreadable {
            tracing::error!(
                error = %Chain(&problem),
                "a row of the queue cannot be read; it is moved to the quarantine with its bytes",
            );
            Metric::QueueCorrupt.count(&[]);
            self.ask(Work::Reject { table, seq, problem: problem.to_string() }).await?;
        }
        Ok(())
    }

    /// Reads a page; rows that cannot be read are moved away, and the page is read again when nothing else was on it.
    pub(super) async fn readable<T, F>(&self, read: impl Fn() -> F) -> Result<Page<T>, QueueError>
    where
        F: Future<Output = Result<Page<T>, QueueError>>,
    {
        for _ in 0..ROUNDS {
            let mut page = read().await?;
            if page.unreadable.is_empty() {
                return Ok(page);
            }
            let rejected = self.reject(std::mem::take(&mut page.unreadable)).await;
            if !page.items.is_empty() {
                return Ok(page);
            }
            rejected?;
        }
        Ok(Page::new())
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn park(&self, park: Park) -> Result<Parked, QueueError> {
        let row = ParkRow::new(park).map_err(|error| failed("park", sqlx::Error::Encode(error.into())))?;
        match self.ask(Work::Park(Box::new(row))).await? {
            Answer::Parked(parked) => Ok(parked),
            _ => Err(QueueError::Closed),
        }
    }

    async fn delivered(&self, id: DeliveryId) -> Result<bool, QueueError> {
        self.was(Work::Delivered(id)).await
    }

    async fn retry(&self, retry: Retry) -> Result<bool, QueueError> {
        self.was(Work::Retry(Box::new(retry))).await
    }

    async fn bury(&self, letter: DeadLetter) -> Result<bool, QueueError> {
        let row =
            LetterRow::new(letter).map_err(|error| failed("bury", sqlx::Error::Encode(error.into())))?;
        self.was(Work::Bury(Box::new(row))).await
    }

    async fn quarantine(&self, item: Quarantined) -> Result<u64, QueueError> {
        match self.ask(Work::Quarantine(item)).await? {
            Answer::Kept(id) => Ok(id),
            _ => Err(QueueError::Closed),
        }
    }

    async fn due(
        &self,
        function: &FunctionRef,
        now: Timestamp,
        running: &[DeliveryId],
        limit: u32,
    ) -> Result<Vec<Delivery>, QueueError> {
        let readers = self.readers()?;
        let due = self.readable(|| async {
            read::due(readers, function, now, running, limit).await.map_err(|error| failed("due", error))
        });
        self.noted(due.await.map(|page| page.items))
    }

    async fn next_due(
        &self,
        function: &FunctionRef,
        running: &[DeliveryId],
    ) -> Result<Option<Timestamp>, QueueError> {
        let next = read::next_due(&self.readers, function, running).await;
        self.noted(next.map_err(|error| failed("next_due", error)))
    }

    async fn bring_forward(
        &self,
        function: &FunctionRef,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        self.count(Work::BringForward { function: function.clone(), latest, now }).await
    }

    async fn keep_skew(&self, micros: i64) -> Result<(), QueueError> {
        self.ask(Work::KeepSkew(micros)).await.map(drop)
    }

    async fn skew(&self) -> Result<i64, QueueError> {
        let skew = read::skew(self.readers()?).await;
        self.noted(skew.map_err(|error| failed("skew", error)))
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, QueueError> {
        let backlog = read::backlog(self.readers()?).await;
        self.noted(backlog.map_err(|error| failed("backlog", error)))
    }

    async fn hold(&self, binding: BindingId, held: bool, now: Timestamp) -> Result<u64, QueueError> {
        self.count(Work::Hold { binding, held, now }).await
    }

    async fn held_bindings(&self) -> Result<Vec<BindingId>, QueueError> {
        let bindings = read::held_bindings(self.readers()?).await;
        self.noted(bindings.map_err(|error| failed("held_bindings", error)))
    }

    async fn parked_of(&self, binding: BindingId) -> Result<u64, QueueError> {
        let parked = read::parked_of(self.readers()?, binding).await;
        self.noted(parked.map_err(|error| failed("parked_of", error)))
    }

    async fn dispose(
        &self,
        binding: BindingId,
        disposal: Disposal,
        running: &[DeliveryId],
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        self.count(Work::Dispose { binding, disposal, running: running.to_vec(), now }).await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>, QueueError> {
        self.noted(read::attempts(self.readers()?, id).await)
    }

    async fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, QueueError> {
        self.noted(read::dead_letter(self.readers()?, id).await)
    }

    async fn replay(&self, id: DeliveryId, now: Timestamp) -> Result<Option<FunctionRef>, QueueError> {
        match self.ask(Work::Replay { id, now }).await? {
            Answer::Function(function) => Ok(function),
            _ => Ok(None),
        }
    }

    async fn discard(&self, id: DeliveryId) -> Result<bool, QueueError> {
        self.was(Work::Discard(id)).await
    }

    async fn keep_function_state(
        &self,
        function: FunctionRef,
        state: Option<FunctionState>,
    ) -> Result<(), QueueError> {
        self.ask(Work::KeepFunction { function, state }).await.map(drop)
    }

    async fn function_states(&self) -> Result<Vec<FunctionState>, QueueError> {
        let states = functions::function_states(self.readers()?).await;
        self.noted(states.map_err(|error| failed("function_states", error)))
    }

    async fn unhanded(&self, limit: u32) -> Result<Unhanded, QueueError> {
        let unhanded = handover::unhanded(self.readers()?, limit).await;
        self.noted(unhanded.map_err(|error| failed("unhanded", error)))
    }

    async fn hand_over(&self, letters: Vec<Handover>, upto: i64) -> Result<u64, QueueError> {
        self.count(Work::HandOver(letters, upto)).await
    }

    async fn usage(&self) -> Result<(u64, u64), QueueError> {
        let used = read::usage(self.readers()?).await;
        Ok((self.noted(used.map_err(|error| failed("usage", error)))?, self.max_bytes))
    }

    fn trouble(&self) -> Option<QueueError> {
        self.trouble.now()
    }
}
