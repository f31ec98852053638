//! Life and death of the process: signals, workers, readiness, and the watchdog.
//!
//! **Workers.** Each long-running task is named. One that ends before it was asked to ends the process, with a failing
//! exit code: systemd starts it anew, and nothing was acknowledged that is not safe. A wedged worker is found by its
//! [`Pulse`].
//!
//! **Stopping** is in two phases. The first SIGTERM or SIGINT (or a worker's end) is soft: sources close, nothing new is
//! taken up, running attempts go on. After the drain time, or at a second signal, it is hard: attempts are cut off and
//! parked.
//!
//! **Watchdog.** systemd is told that we live only while every worker with a pulse has beaten of late: a process whose
//! intake, dispatch or queue makes no progress is killed and started anew.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::domain::clock::Clock;

/// A worker's sign of life.
#[derive(Debug, Clone)]
pub struct Pulse {
    name: &'static str,
    clock: Arc<dyn Clock>,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// A pulse that beats now.
    pub fn new(name: &'static str, clock: Arc<dyn Clock>) -> Self {
        let pulse = Self { name, clock, last_ms: Arc::default() };
        pulse.beat();
        pulse
    }

    /// The worker has made progress, or has nothing to do and can.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long ago it beat.
    pub fn silent_for(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Whose pulse it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The tokens of the two phases.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take nothing in and nothing up any more.
    pub soft: CancellationToken,
    /// End now.
    pub hard: CancellationToken,
}

impl Stop {
    /// Turns signals into the two phases, until the process ends.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                };
                if stop.soft.is_cancelled() {
                    tracing::warn!(signal = name, "stopping at once");
                    stop.hard.cancel();
                } else {
                    tracing::info!(signal = name, "stopping; a second signal cuts running attempts off");
                    stop.soft.cancel();
                }
            }
        });
        Ok(())
    }
}

/// The long-running tasks.
#[derive(Debug, Default)]
pub struct Workers {
    set: JoinSet<anyhow::Result<()>>,
    names: std::collections::HashMap<Id, String>,
}

impl Workers {
    /// Starts a worker.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        worker: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.set.spawn(worker);
        self.names.insert(handle.id(), name.into());
    }

    /// Waits for the next worker to end: its name, and how it ended. None when none is left.
    pub async fn next_ended(&mut self) -> Option<(String, anyhow::Result<()>)> {
        let (id, result) = match self.set.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(panicked(error))),
        };
        Some((self.names.remove(&id).unwrap_or_default(), result))
    }

    /// Workers that have not ended.
    pub fn left(&self) -> Vec<&str> {
        self.names.values().map(String::as_str).collect()
    }

    /// Ends those that are left.
    pub fn abort(&mut self) {
        self.set.abort_all();
    }
}

fn panicked(error: JoinError) -> anyhow::Error {
    if error.is_panic() { anyhow::anyhow!("panicked; see the log") } else { anyhow::Error::new(error) }
}

/// Tells systemd something; without systemd, nobody.
pub fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told how we are");
    }
}

/// Feeds systemd's watchdog while all pulses beat; returns when there is no watchdog to feed, or at a hard stop.
pub async fn feed_watchdog(pulses: Vec<Pulse>, stop: Stop) -> anyhow::Result<()> {
    // (A limit of nothing is none, as systemd's own library has it.)
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        stop.hard.cancelled().await;
        return Ok(());
    };
    let mut tick = tokio::time::interval(limit / 4);
    loop {
        tokio::select! {
            _ = tick.tick() => (),
            () = stop.hard.cancelled() => return Ok(()),
        }
        let silent: Vec<&str> =
            pulses.iter().filter(|pulse| pulse.silent_for() > limit).map(Pulse::name).collect();
        // While stopping, workers end one after the other; the drain time bounds it.
        if silent.is_empty() || stop.soft.is_cancelled() {
            tell_systemd(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(?silent, "no progress; the watchdog is not fed, and systemd will start us anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{ManualClock, Timestamp};

    #[test]
    fn a_pulse_that_does_not_beat_falls_silent() {
        let clock = Arc::new(ManualClock::at(Timestamp::default()));
        let pulse = Pulse::new("pump", clock.clone());
        clock.advance(Duration::from_secs(7));
        assert_eq!(pulse.silent_for(), Duration::from_secs(7));
        pulse.beat();
        assert_eq!(pulse.silent_for(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_reported_by_name() {
        let mut workers = Workers::default();
        workers.spawn("wedge", async { panic!("on purpose") });
        let (name, result) = workers.next_ended().await.unwrap();
        assert_eq!(name, "wedge");
        assert!(result.unwrap_err().to_string().contains("panicked"));
        assert!(workers.next_ended().await.is_none());
    }
}
