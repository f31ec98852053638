//! The queue: what this daemon has taken responsibility for, on its own disk.
//!
//! Parked deliveries with their events, dead letters and quarantine live in `queue.db` in the state directory (SQLite,
//! WAL, `synchronous=FULL`), as a mail server owns its spool. One process owns the directory, so there are no leases
//! and no claims: what runs now is known in memory, and after a crash every row is due at its time.
//!
//! One writer takes the commands that have come in meanwhile, makes one transaction of them and answers them after its
//! commit (group commit): an `Ok` means that it is on disk.
//!
//! Read `writer` for batches and failures, `trouble` for what a bad disk means, `parks`, `deliveries`, `letters`, `results`
//! and `quarantine` for the verbs within a transaction, `read` and `search` for the others, `office` for what an operator
//! asks, `open` for the file and `spool` for its owner, `timekeeper` for the time by which rows are due, `offline` for
//! what is done to the file of a daemon that does not
//! run (`verify`, `transfer`, `tables`).
//!
//! **Withdrawing.** A delivery is parked while its first attempt may still be running. Its [`Ticket`] says who was
//! first: the writer, sealing its batch, or the attempt's result, withdrawing the row. After the seal the result is
//! recorded by the ordinary verbs. Parking or dead-lettering an id that is already there changes nothing.

mod batch;
mod books;
mod command;
mod deliveries;
mod functions;
mod handover;
mod letters;
mod long;
mod office;
mod offline;
mod open;
mod parks;
mod quarantine;
mod read;
mod results;
mod retention;
mod rows;
mod search;
mod spool;
mod sqlite;
mod tables;
#[cfg(test)]
mod tests;
mod timekeeper;
mod transfer;
mod trouble;
mod verify;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use async_trait::async_trait;
use serde::Serialize;

use crate::domain::{
    clock::Timestamp,
    delivery::{DeadReason, Delivery, FunctionRef},
    ids::{BindingId, DeliveryId},
    outcome::{Attempt, Class},
};

pub use handover::{Handover, Unhanded, UnhandedLetter};
pub use office::{Cursor, Direction, Item, LetterFilter, LetterOffice, LetterPage, LetterQuery};
pub use offline::{Glance, OfflineError, OfflineQueue, glance};
pub use open::QueueOptions;
pub use quarantine::REJECTED_ROWS;
pub use results::{Results, Wait};
pub use retention::{Retention, Sweeper};
pub use spool::{StateDirError, StateDirLock, lock_state_dir};
pub use sqlite::SqliteQueue;
pub use timekeeper::Timekeeper;
pub use transfer::{Count, Exported, Imported, TransferError};
pub use verify::{Check, Verified};
pub use writer::Writer;

/// What went wrong with the queue.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The disk, or the file on it, failed; nothing of the batch is safe. Another try may succeed.
    #[error("the queue file failed ({verb}); {}", trouble::remedy(source))]
    Failed {
        /// What was asked of it.
        verb: &'static str,
        /// What it said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The file has reached its bound, the room for dead letters included.
    #[error(
        "the queue file is full ({bytes} bytes); make room by replaying or discarding dead letters, or raise `queue.max_bytes`"
    )]
    Full {
        /// Its size.
        bytes: u64,
    },
    /// The file was deleted or replaced under the running daemon. Nothing more is taken on; what is in it can be worked
    /// off, and is lost with the process.
    #[error(
        "{} was deleted or replaced while triggerd was running; put it back, or restart triggerd once it has worked off what it holds",
        path.display()
    )]
    Gone {
        /// Where it was.
        path: std::path::PathBuf,
    },
    /// A row that does not make sense.
    #[error("queue table `{table}`, row {row}: column `{column}` cannot be read: {problem}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong.
        problem: String,
    },
    /// The schema was made by a newer version of triggerd.
    #[error(
        "queue.db was migrated by a newer triggerd (migration {version} is unknown here); upgrade this daemon"
    )]
    Newer {
        /// The migration that is unknown.
        version: i64,
    },
    /// The schema is older than this triggerd, which may not migrate it.
    #[error("queue.db lacks migration {missing}; run `triggerd migrate`, or allow migration at start")]
    Older {
        /// The first migration that is missing.
        missing: i64,
    },
    /// A migration failed.
    #[error("migrating queue.db failed")]
    Migration(#[source] Arc<sqlx::migrate::MigrateError>),
    /// The writer has ended; the daemon is on its way down.
    #[error("the queue is closed")]
    Closed,
}

impl QueueError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Failed { source, .. } => trouble::remedy(source),
            Self::Full { .. } => "discard or replay dead letters, or raise `max_bytes` in [queue]",
            Self::Gone { .. } => {
                "put the file back, or restart triggerd once it has worked off what it holds"
            }
            Self::Corrupt { .. } => {
                "stop triggerd and see with `triggerd queue verify` what else cannot be read; `queue export` saves the rest"
            }
            Self::Newer { .. } => "upgrade this daemon",
            Self::Older { .. } => "run `triggerd migrate`, or allow migration at start",
            Self::Migration(_) => "the daemon's log holds the whole cause",
            Self::Closed => "try again when the daemon runs",
        }
    }
}

/// Who was first: the batch that seals a row, or the attempt that makes it unnecessary.
#[derive(Debug, Clone, Default)]
pub struct Ticket(Arc<AtomicU8>);

impl Ticket {
    const OPEN: u8 = 0;
    const SEALED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// Takes the row back; false when a batch has sealed it already.
    pub fn withdraw(&self) -> bool {
        self.0.compare_exchange(Self::OPEN, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// For the writer: takes the row into its batch; false when it was withdrawn.
    pub fn seal(&self) -> bool {
        self.0.compare_exchange(Self::OPEN, Self::SEALED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A delivery to be parked.
#[derive(Debug, Clone)]
pub struct Park {
    /// What is parked.
    pub delivery: Delivery,
    /// When it is to be tried next.
    pub due: Timestamp,
    /// Not to be tried until its binding is released (degraded or paused). Its age stands still from the end of
    /// `attempt`, or else from when it was accepted.
    pub held: bool,
    /// The attempt that failed before, if one did.
    pub attempt: Option<Attempt>,
    /// To withdraw it by.
    pub ticket: Ticket,
}

/// What came of parking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// It is on disk now.
    Written,
    /// It was on disk before; nothing changed.
    AlreadyThere,
    /// It was withdrawn in time.
    Withdrawn,
    /// The function's share of the queue is used up: it became a dead letter.
    Overflow,
}

/// A delivery to be tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Which.
    pub id: DeliveryId,
    /// When.
    pub due: Timestamp,
    /// Not to be tried until its binding is released. Its age stands still from the end of `attempt`, or else from
    /// `due`.
    pub held: bool,
    /// Attempts that were the function's fault, now.
    pub attempts: u32,
    /// All attempts without success, now.
    pub tries: u32,
    /// In which life ([`Delivery::earlier`]).
    pub earlier: u32,
    /// The attempt that failed, if one did.
    pub attempt: Option<Attempt>,
}

/// What is kept of a function whose circuit breaker is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionState {
    /// Which function.
    pub function: FunctionRef,
    /// Until when no call goes.
    pub open_until: Timestamp,
    /// How often the breaker opened since it was closed.
    pub opened: u32,
    /// Why, for a person.
    pub reason: String,
}

/// How much one function has parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Which function.
    pub function: FunctionRef,
    /// Deliveries that wait for their time (neither held nor awaiting a result).
    pub parked: u64,
    /// When the first of all but the held ones is due.
    pub earliest_due: Option<Timestamp>,
    /// When the last of them is due.
    pub latest_due: Option<Timestamp>,
    /// Deliveries that are held.
    pub held: u64,
    /// Deliveries that await their result.
    pub awaiting: u64,
    /// When the delivery that is parked longest, held or not, was accepted.
    pub oldest: Option<Timestamp>,
}

/// What could never be processed.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// The source that brought it.
    pub source: String,
    /// When.
    pub received_at: Timestamp,
    /// Why, for a person.
    pub reason: String,
    /// Its bytes, at most the first 64 KiB.
    pub bytes: Vec<u8>,
    /// Its whole length.
    pub length: u64,
}

impl Quarantined {
    /// The reason once it was tried again in vain: the first one, and beside it what was found last, if that is another.
    pub fn reason_after(reason: &str, found: &str) -> String {
        const AGAIN: &str = "; when tried again: ";
        let first = reason.split_once(AGAIN).map_or(reason, |(first, _)| first);
        if first == found { first.to_owned() } else { format!("{first}{AGAIN}{found}") }
    }
}

/// A delivery that was given up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The delivery, with its event.
    pub delivery: Delivery,
    /// Why.
    pub reason: DeadReason,
    /// The last words about it, for a person.
    pub detail: String,
    /// When it was given up.
    pub died_at: Timestamp,
    /// Its attempts, oldest first; bounded.
    pub attempts: Vec<Attempt>,
    /// How often it was replayed before.
    pub replays: u32,
}

impl DeadLetter {
    /// Whether its function has succeeded since, so that a replay would run it again.
    pub fn succeeded_late(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.class == Class::Ok)
    }
}

/// What becomes of a binding's parked deliveries when it is unbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposal {
    /// They are forgotten.
    Discard,
    /// They become dead letters (*unbound*).
    DeadLetter,
}

/// The verbs. Each `Ok` means: on disk.
#[async_trait]
pub trait Queue: Results + Send + Sync + fmt::Debug {
    /// Parks a delivery with its event.
    async fn park(&self, park: Park) -> Result<Parked, QueueError>;

    /// Removes a delivery that was delivered; whether it was there.
    async fn delivered(&self, id: DeliveryId) -> Result<bool, QueueError>;

    /// Puts a parked delivery off, and no result is awaited of it; whether it was there. One that was replayed meanwhile, or
    /// has had more tries, is not.
    async fn retry(&self, retry: Retry) -> Result<bool, QueueError>;

    /// Makes a dead letter of a delivery, parked or not; false when it was one already, or is parked for a life of
    /// its own (it was replayed) or after more tries. Attempts that were parked with
    /// the delivery are kept, those of `letter` that are not among them are added.
    async fn bury(&self, letter: DeadLetter) -> Result<bool, QueueError>;

    /// Keeps what can never be processed; the item's number.
    async fn quarantine(&self, item: Quarantined) -> Result<u64, QueueError>;

    /// Deliveries of one function that are due and not held, oldest due first, except those that run now. A row that
    /// cannot be read is moved to the quarantine and told of; it does not keep the others back.
    async fn due(
        &self,
        function: &FunctionRef,
        now: Timestamp,
        running: &[DeliveryId],
        limit: u32,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// When the first delivery of a function is due, held ones and those that run now aside.
    async fn next_due(
        &self,
        function: &FunctionRef,
        running: &[DeliveryId],
    ) -> Result<Option<Timestamp>, QueueError>;

    /// Has deliveries of a function that wait to be tried again, and are due later than `latest`, be due at `now`; how
    /// many. Held ones are left alone; those that await their result are due at `latest`.
    async fn bring_forward(
        &self,
        function: &FunctionRef,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<u64, QueueError>;

    /// Keeps by how many microseconds the wall clock is ahead of the moments that are kept here.
    async fn keep_skew(&self, micros: i64) -> Result<(), QueueError>;

    /// By how many microseconds the wall clock was ahead when that was kept last.
    async fn skew(&self) -> Result<i64, QueueError>;

    /// How much each function has parked.
    async fn backlog(&self) -> Result<Vec<Backlog>, QueueError>;

    /// Holds or releases every parked delivery of a binding that awaits no result; how many. A released one is due at `now`, and the time
    /// for which it was held does not count for its age.
    async fn hold(&self, binding: BindingId, held: bool, now: Timestamp) -> Result<u64, QueueError>;

    /// The bindings that have deliveries held.
    async fn held_bindings(&self) -> Result<Vec<BindingId>, QueueError>;

    /// How many deliveries a binding has parked.
    async fn parked_of(&self, binding: BindingId) -> Result<u64, QueueError>;

    /// Clears a binding's parked deliveries, except those that run now; how many.
    async fn dispose(
        &self,
        binding: BindingId,
        disposal: Disposal,
        running: &[DeliveryId],
        now: Timestamp,
    ) -> Result<u64, QueueError>;

    /// Attempts of a parked delivery, oldest first.
    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>, QueueError>;

    /// One dead letter.
    async fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, QueueError>;

    /// Parks a dead letter again, due now, its attempts and age beginning anew, whatever its function's share; its
    /// function, or none when there is no such dead letter (any more).
    async fn replay(&self, id: DeliveryId, now: Timestamp) -> Result<Option<FunctionRef>, QueueError>;

    /// Forgets a dead letter; whether there was one.
    async fn discard(&self, id: DeliveryId) -> Result<bool, QueueError>;

    /// Keeps what is known of a function, or forgets it.
    async fn keep_function_state(
        &self,
        function: FunctionRef,
        state: Option<FunctionState>,
    ) -> Result<(), QueueError>;

    /// What is kept of functions.
    async fn function_states(&self) -> Result<Vec<FunctionState>, QueueError>;

    /// Dead letters that nobody has looked at yet for a handler function, in the order in which they died.
    async fn unhanded(&self, limit: u32) -> Result<Unhanded, QueueError>;

    /// Parks a delivery to a handler function for each of these letters that is still there, and notes in the same
    /// transaction that every letter up to `upto` was looked at. Done twice it changes nothing. `letters` are in the order
    /// of [`Self::unhanded`]; in a full file those that found room are handed over, and the rest is looked at again.
    async fn hand_over(&self, letters: Vec<Handover>, upto: i64) -> Result<u64, QueueError>;

    /// Bytes of the file in use, and its bound.
    async fn usage(&self) -> Result<(u64, u64), QueueError>;

    /// What kept the last write from being done, until one is done again; or that the file is damaged. It is known without asking the disk.
    fn trouble(&self) -> Option<QueueError> {
        None
    }
}
