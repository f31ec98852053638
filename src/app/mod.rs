//! Composition root: the only place that knows the concrete parts.
//!
//! **Start.** Lock the state directory, open queue and relations, bring the mirror up to date, build the catalog, start
//! dispatch and the reconciler, serve the admin API, and only then open the sources: an event that comes in finds its
//! bindings known. Whatever is wrong with the config or the disk is found before the first event.
//!
//! **Stop.** Sources first; intake ends when they have; dispatch takes nothing up any more and lets running attempts end,
//! at most for the drain time; then they are cut off and parked; the queue writes what it was given and closes; the
//! rest goes. Whoever ends before being asked to brings everything down, with a failing exit code.

mod doors;
mod foundation;
mod front;
mod health;
mod ports;
mod probes;
mod results;
mod spool;
mod workers;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sd_notify::NotifyState;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use probes::probes;
pub use spool::{Exported, Imported, Moved, Unknown, Verified, export_queue, import_queue, verify_queue};

use self::{foundation::Foundation, front::Front, ports::CatalogPort};
use crate::{
    binding,
    config::Config,
    dispatch::{self, Dispatcher, callback::Callbacks},
    domain::{clock::Clock, delivery::DeadReason, entropy::Entropy},
    lifecycle::{Stop, Workers, feed_watchdog, tell_systemd},
    telemetry::{Chain, Metric, Recent, logging},
};

/// Recent outcomes that are remembered.
const RECENT: usize = 5_000;

/// How long the workers may take to end after everything was stopped.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop. An error when it ended otherwise.
pub async fn run(config: Config) -> anyhow::Result<()> {
    logging::start(&config.log).context("log.level")?;
    let stop = Stop::default();
    stop.on_signals().context("signals cannot be received")?;
    let metrics = install_metrics(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(crate::domain::clock::SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(crate::domain::entropy::SystemEntropy);
    let foundation = Foundation::lay(&config, Arc::clone(&clock), Arc::clone(&entropy)).await?;
    let daemon = Daemon::build(config, foundation, stop, metrics).await?;
    daemon.live().await
}

/// Brings every schema up to this version's, and ends.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    foundation::migrate(&config).await
}

fn install_metrics(config: &Config) -> anyhow::Result<PrometheusHandle> {
    let seconds =
        [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let handle = PrometheusBuilder::new()
        .set_buckets(&seconds)
        .context("buckets")?
        .install_recorder()
        .context("metrics cannot be recorded")?;
    for metric in Metric::ALL {
        metric.register();
    }
    // What is alerted on begins at 0, so that its first increase is one.
    for metric in [Metric::QueueTrouble, Metric::QueueCorrupt, Metric::QuarantineEvicted] {
        metric.begin(&[]);
    }
    for source in config.sources.keys() {
        for metric in [Metric::SourceLost, Metric::Quarantined] {
            metric.begin(&[("source", source.clone())]);
        }
    }
    for platform in config.platforms.keys() {
        for reason in DeadReason::ALL {
            let reason = reason.as_str().to_owned();
            Metric::DeadLetters.begin(&[("platform", platform.clone()), ("reason", reason)]);
        }
    }
    Ok(handle)
}

/// Everything that runs.
struct Daemon {
    config: Config,
    foundation: Foundation,
    dispatcher: Dispatcher,
    front: Front,
    /// What goes on until sources and dispatch have ended.
    back: Workers,
    back_stop: CancellationToken,
    stop: Stop,
    open: Arc<AtomicBool>,
}

impl Daemon {
    async fn build(
        config: Config,
        mut foundation: Foundation,
        stop: Stop,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let (mut back, back_stop) = (Workers::default(), CancellationToken::new());
        let recent = Arc::new(Recent::new(RECENT));
        let catalog = CatalogPort(Arc::clone(&foundation.catalog));
        let base_url = config
            .callbacks
            .as_ref()
            .map_or_else(|| config.admin.local_url(), |callbacks| callbacks.public_url.clone());
        let drivers = foundation::drivers(&config)?;
        let (dispatcher, suspected) = Dispatcher::new(dispatch::Parts {
            queue: foundation.queue.clone(),
            bindings: Arc::new(catalog.clone()),
            drivers: drivers
                .iter()
                .map(|(name, driver)| (name.as_str().into(), Arc::clone(driver)))
                .collect(),
            callbacks: Some(Callbacks::new(&base_url, &config.node.name)),
            max_concurrency: config.dispatch.max_concurrency,
            recent: Arc::clone(&recent),
            clock: Arc::clone(&foundation.clock),
            entropy: Arc::clone(&foundation.entropy),
        });
        if let Err(error) = dispatcher.restore().await {
            tracing::error!(error = %Chain(&error), "which functions were away before the restart cannot be read");
        }
        let (reconciler, handle) = binding::Reconciler::new(
            binding::Parts {
                relations: Arc::clone(&foundation.authority),
                drivers,
                storages: foundation::storages(&config)?,
                deliveries: Arc::new(dispatcher.clone()),
                clock: Arc::clone(&foundation.clock),
                entropy: Arc::clone(&foundation.entropy),
            },
            binding::Settings {
                callback_url: Some(base_url),
                inspect_every: config.bindings.inspect_every(),
                ..binding::Settings::new(&config.node.name)
            },
        );
        let dispatching = (handle.clone(), dispatcher.clone(), Arc::clone(&foundation.clock));
        workers::suspicions(&mut back, suspected, dispatching, back_stop.clone());
        workers::upkeep(&mut back, metrics.clone(), back_stop.clone());
        workers::retention(&mut back, (&config.dead_letters, &foundation), back_stop.clone());

        let pulses = workers::pulses(&foundation.clock);
        workers::pump(&mut back, &foundation, dispatcher.clone(), (pulses[0].clone(), pulses[1].clone()));
        workers::probe(&mut back, foundation.queue.clone(), pulses[2].clone(), back_stop.clone());
        let reconciling = back_stop.clone();
        back.spawn("the reconciler", async move {
            reconciler.run(reconciling).await;
            Ok(())
        });
        foundation.spawn(&mut back, &handle, &dispatcher, &back_stop);

        let mut front =
            Front::build(&config, &foundation, &dispatcher, Arc::clone(&recent), pulses[1].clone()).await?;
        let open = Arc::new(AtomicBool::new(false));
        let mut asks = front.asks();
        asks.push(health::ask_queue(Arc::clone(&foundation.queue)));
        let health = Arc::new(health::Parts {
            open: Arc::clone(&open),
            stopping: stop.soft.clone(),
            pulses: pulses.clone(),
            ready: OnceLock::from(asks),
            listeners: config.listeners().into_iter().map(|(_, address)| address).collect(),
            metrics,
        });
        let reintake = front.reintake(Arc::clone(&open)).context("the sources are open already")?;
        let state = doors::state(&config, &foundation, &dispatcher, (handle, reintake), (health, recent));
        doors::open(&mut back, &config, state, &back_stop).await?;
        let watched = stop.clone();
        back.spawn("the watchdog", feed_watchdog(pulses, watched));
        Ok(Self { config, foundation, dispatcher, front, back, back_stop, stop, open })
    }

    async fn live(mut self) -> anyhow::Result<()> {
        let failed = match self.open_sources().await {
            Some(failed) => Some(failed),
            None => self.until_stopped().await,
        };
        let hurried = self.shut_down().await;
        match failed {
            Some(error) => Err(error),
            None if hurried => {
                match self.dispatcher.left_behind() {
                    0 => tracing::warn!("stopped; what was running is parked and due at the next start"),
                    left => tracing::error!(
                        left,
                        "stopped; this many deliveries could not be parked: their sources bring them again, except those \
                         that never redeliver, whose deliveries are lost"
                    ),
                }
                Ok(())
            }
            None => {
                tracing::info!("stopped; everything that ran has ended");
                Ok(())
            }
        }
    }

    /// Opens the sources once the bindings are known; an error when the daemon has to end instead.
    async fn open_sources(&mut self) -> Option<anyhow::Error> {
        tokio::select! {
            known = self.foundation.bindings_known() => {
                if let Err(error) = known {
                    // Whoever keeps them has ended; how, its own end tells.
                    let ended = timeout(GRACE, self.back.next_ended()).await.ok().flatten();
                    return Some(ended.map_or(error, ended_early));
                }
            }
            () = self.stop.soft.cancelled() => return None,
            ended = self.back.next_ended() => return ended.map(ended_early),
        }
        self.front.open();
        self.open.store(true, Ordering::Release);
        tracing::info!(
            node = %self.config.node.name,
            sources = self.config.sources.len(),
            revision = self.foundation.catalog.revision(),
            admin = %self.config.admin.listen,
            "ready"
        );
        tell_systemd(&[NotifyState::Ready]);
        None
    }

    async fn until_stopped(&mut self) -> Option<anyhow::Error> {
        let ended = tokio::select! {
            () = self.stop.soft.cancelled() => return None,
            ended = self.back.next_ended() => ended,
            ended = self.front.workers.next_ended() => ended,
        };
        ended.map(ended_early)
    }

    /// Stops everything in order; whether attempts had to be cut off.
    async fn shut_down(&mut self) -> bool {
        tell_systemd(&[NotifyState::Stopping]);
        self.stop.soft.cancel();
        self.front.close();
        self.dispatcher.stop_soft();
        let drain = Duration::from_secs(self.config.dispatch.drain_s);
        let calm = async {
            self.front.ended().await;
            self.dispatcher.drained().await;
        };
        let hurried = tokio::select! {
            () = calm => false,
            () = tokio::time::sleep(drain) => true,
            () = self.stop.hard.cancelled() => true,
        };
        if hurried {
            tracing::warn!(
                running = self.dispatcher.running_count(),
                "cutting running attempts off, and requests that are still being sent"
            );
            self.dispatcher.stop_hard();
            // What the sources have taken in is parked now, and the answers go out; what is left is not acknowledged.
            let parked = async {
                self.front.ended().await;
                self.dispatcher.drained().await;
            };
            let _still_running = timeout(GRACE, parked).await;
            self.front.workers.abort();
        }
        self.foundation.queue.close().await;
        self.back_stop.cancel();
        self.stop.hard.cancel();
        let ended = timeout(GRACE, async { while self.back.next_ended().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(workers = ?self.back.left(), "did not end in time");
            self.back.abort();
        }
        hurried
    }
}

fn ended_early((name, result): (String, anyhow::Result<()>)) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{name} ended of its own accord"),
        Err(error) => error.context(format!("{name} ended")),
    }
}
