//! Keeps the skew of the clock beside the moments that rest on it.
//!
//! What is due is on disk as a moment of steady time (`domain::steady`). So that a restart finds the same steady time, the
//! skew is written down soon after it changed. A crash before that is a jump that nobody saw: what was to wait longer is
//! due at once; what is due later than any wait can last is brought forward by the next sweep ([`Queue::bring_forward`]).
//!
//! A queue with nothing parked has nothing that rests on the skew: a start from it begins with the wall clock as it is.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Queue, QueueError,
    batch::Batch,
    command::{Answer, Step},
};
use crate::{
    domain::{clock::Clock, steady::SteadyClock},
    telemetry::{
        Metric, Seldom,
        happening::{QueueTrouble, troubles},
    },
};

/// How often it looks at the clock.
const LOOK: Duration = Duration::from_millis(500);

/// How far the skew may be from what is written down.
const KEPT: u64 = 10_000_000;

/// Watches the clock and writes its skew down. Run it in a task that is watched.
#[derive(Debug)]
pub struct Timekeeper {
    queue: Arc<dyn Queue>,
    clock: Arc<SteadyClock>,
    kept: i64,
    troubles: Seldom<&'static str>,
}

impl Timekeeper {
    /// The steady clock of this queue, over the system's `clock`; and who keeps it.
    pub async fn wind(
        queue: Arc<dyn Queue>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<SteadyClock>, Self), QueueError> {
        let kept = queue.skew().await?;
        let skew = if queue.backlog().await?.is_empty() { 0 } else { kept };
        if skew != 0 {
            tracing::info!(
                skew_s = skew / 1_000_000,
                "the wall clock was set while deliveries waited; they wait by a steady time"
            );
        }
        let clock = Arc::new(SteadyClock::new(clock, skew));
        Ok((Arc::clone(&clock), Self { queue, clock, kept, troubles: troubles() }))
    }

    /// Looks again and again until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.keep().await {
                Ok(()) | Err(QueueError::Closed) => (),
                Err(error) => {
                    let now = self.clock.monotonic();
                    QueueTrouble { verb: "keep the skew of the clock", error: &error }
                        .tell(&self.troubles, now);
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => (),
            }
        }
    }

    /// Looks once.
    pub(super) async fn keep(&mut self) -> Result<(), QueueError> {
        let skew = self.clock.skew();
        #[expect(clippy::cast_precision_loss, reason = "a gauge of seconds, for people")]
        Metric::ClockSkew.set(skew as f64 / 1e6, &[]);
        if let Some(jump) = self.clock.take_jump() {
            let jump_s = jump / 1_000_000;
            tracing::warn!(jump_s, "the wall clock jumped; what waits and ages goes on by a steady time");
        }
        if skew.abs_diff(self.kept) > KEPT || (skew == 0 && self.kept != 0) {
            self.queue.keep_skew(skew).await?;
            self.kept = skew;
        }
        Ok(())
    }
}

impl Batch<'_> {
    pub(super) async fn keep_skew(&mut self, micros: i64) -> Result<Step, sqlx::Error> {
        sqlx::query("UPDATE skew SET micros = ?1 WHERE one = 1")
            .bind(micros)
            .execute(&mut *self.conn)
            .await?;
        Ok(Step::Done(Ok(Answer::Nothing)))
    }
}
