//! How long dead letters are kept: by age and by number, announced before anything is dropped.
//!
//! A pass looks at two bounds. By *age* it announces what will be older than the retention within a day; by *count* the
//! oldest of the last tenth below the greatest number. Both stand in a gauge, and in the log when they begin. What is
//! beyond a bound is dropped only when it was announced for the time of the notice: so neither a start after a long
//! rest, nor a clock that jumps, nor a flood of letters drops anything that no alarm could have told of. Until then there
//! may be more than the greatest number; the queue's bound in bytes holds all the while.
//!
//! What was announced is remembered in memory only: after a restart the notice begins anew. Dropping goes in steps of
//! [`STEP`], each in a transaction among those of others; a crash in between leaves the rest to the next pass.

use std::{sync::Arc, time::Duration};

use sqlx::Row;
use tokio_util::sync::CancellationToken;

use super::{
    QueueError, SqliteQueue,
    batch::Batch,
    command::{Answer, Step, Work},
    open::failed,
};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        ids::DeliveryId,
    },
    telemetry::{
        Seldom,
        happening::{QueueTrouble, troubles},
        letters::{Because, LettersDropped, LettersExpiring},
    },
};

/// Letters dropped in one transaction.
const STEP: i64 = 500;

/// How far ahead age is announced.
const AHEAD: Duration = Duration::from_hours(24);

/// Longest time between two passes.
const PASS: Duration = Duration::from_mins(1);

/// How often it is logged that letters are announced.
const TOLD: Duration = Duration::from_hours(1);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Letters are dropped at this age; none keeps them whatever their age.
    pub age: Option<Duration>,
    /// The oldest beyond this number are dropped; none keeps them whatever their number.
    pub count: Option<u64>,
    /// For how long a letter is announced before it is dropped.
    pub notice: Duration,
}

/// What is beyond a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Died before this moment.
    Before(Timestamp),
    /// At this position or before.
    UpTo(i64),
}

/// Looks after the retention of dead letters.
#[derive(Debug)]
pub struct Sweeper {
    queue: Arc<SqliteQueue>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    age: Notice<Timestamp>,
    count: Notice<i64>,
    told: Option<Duration>,
    troubles: Seldom<&'static str>,
}

/// What was announced: everything up to a bound that moves on.
#[derive(Debug)]
struct Notice<T> {
    announced: Option<(Duration, T)>,
    due: Option<T>,
}

impl<T> Default for Notice<T> {
    fn default() -> Self {
        Self { announced: None, due: None }
    }
}

impl<T: Ord + Copy> Notice<T> {
    /// Announces everything up to `bound`; up to where it was announced a whole notice ago.
    fn announce(&mut self, bound: T, (now, notice): (Duration, Duration)) -> Option<T> {
        match self.announced {
            Some((since, earlier)) if now.saturating_sub(since) >= notice => {
                self.due = Some(earlier);
                self.announced = Some((now, bound));
            }
            Some(_) => (),
            None => self.announced = Some((now, bound)),
        }
        self.due.map(|due| due.min(bound))
    }
}

impl Sweeper {
    /// A sweeper that has announced nothing yet.
    pub fn new(queue: Arc<SqliteQueue>, clock: Arc<dyn Clock>, retention: Retention) -> Self {
        Self {
            queue,
            clock,
            retention,
            age: Notice::default(),
            count: Notice::default(),
            told: None,
            troubles: troubles(),
        }
    }

    /// Passes again and again until it is told to stop. A queue that fails is told of and asked again.
    pub async fn run(mut self, stop: CancellationToken) {
        let pause = (self.retention.notice / 4).clamp(Duration::from_millis(100), PASS);
        loop {
            match self.pass().await {
                Ok(_) | Err(QueueError::Closed) => (),
                Err(error) => {
                    let now = self.clock.monotonic();
                    QueueTrouble { verb: "look after dead letters", error: &error }.tell(&self.troubles, now);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = stop.cancelled() => return,
            }
        }
    }

    /// One pass; how many letters were dropped.
    pub async fn pass(&mut self) -> Result<u64, QueueError> {
        let kept = self.queue.letters_kept().await?;
        let moment = (self.clock.monotonic(), self.retention.notice);
        let (mut ageing, mut by_age) = (0, None);
        if let Some(age) = self.retention.age {
            let now = self.clock.now();
            let ahead = earlier(now, age.saturating_sub(AHEAD));
            ageing = self.queue.letters_before(ahead).await?;
            by_age = self.age.announce(ahead, moment).map(|due| due.min(earlier(now, age)));
        }
        let (mut crowding, mut by_count) = (0, None);
        if let Some(most) = self.retention.count {
            let near = most - most / 10;
            crowding = kept.saturating_sub(near);
            let announced = self.queue.letter_at_rank(near).await?.unwrap_or(0);
            let beyond = self.queue.letter_at_rank(most).await?.unwrap_or(0);
            by_count = self.count.announce(announced, moment).map(|due| due.min(beyond));
        }
        let may_tell = self.told.is_none_or(|told| moment.0.saturating_sub(told) >= TOLD);
        let is_due = may_tell && ageing + crowding > 0;
        if is_due {
            self.told = Some(moment.0);
        }
        LettersExpiring { kept, ageing, crowding, is_due }.tell();
        let mut dropped = 0;
        for (expired, because) in [
            (by_age.map(Expired::Before), Because::Age),
            (by_count.filter(|upto| *upto > 0).map(Expired::UpTo), Because::Count),
        ] {
            let Some(expired) = expired else { continue };
            let count = self.queue.expire(expired).await?;
            if count > 0 {
                LettersDropped { count, because }.tell();
            }
            dropped += count;
        }
        Ok(dropped)
    }
}

fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_micros(now.as_micros().saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

impl SqliteQueue {
    async fn letters_kept(&self) -> Result<u64, QueueError> {
        self.letters_before(Timestamp::from_micros(i64::MAX)).await
    }

    async fn letters_before(&self, moment: Timestamp) -> Result<u64, QueueError> {
        let count: Result<i64, _> = sqlx::query_scalar("SELECT COUNT(*) FROM dead_letter WHERE died_at < ?1")
            .bind(moment.as_micros())
            .fetch_one(self.readers()?)
            .await;
        let count = self.noted(count.map_err(|error| failed("retention", error)))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The position of the newest letter beyond the `rank` newest; none when there are no more than that.
    async fn letter_at_rank(&self, rank: u64) -> Result<Option<i64>, QueueError> {
        let seq = sqlx::query_scalar("SELECT seq FROM dead_letter ORDER BY seq DESC LIMIT 1 OFFSET ?1")
            .bind(super::rows::to_i64(rank))
            .fetch_optional(self.readers()?)
            .await;
        self.noted(seq.map_err(|error| failed("retention", error)))
    }

    /// Drops what is beyond a bound; how many.
    pub(super) async fn expire(&self, expired: Expired) -> Result<u64, QueueError> {
        self.count(Work::Expire(expired)).await
    }
}

impl Batch<'_> {
    /// One step of dropping.
    pub(super) async fn expire(&mut self, expired: Expired) -> Result<Step, sqlx::Error> {
        let query = match expired {
            Expired::Before(moment) => sqlx::query(
                "DELETE FROM dead_letter WHERE seq IN \
                     (SELECT seq FROM dead_letter WHERE died_at < ?1 ORDER BY died_at LIMIT ?2) RETURNING id, event",
            )
            .bind(moment.as_micros()),
            Expired::UpTo(seq) => sqlx::query(
                "DELETE FROM dead_letter WHERE seq IN \
                     (SELECT seq FROM dead_letter WHERE seq <= ?1 ORDER BY seq LIMIT ?2) RETURNING id, event",
            )
            .bind(seq),
        };
        let rows = query.bind(STEP).fetch_all(&mut *self.conn).await?;
        let (mut ids, mut events) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in &rows {
            ids.push(DeliveryId::from_slice(row.try_get("id")?).map_err(|e| sqlx::Error::Decode(e.into()))?);
            events.push(row.try_get("event")?);
        }
        self.remove_attempts(&ids).await?;
        self.remove_unused_events(&events).await?;
        let count = rows.len() as u64;
        let is_last = super::rows::to_i64(count) < STEP;
        Ok(if is_last { Step::Done(Ok(Answer::Count(count))) } else { Step::More(count) })
    }
}
