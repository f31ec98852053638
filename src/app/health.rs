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

use crate::{
    admin::{Health, LISTENERS, Part},
    lifecycle::Pulse,
};

/// A worker that has not beaten for this long does no work.
const SILENT: Duration = Duration::from_secs(30);

/// What a part says of itself, asked when somebody wants to know.
pub(super) type Ask = Box<dyn Fn() -> Part + Send + Sync>;

/// The parts that are asked.
pub(super) struct Parts {
    /// Whether every source was opened.
    pub(super) open: Arc<AtomicBool>,
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
        let open = self.open.load(Ordering::Acquire);
        let detail = if open {
            "open"
        } else {
            "not open yet: the bindings are not known before the relations database has answered"
        };
        let sources = Part { name: "sources".into(), ok: open, detail: detail.into() };
        let asked = self.ready.get().into_iter().flatten().map(|ask| ask());
        std::iter::once(sources).chain(asked).collect()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
