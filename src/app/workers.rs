//! The small workers that join the parts, and those that show that they live.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::bail;
use futures_util::{StreamExt, stream::FuturesUnordered};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::foundation::Foundation;
use crate::{
    binding,
    config::dead_letters::DeadLettersConfig,
    dispatch::Dispatcher,
    domain::{clock::Clock, ids::BindingId},
    lifecycle::{Pulse, Workers},
    queue::{Queue, QueueError, Retention, SqliteQueue, Sweeper},
    telemetry::{Chain, Metric},
};

/// How often a worker that waits for its beginning shows that it lives.
const WAITING: Duration = Duration::from_secs(1);

/// How often what was observed is worked into the histograms: until then, and until somebody asks for the metrics, each
/// observation is kept by itself.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often the queue is asked to show that it writes.
const PROBE: Duration = Duration::from_secs(5);

/// Pulses of the pump, of intake, and of the queue.
pub(super) fn pulses(clock: &Arc<dyn Clock>) -> Vec<Pulse> {
    ["dispatch", "intake", "queue"].map(|name| Pulse::new(name, Arc::clone(clock))).to_vec()
}

/// Runs the pump once the bindings are known: one that is not would be taken for gone, and its deliveries for dead. Until
/// then neither pump nor intake can work, which is no lack of progress.
pub(super) fn pump(
    back: &mut Workers,
    foundation: &Foundation,
    dispatcher: Dispatcher,
    beats: (Pulse, Pulse),
) {
    let mirror = foundation.mirror.clone();
    back.spawn("the pump of parked deliveries", async move {
        loop {
            tokio::select! {
                ready = mirror.ready() => {
                    ready?;
                    break;
                }
                () = tokio::time::sleep(WAITING) => {
                    beats.0.beat();
                    beats.1.beat();
                }
            }
        }
        let handlers = dispatcher.clone();
        let handing_over = async {
            handlers.hand_over_letters().await;
            Ok(())
        };
        // A pump that cannot begin ends both.
        tokio::try_join!(dispatcher.run(|| beats.0.beat()), handing_over)?;
        Ok(())
    });
}

/// Has the reconciler inspect what dispatch grows suspicious of, and reports. Bindings are inspected side by side, each
/// once at a time: what is suspected again meanwhile is suspected once more by its next attempt.
pub(super) fn suspicions(
    back: &mut Workers,
    mut suspected: mpsc::Receiver<BindingId>,
    (handle, dispatcher, clock): (binding::Handle, Dispatcher, Arc<dyn Clock>),
    stop: CancellationToken,
) {
    back.spawn("inspections on suspicion", async move {
        let (mut asked, mut inspections) = (HashSet::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                Some(id) = suspected.recv() => {
                    if asked.insert(id) {
                        let (handle, began) = (&handle, clock.now());
                        inspections.push(async move { (id, began, handle.inspect_now(id).await) });
                    }
                }
                Some((id, began, verdict)) = inspections.next() => {
                    asked.remove(&id);
                    if let binding::InspectionVerdict::InStep { revision } = verdict {
                        dispatcher.inspected(id, revision, began);
                    }
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
}

/// Drops dead letters as the config says.
pub(super) fn retention(
    back: &mut Workers,
    (config, foundation): (&DeadLettersConfig, &Foundation),
    stop: CancellationToken,
) {
    let retention = Retention { age: config.retention(), count: config.most(), notice: config.notice() };
    let sweeper = Sweeper::new(Arc::clone(&foundation.queue), Arc::clone(&foundation.clock), retention);
    back.spawn("the retention of dead letters", async move {
        sweeper.run(stop).await;
        Ok(())
    });
}

/// Keeps the histograms' memory bounded where nobody asks for the metrics.
pub(super) fn upkeep(back: &mut Workers, metrics: PrometheusHandle, stop: CancellationToken) {
    back.spawn("the upkeep of the metrics", async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(UPKEEP) => metrics.run_upkeep(),
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
}

/// Shows that the queue writes, and how full it is.
pub(super) fn probe(back: &mut Workers, queue: Arc<SqliteQueue>, pulse: Pulse, stop: CancellationToken) {
    back.spawn("the queue's probe", async move {
        loop {
            match queue.probe().await {
                Ok(()) => (),
                Err(QueueError::Closed) if !stop.is_cancelled() => {
                    bail!("the queue's writer ended")
                }
                Err(error) => tracing::error!(error = %Chain(&error), "the queue cannot write"),
            }
            Metric::QueueWritable.set(if queue.trouble().is_none() { 1.0 } else { 0.0 }, &[]);
            if let Ok((used, bound)) = queue.usage().await {
                #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes, for people")]
                let (used, bound) = (used as f64, bound as f64);
                Metric::QueueBytes.set(used, &[]);
                Metric::QueueMaxBytes.set(bound, &[]);
            }
            // An answer is progress, whatever it says: a restart mends no disk.
            pulse.beat();
            tokio::select! {
                () = tokio::time::sleep(PROBE) => (),
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
}
