//! The dead letter office: what an operator sees of dead letters and quarantine, and the walks over them.
//!
//! **Walks.** A [`Cursor`] is the window of positions that a walk has still to look at. Positions only grow and are never
//! given twice, so a page goes on where the last one ended whatever was replayed, discarded or buried meanwhile:
//! what was there all the time is met once. A walk from the oldest has its end fixed when it begins, so that a letter
//! which it replays and which dies again is not met twice.
//!
//! **Bounds.** A page looks at [`SCAN`] letters at most, so a filter that fits few of very many gives short or empty
//! pages with a cursor, and no question keeps a reader for long.

use std::{fmt, str::FromStr};

use async_trait::async_trait;

use super::{DeadLetter, Quarantined, QueueError, SqliteQueue, command::Work, open::failed, read, search};
use crate::domain::{
    clock::Timestamp,
    delivery::{DeadReason, FunctionRef},
    ids::{BindingId, DeliveryId},
};

/// Letters that are looked at for one page.
pub const SCAN: u32 = 10_000;

/// Which dead letters: those that fit everything that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this binding.
    pub binding: Option<BindingId>,
    /// Of functions of this platform.
    pub platform: Option<String>,
    /// Of functions of this name.
    pub function: Option<String>,
    /// Given up for this reason.
    pub reason: Option<DeadReason>,
    /// Died at this moment or later.
    pub since: Option<Timestamp>,
    /// Died before this moment.
    pub until: Option<Timestamp>,
    /// Of events in this bucket.
    pub bucket: Option<String>,
    /// Of objects whose key begins so.
    pub key_prefix: Option<String>,
}

impl LetterFilter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a walk has still to look at: positions above `low` and below `high`. Opaque outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Cursor {
    pub(super) const ALL: Self = Self { low: 0, high: i64::MAX };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no cursor: give back the `next` of the page before, as it was")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        let (low, high) = text.split_once('-').ok_or(InvalidCursor)?;
        Ok(Self { low: number(low).ok_or(InvalidCursor)?, high: number(high).ok_or(InvalidCursor)? })
    }
}

/// Which way a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// From what died last; to look at.
    #[default]
    NewestFirst,
    /// From what died first up to what was there at the beginning; to replay or discard.
    OldestFirst,
}

/// A page to be read.
#[derive(Debug, Clone, Default)]
pub struct LetterQuery {
    /// Which letters.
    pub filter: LetterFilter,
    /// Which way.
    pub direction: Direction,
    /// Where the page before ended; none for the first.
    pub cursor: Option<Cursor>,
    /// At most this many; never more than [`LetterQuery::MAX_LIMIT`].
    pub limit: u32,
}

impl LetterQuery {
    /// Longest page.
    pub const MAX_LIMIT: u32 = 500;
}

/// A page of dead letters.
#[derive(Debug, Clone)]
pub struct LetterPage {
    /// Those that fit, in the walk's order.
    pub letters: Vec<DeadLetter>,
    /// Where to go on; none when all were looked at.
    pub next: Option<Cursor>,
}

/// An item of the quarantine, as it is kept.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its number. Never given twice.
    pub id: u64,
    /// What it is; in a list only the first bytes.
    pub what: Quarantined,
    /// How often it was tried again in vain.
    pub tries: u32,
    /// When last.
    pub tried_at: Option<Timestamp>,
}

/// What an operator asks of the queue.
#[async_trait]
pub trait LetterOffice: Send + Sync + fmt::Debug {
    /// A page of dead letters with their attempts.
    async fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, QueueError>;

    /// How many letters a walk from the oldest has still to look at, at most, whether they fit or not; counted up to
    /// 100,000.
    async fn letters_left(&self, filter: &LetterFilter, cursor: Cursor) -> Result<u64, QueueError>;

    /// Has a dead letter belong to another binding; whether it was there.
    async fn rebind(&self, id: DeliveryId, binding: BindingId) -> Result<bool, QueueError>;

    /// The function of a delivery that is parked: it is on its way.
    async fn parked_function(&self, id: DeliveryId) -> Result<Option<FunctionRef>, QueueError>;

    /// A page of the quarantine, newest first, of items older than the one numbered `before`; of each its first bytes.
    async fn quarantine_page(&self, before: Option<u64>, limit: u32) -> Result<Vec<Item>, QueueError>;

    /// One item with all bytes that are kept of it.
    async fn quarantine_item(&self, id: u64) -> Result<Option<Item>, QueueError>;

    /// Notes that an item was tried again in vain, and why; whether it was there.
    async fn requarantine(&self, id: u64, reason: &str, now: Timestamp) -> Result<bool, QueueError>;

    /// Forgets an item; whether it was there.
    async fn unquarantine(&self, id: u64) -> Result<bool, QueueError>;
}

#[async_trait]
impl LetterOffice for SqliteQueue {
    async fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, QueueError> {
        let readers = self.readers()?;
        let page = self.noted(self.readable(|| search::page(readers, query)).await)?;
        Ok(LetterPage { letters: page.items, next: page.next })
    }

    async fn letters_left(&self, filter: &LetterFilter, cursor: Cursor) -> Result<u64, QueueError> {
        let left = search::left(self.readers()?, filter, cursor).await;
        self.noted(left.map_err(|error| failed("letters_left", error)))
    }

    async fn rebind(&self, id: DeliveryId, binding: BindingId) -> Result<bool, QueueError> {
        self.was(Work::Rebind { id, binding }).await
    }

    async fn parked_function(&self, id: DeliveryId) -> Result<Option<FunctionRef>, QueueError> {
        let function = read::parked_function(self.readers()?, id).await;
        self.noted(function.map_err(|error| failed("parked_function", error)))
    }

    async fn quarantine_page(&self, before: Option<u64>, limit: u32) -> Result<Vec<Item>, QueueError> {
        self.noted(read::quarantine_page(self.readers()?, before, limit).await)
    }

    async fn quarantine_item(&self, id: u64) -> Result<Option<Item>, QueueError> {
        self.noted(read::quarantine_item(self.readers()?, id).await)
    }

    async fn requarantine(&self, id: u64, reason: &str, now: Timestamp) -> Result<bool, QueueError> {
        self.was(Work::Requarantine { id, reason: reason.to_owned(), now }).await
    }

    async fn unquarantine(&self, id: u64) -> Result<bool, QueueError> {
        self.was(Work::Unquarantine(id)).await
    }
}
