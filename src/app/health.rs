//! How the daemon is: live, ready, and its metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Health, LISTENERS, Part},
    lifecycle::Pulse,
    queue::{Queue, SqliteQueue},
    telemetry::Chain,
};

/// A worker that has not beaten for this long does no work.
const SILENT: Duration = Duration::from_secs(30);

/// What a part says of itself, asked when somebody wants to know.
pub(super) type Ask = Box<dyn Fn() -> Part + Send + Sync>;

/// Whether the queue can be written, as far as its last write tells.
pub(super) fn ask_queue(queue: Arc<SqliteQueue>) -> Ask {
    Box::new(move || {
        let trouble = queue.trouble();
        let detail = match &trouble {
            Some(error) => Chain(error).to_string(),
            None => "the last write was done".to_owned(),
        };
        Part { name: "queue".into(), ok: trouble.is_none(), detail }
    })
}

/// The parts that are asked.
pub(super) struct Parts {
    /// Whether every source was opened.
    pub(super) open: Arc<AtomicBool>,
    /// From when on they are closed again.
    pub(super) stopping: CancellationToken,
    /// The workers.
    pub(super) pulses: Vec<Pulse>,
    /// Parts that must work for events to be taken in.
    pub(super) ready: std::sync::OnceLock<Vec<Ask>>,
    /// Where it listens.
    pub(super) listeners: Vec<SocketAddr>,
    /// The metrics.
    pub(super) metrics: PrometheusHandle,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("pulses", &self.pulses).finish_non_exhaustive()
    }
}

impl Health for Parts {
    fn liveness(&self) -> Vec<Part> {
        let part = |pulse: &Pulse| {
            let silent = pulse.silent_for();
            Part {
                name: pulse.name().to_owned(),
                ok: silent < SILENT,
                detail: format!("last progress {} s ago", silent.as_secs()),
            }
        };
        let addresses: Vec<_> = self.listeners.iter().map(ToString::to_string).collect();
        let listeners = Part { name: LISTENERS.to_owned(), ok: true, detail: addresses.join(" ") };
        self.pulses.iter().map(part).chain([listeners]).collect()
    }

    fn readiness(&self) -> Vec<Part> {
        let (ok, detail) = match (self.stopping.is_cancelled(), self.open.load(Ordering::Acquire)) {
            (true, _) => {
                (false, "stopping: nothing is taken in any more, and what runs may end within `drain_s`")
            }
            (false, true) => (true, "open"),
            (false, false) => {
                (false, "not open yet: the bindings are not known before the relations database has answered")
            }
        };
        let sources = Part { name: "sources".into(), ok, detail: detail.into() };
        let asked = self.ready.get().into_iter().flatten().map(|ask| ask());
        std::iter::once(sources).chain(asked).collect()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
