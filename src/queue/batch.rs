//! One batch is one transaction: this applies its requests in the order in which they came.
//!
//! Neighbours of the same kind are done together where that saves statements (parks and deliveries that were
//! delivered). Lists go into a statement as one JSON text, so that all SQL is static whatever their length.

use sqlx::SqliteConnection;

use super::{
    books::Books,
    command::{Answer, Command, Step, Work},
    open::Limits,
    quarantine::Evicted,
};

/// The transaction under way.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) conn: &'a mut SqliteConnection,
    pub(super) books: &'a mut Books,
    pub(super) limits: Limits,
    /// Bytes of the file in use, with what this batch has added so far.
    pub(super) used: u64,
    /// What made room in the quarantine.
    pub(super) evicted: Evicted,
}

impl Batch<'_> {
    /// Applies every request; one step for each. An error is that of the transaction: nothing of it counts.
    pub(super) async fn apply(&mut self, commands: &[Command]) -> Result<Vec<Step>, sqlx::Error> {
        let mut steps = Vec::with_capacity(commands.len());
        let mut rest = commands;
        while let Some(first) = rest.first() {
            let run = run_length(rest);
            match &first.work {
                Work::Park(_) => steps.append(&mut self.park_all(&rest[..run]).await?),
                Work::Delivered(_) => steps.append(&mut self.delivered_all(&rest[..run]).await?),
                other => steps.push(self.one(other).await?),
            }
            rest = &rest[run..];
        }
        Ok(steps)
    }

    async fn one(&mut self, work: &Work) -> Result<Step, sqlx::Error> {
        match work {
            Work::Retry(retry) => self.retry(retry).await,
            Work::Await(wait) => self.wait_for_result(*wait).await,
            Work::CameLate(id, attempt) => self.came_late(*id, attempt).await,
            Work::Bury(letter) => self.bury(letter).await,
            Work::Quarantine(item) => self.quarantine(item).await,
            Work::Hold { binding, held, now } => self.hold(*binding, *held, *now).await,
            Work::Dispose { binding, disposal, running, now } => {
                self.dispose(*binding, *disposal, running, *now).await
            }
            Work::Replay { id, now } => self.replay(*id, *now).await,
            Work::Rebind { id, binding } => self.rebind(*id, *binding).await,
            Work::Discard(id) => self.discard(*id).await,
            Work::KeepFunction { function, state } => {
                self.keep_function_state(function, state.as_ref()).await
            }
            Work::Probe { write } => self.probe(*write).await,
            Work::Requarantine { id, reason, now } => self.requarantine(*id, reason, *now).await,
            Work::Unquarantine(id) => self.unquarantine(*id).await,
            Work::Expire(expired) => self.expire(*expired).await,
            Work::HandOver(letters, upto) => self.hand_over(letters, *upto).await,
            Work::BringForward { function, latest, now } => self.bring_forward(function, *latest, *now).await,
            Work::KeepSkew(micros) => self.keep_skew(*micros).await,
            Work::Reject { table, seq, problem } => self.reject(*table, *seq, problem).await,
            // Parks and deliveries come in runs, and closing is the writer's own affair.
            Work::Park(_) | Work::Delivered(_) | Work::Close => Ok(Step::Done(Ok(Answer::Nothing))),
        }
    }

    /// `user_version` is ours and means nothing; setting it writes a page.
    async fn probe(&mut self, write: bool) -> Result<Step, sqlx::Error> {
        if write {
            sqlx::query("PRAGMA user_version = 1").execute(&mut *self.conn).await?;
        }
        Ok(Step::was(write))
    }

    /// Whether this many bytes more are too many for a file bounded at `limit`.
    pub(super) fn beyond(&self, bytes: u64, limit: u64) -> bool {
        self.used.saturating_add(bytes) > limit
    }
}

/// How many requests at the front are done together.
fn run_length(commands: &[Command]) -> usize {
    let same = |kind: fn(&Work) -> bool| commands.iter().take_while(|command| kind(&command.work)).count();
    match commands.first().map(|command| &command.work) {
        Some(Work::Park(_)) => same(|work| matches!(work, Work::Park(_))),
        Some(Work::Delivered(_)) => same(|work| matches!(work, Work::Delivered(_))),
        _ => 1,
    }
}

/// Bytes of the file in use: pages that are not free.
pub(super) async fn used_bytes(conn: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let bytes: i64 = sqlx::query_scalar(
        "SELECT (p.page_count - f.freelist_count) * s.page_size \
         FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s",
    )
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
